"""Every family takes numbers, categories, booleans, dates and missing values, and its scorer answers the same."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from skops import io as skops_io

from tableloop.model.candidates import BUILDERS, Setting, build
from tableloop.model.conformal import ConformalRegressor
from tableloop.model.onnx_export import compile_model
from tableloop.model.onnx_scorer import Scorer
from tableloop.model.trusted_types import TRUSTED_TYPES

COLUMNS = ["size", "width", "north", "east", "open", "kind", "shop", "built", "sold"]
PLACE = ("north", "east")
LEVELS = {"kind": ["red", "green", "blue"], "shop": [f"shop {number}" for number in range(400)]}
KINDS: dict[str, Any] = {
    "open": {"type": "boolean"},
    **{name: {"type": "string", "categories": levels} for name, levels in LEVELS.items()},
    "built": {"type": "date"},
    "sold": {"type": "datetime"},
}
NUMBERS = COLUMNS[:4]
PARAMS: dict[str, Any] = {
    "linear": {},
    "decision_tree": {"max_depth": 6},
    "random_forest": {"n_estimators": 5, "min_samples_leaf": 3},
    "gradient_boosting": {"n_estimators": 20},
    "hist_gradient_boosting": {"max_iter": 30, "features": {"area": {"product": ["size", "width"]}}},
    "lightgbm": {"num_iterations": 30, "features": {"area": {"product": ["size", "width"]}}},
    "spatial": {
        "budget": "one", "budgets": {"one": [{"trees": {"max_iter": 20}}]}, "trees": {"max_bins": 63},
        "features": {"near": {"distance": 1}, "around": {"mean": 5, "around": "width"}},
    },
}  # fmt: skip


def town(rows: int, seed: int, *, gaps: bool = True) -> tuple[pd.DataFrame, np.ndarray]:
    """Return rows as people write them, and values that depend on most columns; many of them are below zero."""
    random = np.random.default_rng(seed)
    kind, shop = random.integers(0, 3, rows), np.minimum(random.exponential(60, rows), 399).astype(int)
    built, sold = random.integers(0, 9000, rows), random.integers(0, 24 * 900, rows)
    frame = pd.DataFrame(
        {
            "size": random.normal(size=rows),
            "width": random.uniform(1, 3, rows),
            "north": random.uniform(50, 51, rows),
            "east": random.uniform(5, 6, rows),
            "open": random.random(rows) < 0.5,
            "kind": np.array(LEVELS["kind"])[kind],
            "shop": np.array(LEVELS["shop"])[shop],
            "built": (np.datetime64("1990-01-01") + built).astype(str),
            "sold": (np.datetime64("2020-01-01T00:00:00") + sold * np.timedelta64(3600, "s")).astype(str),
        }
    )
    y = frame["size"] + kind + np.sin(shop) + np.sin(sold % 24) + built % 7 / 5 + 2 * np.sin(5 * frame["north"])
    if gaps:
        frame = frame.astype(object)
        for name in COLUMNS:
            if name not in PLACE:
                frame.loc[random.random(rows) < 0.05, name] = None
    return frame, 1000 * (y.to_numpy() - 3)


def fitted(name: str, setting: Setting, train: Any, y: np.ndarray) -> ConformalRegressor:
    model = ConformalRegressor(build(name, PARAMS[name], setting), list(setting.columns), kinds=setting.kinds)
    return model.fit(train[: len(y) * 2 // 3], y[: len(y) * 2 // 3]).calibrate(
        train[len(y) * 2 // 3 :], y[len(y) * 2 // 3 :]
    )


def difference(model: ConformalRegressor, rows: np.ndarray) -> float:
    scorer = Scorer(*compile_model(model, rows[:5]))
    return scorer.difference(rows, np.stack(model.predict_interval(rows), axis=1))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_table_of_every_type_with_gaps(name: str) -> None:
    train, y = town(1200, 0)
    model = fitted(name, Setting(COLUMNS, PLACE, {}, 0, KINDS, gaps=True), train, y)
    asked, actual = town(300, 1)
    asked.loc[0, ["kind", "shop"]] = ["violet", "shop of nobody"]
    assert np.sqrt(np.mean((model.predict(asked) - actual) ** 2)) < 0.9 * actual.std()
    assert difference(model, model._coded(asked)) < 1e-6
    dumped = skops_io.dumps(model)
    loaded = skops_io.loads(dumped, trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.predict_interval(asked), model.predict_interval(asked))


@pytest.mark.parametrize("name", BUILDERS)
def test_what_was_never_missing_in_training(name: str) -> None:
    train, y = town(900, 0, gaps=False)
    model = fitted(name, Setting(COLUMNS, PLACE, {}, 0, KINDS, gaps=True), train, y)
    assert difference(model, model._coded(town(200, 1)[0])) < 1e-6


@pytest.mark.parametrize("name", BUILDERS)
def test_numbers_alone(name: str) -> None:
    train, y = town(900, 0, gaps=False)
    model = fitted(name, Setting(NUMBERS, PLACE, {}, 0), train, y)
    rows = model._coded(town(200, 1, gaps=False)[0])
    assert difference(model, rows) < 1e-6
    with pytest.raises(ValueError, match="NaN"):  # a table without gaps has none
        build("linear", {}, Setting(NUMBERS, PLACE, {}, 0)).fit(rows, np.arange(200)).predict(np.full((1, 4), np.nan))


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("target", [np.zeros(90), np.full(90, -7.5), np.arange(90.0) * 1e-9])
def test_targets_that_say_nothing_or_little(name: str, target: np.ndarray) -> None:
    train, _ = town(90, 0)
    model = fitted(name, Setting(COLUMNS, PLACE, {}, 0, KINDS, gaps=True), train, target)
    values, low, high = model.predict_interval(train)
    assert np.isfinite([values, low, high]).all()
    assert (low <= high).all()
    assert difference(model, model._coded(train)) < 1e-6


def test_one_row_of_twenty_columns_takes_little_time() -> None:
    train, y = town(3000, 0)
    more = {f"number{number}": np.random.default_rng(number).normal(size=3000) for number in range(11)}
    train = train.assign(**more)
    setting = Setting(train.columns.tolist(), None, {}, 0, KINDS, gaps=True)
    estimator = build("hist_gradient_boosting", {"max_iter": 300}, setting)
    model = ConformalRegressor(estimator, train.columns.tolist(), kinds=KINDS).fit(train, y).calibrate(train, y)
    rows = model._coded(train)[:300, None]
    scorer = Scorer(*compile_model(model, rows[:5, 0]))
    seconds = []
    for row in rows:
        start = time.perf_counter()
        scorer.predict(row)
        seconds.append(time.perf_counter() - start)
    assert np.quantile(seconds, 0.1) < 1e-3  # 0.2 ms on an idle machine
