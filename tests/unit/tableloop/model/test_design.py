"""The design matrix: what stands for categories, dates and missing values, in training and in serving."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tableloop.model.coding import Coding
from tableloop.model.design import MOST_INDICATED, PRIOR_ROWS, date_parts
from tableloop.model.row_features import RowFeatures

COLUMNS = ["size", "kind", "shop", "sold", "open"]
SHOPS = [f"shop {number}" for number in range(MOST_INDICATED + 3)]
KINDS: dict[str, Any] = {
    "kind": {"type": "string", "categories": ["red", "blue"]},
    "shop": {"type": "string", "categories": SHOPS},
    "sold": {"type": "datetime"},
    "open": {"type": "boolean"},
}
NAN = float("nan")


def rows(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    shop = random.integers(0, len(SHOPS), count)
    X = np.column_stack(
        [random.normal(size=count), random.integers(0, 2, count), shop, random.uniform(0, 900, count), shop % 2]
    )
    X[::7, 0] = X[::11, 2] = NAN
    return X, shop + random.normal(0, 0.1, count)


def features(**params: Any) -> RowFeatures:
    return RowFeatures(COLUMNS, {}, kinds=KINDS, **params)


def named(made: RowFeatures, X: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(made.transform(X), columns=made.get_feature_names_out())


def test_the_parts_of_a_date() -> None:
    moments = ["1969-12-31T23:00:00", "2013-05-06T13:45:00", "2024-02-29T00:00:00", "2024-12-31T23:59:59", None]
    days = Coding(["at"], {"at": {"type": "datetime"}}).rows([[moment] for moment in moments])[:, 0]
    expected = pd.to_datetime(pd.Series(moments)).dt
    made = date_parts(days)
    parts = [expected.year, expected.month, expected.day_of_week, expected.day_of_year]
    np.testing.assert_array_equal(made[:, :4], np.column_stack(parts))
    np.testing.assert_array_equal(made[:3, 4], [23.0, 13.75, 0.0])
    assert np.isnan(made[4]).all()


def test_every_hour_of_a_year_is_whole() -> None:
    hours = np.arange(24 * 366)
    np.testing.assert_array_equal(date_parts(19_000 + hours / 24)[:, 4], hours % 24)


def test_few_levels_have_a_column_each_and_many_the_mean_of_the_target() -> None:
    X, y = rows()
    made = named(features().fit(X, y), X)
    assert list(made) == [
        "size", "sold", "open", *(f"sold_{part}" for part in ("year", "month", "weekday", "day_of_year", "hour")),
        "kind_0", "kind_1", "kind_2", "shop_0",
    ]  # fmt: skip
    np.testing.assert_array_equal(made[["kind_0", "kind_1", "kind_2"]], np.eye(3)[X[:, 1].astype(int)])
    known = y[X[:, 2] == 3]
    expected = y.mean() + (known - y.mean()).sum() / (len(known) + PRIOR_ROWS)
    assert made["shop_0"][X[:, 2] == 3].to_numpy() == pytest.approx(expected)


def test_a_mean_does_not_hold_the_rows_own_target() -> None:
    X, y = rows()
    chance = np.random.default_rng(1).normal(size=len(y))
    made = features()
    training = made.fit_transform(X, chance)[:, -1]
    assert np.corrcoef(training, chance)[0, 1] < 0.1 < np.corrcoef(made.transform(X)[:, -1], chance)[0, 1]


def test_codes_stay_codes_and_the_rare_levels_share_the_last_one() -> None:
    X, y = rows()
    made = named(features(codes=4).fit(X, y), X)
    np.testing.assert_array_equal(made["kind"], X[:, 1])
    np.testing.assert_array_equal(made["shop"], np.minimum(X[:, 2], 3))
    assert "shop_0" in made
    assert features(codes=4).fit(X, y).design.codes == {1: 2, 2: 4}


def test_medians_stand_for_what_is_missing_and_a_column_says_where() -> None:
    X, y = rows()
    fitted = features(impute=True).fit(X, y)
    made = named(fitted, X)
    missing = np.isnan(X[:, 0])
    assert (made["size"][missing] == np.median(X[~missing, 0])).all()
    np.testing.assert_array_equal(made["size_missing"], missing)
    assert [name for name in made.columns.tolist() if name.endswith("_missing")] == ["size_missing"]
    assert np.isfinite(fitted.transform(np.full((1, 5), NAN))).all()  # what was never missing in the fit, too


def test_a_level_nobody_knows_is_like_a_missing_one() -> None:
    X, y = rows()
    fitted = features().fit(X, y)
    asked = pd.DataFrame(
        {"size": [1.0], "kind": ["green"], "shop": ["shop 99"], "sold": ["2024-01-01"], "open": [True]}
    )
    coded = Coding(COLUMNS, KINDS).frame(asked)
    missing = Coding(COLUMNS, KINDS).frame(asked.assign(kind=None, shop=None))
    np.testing.assert_array_equal(fitted.transform(coded), fitted.transform(missing))
    assert named(fitted, coded)[["kind_0", "kind_1", "kind_2"]].to_numpy().tolist() == [[0, 0, 1]]


def test_a_ratio_by_zero_is_missing() -> None:
    made = RowFeatures(["a", "b"], {"r": {"ratio": ["a", "b"]}}).fit_transform(np.array([[1.0, 0.0], [1.0, 2.0]]))
    np.testing.assert_array_equal(made[:, 2], [NAN, 0.5])
