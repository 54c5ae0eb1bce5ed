"""Prediction intervals by split-conformal prediction, stored with the model they belong to."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin

from pipeline.schema import FEATURE_NAMES

Matrix = npt.NDArray[np.float64]


class ConformalRegressor(RegressorMixin, BaseEstimator):
    """A regressor of the eight raw features that also says how wrong it may be.

    ``fit`` trains ``estimator``; ``calibrate`` needs rows the estimator has not seen. The half-width of the
    interval is the ceil((n + 1) * coverage)-th smallest absolute residual of the n calibration rows (Lei et al.
    2018, "Distribution-Free Predictive Inference for Regression", section 2.2), so a new row's value lies inside
    with a probability of at least ``coverage``.
    """

    def __init__(self, estimator: Any, coverage: float = 0.9) -> None:
        self.estimator = estimator
        self.coverage = coverage

    def fit(self, X: pd.DataFrame | Matrix, y: npt.ArrayLike) -> ConformalRegressor:
        """Train the estimator on rows of shape (n, 8) and targets of shape (n,)."""
        self.estimator.fit(as_matrix(X), np.asarray(y, dtype=np.float64))
        self.n_features_in_ = len(FEATURE_NAMES)
        return self

    def calibrate(self, X: pd.DataFrame | Matrix, y: npt.ArrayLike) -> ConformalRegressor:
        """Learn the width of the interval from rows that ``fit`` has not seen."""
        residuals = np.sort(np.abs(np.asarray(y, dtype=np.float64) - self.predict(X)))
        rank = math.ceil((len(residuals) + 1) * self.coverage)
        if rank > len(residuals):
            raise ValueError(f"{len(residuals)} calibration rows are too few for a coverage of {self.coverage}")
        self.half_width_ = float(residuals[rank - 1])
        return self

    def predict(self, X: pd.DataFrame | Matrix) -> Matrix:
        """Return the predicted values, shape (n,), in 100,000 US dollars of 1990."""
        return np.asarray(self.estimator.predict(as_matrix(X)), dtype=np.float64)

    def predict_interval(self, X: pd.DataFrame | Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Return the predicted values and the lower and upper ends of their intervals, each of shape (n,)."""
        values = self.predict(X)
        return values, values - self.half_width_, values + self.half_width_


def as_matrix(X: pd.DataFrame | Matrix) -> Matrix:
    """Return rows of the eight raw features as float64, shape (n, 8), in the order of the schema.

    A data frame is read by column name, so a shuffled one cannot give a wrong prediction.
    """
    if isinstance(X, pd.DataFrame):
        return X[list(FEATURE_NAMES)].to_numpy(np.float64)
    return np.ascontiguousarray(X, dtype=np.float64)
