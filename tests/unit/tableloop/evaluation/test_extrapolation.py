from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from tableloop.evaluation.extrapolation import by_distance, in_words, measure
from tableloop.model.conformal import ConformalRegressor
from tableloop.model.spatial import OffsetRegressor
from tests.unit.tableloop.model.test_spatial import COLUMNS, features, town


def test_values_near_zero_and_below_do_not_make_the_relative_error_endless() -> None:
    actual = np.array([0.0, -2.0, 1e-12, 4.0])
    (group,) = by_distance(np.zeros(4), actual, actual + 1, np.ones(4, dtype=bool), [0.0])
    assert 0 < group["relative_error"] < 1000
    (alike,) = by_distance(np.zeros(4), np.zeros(4), np.ones(4), np.ones(4, dtype=bool), [0.0])
    assert alike["relative_error"] == 1.0


def test_without_parameters_distances_come_from_the_rows_and_no_line_is_measured() -> None:
    trees = OffsetRegressor(HistGradientBoostingRegressor(max_iter=5))
    model = (
        ConformalRegressor(make_pipeline(features(), trees), COLUMNS).fit(*town(300)).calibrate(*town(300, seed=1))
    )
    limits = measure(model, *town(300), *town(200, seed=2), linear=LinearRegression(), latitude="Latitude")
    assert limits["across_line"] is None
    assert limits["far_km"] is not None
    assert limits["far_km"] > 0
    assert sum(group["rows"] for group in limits["by_distance"]) == 200
    assert f"more than {limits['far_km']:g} km away" in in_words(limits)


def test_a_table_without_a_place_is_not_said_to_know_places() -> None:
    assert "place" not in in_words({"far_km": None, "across_line": None, "by_distance": []})
