"""Features computed from one row alone; they live inside the model, so training and serving cannot differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tableloop.model.coding import Kinds, Matrix
from tableloop.model.design import Arrays, Design, learn
from tableloop.model.terms import Term


class RowFeatures(TransformerMixin, BaseEstimator):
    """Make the design matrix of rows: see `tableloop.model.design`.

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
    kinds
        Of columns that are no plain numbers.
    codes
        So many levels of a category stay codes; 0 for a regressor that knows numbers only.
    impute
        Whether medians stand for what is missing; of columns that miss values in ``fit``, another column says where.
    """

    def __init__(
        self,
        columns: Sequence[str],
        features: Mapping[str, Term],
        place: Sequence[str] | None = None,
        *,
        kinds: Kinds | None = None,
        codes: int = 0,
        impute: bool = False,
    ) -> None:
        self.columns = columns
        self.features = features
        self.place = place
        self.kinds = kinds
        self.codes = codes
        self.impute = impute

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> RowFeatures:
        """Learn what stands for levels and for missing values, if there are any; that needs the targets."""
        self._fit(X, y)
        return self

    def fit_transform(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> Matrix:
        """Fit, and return the features of the same rows, in which no mean of the target holds the row's own."""
        rows, left_out = self._fit(X, y)
        made = self.design(rows)
        for name, means in left_out.items():
            made[:, self.design.means[name]] = means
        return made

    def transform(self, X: npt.ArrayLike) -> Matrix:
        """Return the features of rows of shape (n, columns), shape (n, features)."""
        check_is_fitted(self, "specification_")
        return self.design(self._check(X, reset=False))

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns that ``transform`` makes."""
        return np.array(self.design.names, dtype=object)

    def _fit(self, X: npt.ArrayLike, y: npt.ArrayLike | None) -> tuple[Matrix, Arrays]:
        rows = self._check(X, reset=True)
        self.specification_: dict[str, Any] = {
            "columns": list(self.columns),
            "place": list(self.place) if self.place else None,
            "middle_latitude": 0.0,
            "terms": dict(self.features),
            "kinds": dict(self.kinds or {}),
            "codes": self.codes,
        }
        targets = np.zeros(len(rows)) if y is None else np.asarray(y, dtype=np.float64)
        self.arrays_, left_out = learn(self.specification_, rows, targets, impute=self.impute)
        self.design = Design(self.specification_, self.arrays_)
        return rows, left_out

    def _check(self, X: npt.ArrayLike, *, reset: bool) -> Matrix:
        rows: Matrix = validate_data(self, X, dtype=np.float64, reset=reset, ensure_all_finite="allow-nan")
        if rows.shape[1] != len(self.columns):
            raise ValueError(f"{len(self.columns)} features expected, not {rows.shape[1]}")
        return rows

    def __getstate__(self) -> dict[str, Any]:
        # It is made again from the specification, and skops could not store it.
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "design"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "specification_" in state:
            self.design = Design(self.specification_, self.arrays_)
