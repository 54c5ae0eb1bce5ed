"""The spatial model with the constants of params.yaml on the real table: how good, how sure, how far."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from pipeline.fit_kernel import written
from pipeline.fitting import fit_candidate, new_model, setting_of
from pipeline.preprocess import split
from tableloop.evaluation.extrapolation import across_line, by_distance
from tableloop.model.conformal import ConformalRegressor, as_matrix
from tableloop.model.kernel_search import START, fit_kernel, leave_one_out_error, starting_kernel
from tableloop.table import load_table

ROOT = Path(__file__).parents[2]
TABLE = load_table(ROOT / "data")
NAMES, TARGET = TABLE.feature_names, TABLE.target_name


class Shipped(NamedTuple):
    model: ConformalRegressor
    X: np.ndarray
    y: np.ndarray


@pytest.fixture(scope="module")
def params() -> Any:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(ROOT / "data/raw/california_housing.csv")


@pytest.fixture(scope="module")
def shipped(params: dict[str, Any], table: pd.DataFrame) -> Shipped:
    fractions = params["preprocess"]
    parts = split(table, NAMES, fractions["test_fraction"], fractions["validation_fraction"])
    with threadpool_limits(1):
        model = fit_candidate("spatial", params["train"], TABLE, parts)
    return Shipped(model, as_matrix(parts["test"], NAMES), parts["test"][TARGET].to_numpy())


def test_the_intervals_of_the_test_part_hold_what_they_promise(shipped: Shipped) -> None:
    values, low, high = shipped.model.predict_interval(shipped.X)
    inside = (low <= shipped.y) & (shipped.y <= high)
    assert 0.88 <= inside.mean() <= 0.92
    assert (high - low).mean() <= 0.92
    for quarter in np.array_split(np.argsort(values), 4):
        assert inside[quarter].mean() > 0.83


def test_half_the_error_of_a_linear_model_on_the_test_part(shipped: Shipped) -> None:
    assert root_mean_squared_error(shipped.y, shipped.model.predict(shipped.X)) < 0.38


def test_the_published_protocol(params: dict[str, Any], table: pd.DataFrame) -> None:
    """Seed 0 is the published test set; its best single model has 0.3822 there."""
    X, y = as_matrix(table, NAMES), table[TARGET].to_numpy()
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    with threadpool_limits(1):
        model = new_model("spatial", params["train"], TABLE).estimator.fit(X, y)
        assert root_mean_squared_error(y_test, model.predict(X_test)) < 0.3822


def test_far_from_all_training_places_the_error_is_larger(shipped: Shipped, params: dict[str, Any]) -> None:
    far_km = params["train"]["limits"]["far_km"]
    errors = np.abs(shipped.model.predict(shipped.X) / shipped.y - 1)
    kilometres = shipped.model.nearest_training_km(shipped.X)
    assert kilometres is not None
    assert errors[kilometres > far_km].mean() > 1.5 * errors[kilometres <= far_km].mean()
    assert (kilometres > far_km).mean() < 0.06


def test_rows_are_grouped_by_distance() -> None:
    kilometres, actual, predicted = np.array([[0.0, 0.4, 4.0], [4.0, 8.0, 2.0], [1.0, 4.0, 3.0]])
    assert by_distance(kilometres, actual, predicted, np.array([True, False, True]), [0.0, 0.5, 3.0, 5.0]) == [
        {"from_km": 0.0, "rows": 2, "rmse": round(12.5**0.5, 4), "relative_error": 0.625, "coverage": 0.5},
        {"from_km": 3.0, "rows": 1, "rmse": 1.0, "relative_error": 0.5, "coverage": 1.0},
    ]


def test_across_a_line_it_is_worse_than_a_linear_model(params: dict[str, Any], table: pd.DataFrame) -> None:
    sample = table.sample(3000, random_state=0)
    X, y = as_matrix(sample, NAMES), sample[TARGET].to_numpy()
    estimator = new_model("spatial", params["train"], TABLE).estimator
    estimator.set_params(regress__regressor__max_iter=30)
    linear = new_model("linear", params["train"], TABLE).estimator
    across = across_line(estimator, X, y, sample["Latitude"].to_numpy() > 36, 36, linear=linear)
    assert across["south_from_north_rmse"] > across["south_from_north_linear_rmse"]


def test_the_kernel_is_found_again_and_better_than_where_the_search_began(
    params: dict[str, Any], table: pd.DataFrame
) -> None:
    sample = table.sample(500, random_state=0)
    X, y = as_matrix(sample, NAMES), sample[TARGET].to_numpy()
    setting = setting_of(params["train"], TABLE)
    found = fit_kernel(X, y, setting, evaluations=40)
    assert found == fit_kernel(X, y, setting, evaluations=40)
    start = starting_kernel(setting.kriging["kernel"])
    assert leave_one_out_error(found, X, y, setting) < leave_one_out_error(start, X, y, setting)
    assert 0 < found["place_share"] < 1
    assert {name: term | {"length": 0} for name, term in found["inputs"].items()} == {
        name: term | {"length": 0} for name, term in start["inputs"].items()
    }


def test_new_constants_leave_the_rest_of_the_parameters_alone(params: dict[str, Any]) -> None:
    before = (ROOT / "params.yaml").read_text()
    inputs = params["train"]["kriging"]["kernel"]["inputs"]
    kernel: dict[str, Any] = {name: 0.5 + number for number, name in enumerate(START)}
    kernel["inputs"] = {name: term | {"length": 7.5 + i} for i, (name, term) in enumerate(inputs.items())}
    after = yaml.safe_load(written(before, kernel))
    assert after["train"]["kriging"].pop("kernel") == kernel
    expected = yaml.safe_load(before)
    del expected["train"]["kriging"]["kernel"]
    assert after == expected
    assert written(before, params["train"]["kriging"]["kernel"]) == before
    with pytest.raises(ValueError, match="must hold a line like '      noise"):
        written(before.replace("      noise:", "      noises:"), kernel)
