"""Features computed from one row alone; they live inside the model, so training and serving cannot differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tableloop.model.terms import Matrix, Places, Term, Terms


class RowFeatures(TransformerMixin, BaseEstimator):
    """Add terms to the columns of a row.

    A tree splits along one axis at a time: it has no other way to see a ratio, nor a coast that runs from north-west
    to south-east.

    Parameters
    ----------
    columns
        The names of the columns, in their order.
    features
        By name, terms of `tableloop.model.terms`.
    place
        The names of the two columns with latitude and longitude, if there are any; a turned axis needs them.
    """

    def __init__(
        self, columns: Sequence[str], features: Mapping[str, Term], place: Sequence[str] | None = None
    ) -> None:
        self.columns = columns
        self.features = features
        self.place = place

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> RowFeatures:
        """Check the number of columns; nothing is learnt."""
        self._check(X, reset=True)
        return self

    def transform(self, X: npt.ArrayLike) -> Matrix:
        """Return the features of rows of shape (n, columns), shape (n, columns + features)."""
        check_is_fitted(self, "n_features_in_")
        rows = self._check(X, reset=False)
        places = Places(self.columns, self.place, 0.0)(rows) if self.place else None
        return np.column_stack([rows, Terms(self.columns, [*self.features.items()])(rows, places)])

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns that ``transform`` makes."""
        return np.array([*self.columns, *self.features], dtype=object)

    def _check(self, X: npt.ArrayLike, *, reset: bool) -> Matrix:
        rows: Matrix = validate_data(self, X, dtype=np.float64, reset=reset)
        if rows.shape[1] != len(self.columns):
            raise ValueError(f"{len(self.columns)} features expected, not {rows.shape[1]}")
        return rows
