"""The intervals: as wide as promised, checked against MAPIE, and the same from a stored model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from mapie.conformity_scores import ResidualNormalisedScore
from mapie.regression import SplitConformalRegressor
from sklearn.ensemble import VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tableloop.model.conformal import SCALE_FOLDS, ConformalRegressor
from tableloop.model.spatial import SpatialFeatures
from tableloop.model.trusted_types import TRUSTED_TYPES
from tests.unit.tableloop.model.test_spatial import COLUMNS, PLACE


def noisy(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a linear value and a noise that grows tenfold with the first feature."""
    random = np.random.default_rng(seed)
    X = random.uniform(1, 2, (rows, 8))
    return X, X.sum(axis=1) + (0.1 + 0.9 * (X[:, 0] - 1)) * random.normal(0, 1, rows)


def linear() -> Pipeline:
    return make_pipeline(StandardScaler(), LinearRegression())


@pytest.fixture(scope="module")
def model() -> ConformalRegressor:
    return ConformalRegressor(linear(), COLUMNS).fit(*noisy(1000, 0)).calibrate(*noisy(1000, 1))


class KnownErrors:
    """The expected errors of a ``ConformalRegressor``, those of its calibration rows cross-fitted."""

    def __init__(self, model: ConformalRegressor, calibration: np.ndarray, residuals: np.ndarray) -> None:
        self.model, self.calibration, self.residuals = model, calibration, residuals
        self.fitted_ = True

    def fit(self, X: np.ndarray, y: np.ndarray) -> KnownErrors:
        return self

    def predict(self, X: np.ndarray) -> Any:
        pipeline = self.model.estimator
        inputs = np.column_stack([pipeline[:-1].transform(X), pipeline.predict(X)])
        if np.array_equal(X, self.calibration):
            folds = KFold(SCALE_FOLDS, shuffle=True, random_state=1)
            return np.maximum(
                cross_val_predict(self.model.scale_, inputs, self.residuals, cv=folds), self.model.least_error_
            )
        return np.maximum(self.model.scale_.predict(inputs), self.model.least_error_)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_mapie_gives_the_same_intervals(coverage: float) -> None:
    X, y = noisy(501, 1)
    model = ConformalRegressor(linear(), COLUMNS, coverage, least_error=0.03).fit(*noisy(500, 0)).calibrate(X, y)
    errors = KnownErrors(model, X, np.abs(y - model.predict(X)))
    oracle = SplitConformalRegressor(
        model.estimator,
        confidence_level=coverage,
        prefit=True,
        conformity_score=ResidualNormalisedScore(errors, prefit=True, sym=True),
    ).conformalize(X, y)
    new = noisy(200, 2)[0]
    expected_values, expected_ends = oracle.predict_interval(new)
    values, low, high = model.predict_interval(new)
    np.testing.assert_allclose(values, expected_values)
    np.testing.assert_allclose(low, np.maximum(expected_ends[:, 0, 0], np.minimum(model.lowest_, values)))
    np.testing.assert_allclose(high, np.minimum(expected_ends[:, 1, 0], np.maximum(model.highest_, values)))
    assert (low > model.lowest_).mean() > 0.9  # most ends are MAPIE's, not the range's


def test_the_promised_share_of_new_values_lies_inside_everywhere(model: ConformalRegressor) -> None:
    X, y = noisy(4000, 2)
    _, low, high = model.predict_interval(X)
    inside = (low <= y) & (y <= high)
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
    for quarter in np.array_split(np.argsort(X[:, 0]), 4):
        assert inside[quarter].mean() == pytest.approx(0.9, abs=0.05)
    order = np.argsort(X[:, 0])
    assert (high - low)[order[-500:]].mean() > 3 * (high - low)[order[:500]].mean()  # wide only where it is noisy


def test_one_table_is_enough_for_training_and_calibration() -> None:
    model = ConformalRegressor(linear(), COLUMNS).fit_calibrated(*noisy(1500, 0))
    X, y = noisy(4000, 1)
    values, low, high = model.predict_interval(X)
    assert np.mean((low <= y) & (y <= high)) == pytest.approx(0.9, abs=0.02)
    np.testing.assert_array_equal(values, linear().fit(*noisy(1500, 0)).predict(X))  # no row is held back


def test_an_interval_holds_its_value_and_stays_in_the_range_of_the_targets(model: ConformalRegressor) -> None:
    X = np.vstack([noisy(500, 3)[0], np.full((1, 8), 30.0), np.full((1, 8), -30.0)])
    values, low, high = model.predict_interval(X)
    assert (low <= values).all()
    assert (values <= high).all()
    assert low[:-2].min() >= model.lowest_
    assert high[:-2].max() <= model.highest_
    assert high[-2] == values[-2] > model.highest_  # a linear model may leave the range; its interval follows


def test_a_data_frame_is_read_by_name(model: ConformalRegressor) -> None:
    X = noisy(20, 4)[0]
    frame = pd.DataFrame(X, columns=COLUMNS)
    shuffled = frame[list(reversed(COLUMNS))]
    np.testing.assert_array_equal(model.predict(shuffled), model.predict(X))
    np.testing.assert_array_equal(model.predict_interval(shuffled), model.predict_interval(X))


def test_too_few_rows_and_no_calibration_are_refused() -> None:
    model = ConformalRegressor(linear(), COLUMNS).fit(*noisy(50, 0))
    with pytest.raises(NotFittedError):
        model.predict_interval(noisy(3, 1)[0])
    with pytest.raises(ValueError, match="8 calibration rows are too few"):
        model.calibrate(*noisy(8, 1))


def test_a_stored_model_gives_the_same_intervals(model: ConformalRegressor) -> None:
    stored = skops.io.dumps(model)
    assert set(skops.io.get_untrusted_types(data=stored)) <= set(TRUSTED_TYPES)
    X = noisy(50, 5)[0]
    loaded = skops.io.loads(stored, trusted=list(TRUSTED_TYPES))
    np.testing.assert_array_equal(loaded.predict_interval(X), model.predict_interval(X))


def test_a_model_knows_how_far_it_was_trained_if_places_matter_to_it(model: ConformalRegressor) -> None:
    X, y = noisy(60, 0)
    spatial = make_pipeline(SpatialFeatures(COLUMNS, PLACE), LinearRegression())
    blend = VotingRegressor([("linear", linear()), ("spatial", spatial)])
    for estimator in (spatial, blend):
        fitted = ConformalRegressor(estimator, COLUMNS).fit(X, y)
        np.testing.assert_array_equal(fitted.nearest_training_km(X), np.zeros(60))
    assert model.nearest_training_km(X) is None


def test_the_least_error_comes_from_the_residuals_unless_it_is_given() -> None:
    X, y = noisy(500, 0)
    for factor in (1.0, 1e-9, 1e9):
        model = ConformalRegressor(linear(), COLUMNS).fit(X, factor * y).calibrate(X, factor * y)
        assert model.least_error_ == pytest.approx(0.1 * np.median(np.abs(factor * y - model.predict(X))))
    exact = ConformalRegressor(linear(), COLUMNS).fit(X, 0 * y).calibrate(X, 0 * y)
    assert exact.least_error_ > 0


def test_a_data_frame_is_coded_and_an_array_is_coded_already() -> None:
    X, y = noisy(500, 0)
    kinds = {COLUMNS[0]: {"type": "string", "categories": ["low", "high"]}}
    coded = np.column_stack([X[:, 0] > np.median(X[:, 0]), X[:, 1:]]).astype(float)
    frame = pd.DataFrame(coded, columns=COLUMNS)
    frame[COLUMNS[0]] = np.where(coded[:, 0] > 0, "high", "low")
    model = ConformalRegressor(linear(), COLUMNS, kinds=kinds).fit(frame, y).calibrate(frame, y)
    np.testing.assert_array_equal(model.predict(frame), model.predict(coded))
