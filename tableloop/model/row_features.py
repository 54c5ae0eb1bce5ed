"""Features computed from one row alone; they live inside the model, so training and serving cannot differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tableloop.table import FEATURE_NAMES

Matrix = npt.NDArray[np.float64]

DERIVED_NAMES = (
    "BedroomShare",
    "PeoplePerRoom",
    "Households",
    "IncomePerPerson",
    "NorthEast",
    "NorthWest",
    "NorthNorthEast",
    "EastNorthEast",
)


class RatioFeatures(TransformerMixin, BaseEstimator):
    """The eight raw features, four ratios of them, and the place seen along four turned axes.

    A tree splits along one axis at a time: it has no other way to see a ratio, nor California's coast, which runs
    from north-west to south-east.
    """

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> RatioFeatures:
        """Check the number of columns; nothing is learnt."""
        self._check(X, reset=True)
        return self

    def transform(self, X: npt.ArrayLike) -> Matrix:
        """Return the features of rows of shape (n, 8), shape (n, 16)."""
        check_is_fitted(self, "n_features_in_")
        rows = self._check(X, reset=False)
        income, _, rooms, bedrooms, population, people, latitude, longitude = rows.T
        turned = [
            latitude * np.cos(angle) + longitude * np.sin(angle)
            for angle in (np.pi / 4, -np.pi / 4, np.pi / 6, np.pi / 3)
        ]
        ratios = [bedrooms / rooms, people / rooms, population / people, income / people]
        return np.column_stack([rows, *ratios, *turned])

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns that ``transform`` makes."""
        return np.array([*FEATURE_NAMES, *DERIVED_NAMES], dtype=object)

    def _check(self, X: npt.ArrayLike, *, reset: bool) -> Matrix:
        rows: Matrix = validate_data(self, X, dtype=np.float64, reset=reset)
        if rows.shape[1] != len(FEATURE_NAMES):
            raise ValueError(f"{len(FEATURE_NAMES)} features expected, not {rows.shape[1]}")
        return rows
