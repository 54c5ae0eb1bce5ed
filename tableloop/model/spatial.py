"""The spatial model for scikit-learn: features from the nearest training places, and a regressor that leans on them.

``SpatialFeatures`` looks up the nearest training places of a row and estimates its value from theirs by ordinary
kriging; ``OffsetRegressor`` learns what is left. What is computed for a row is in `tableloop.model.kriging`; here is
what scikit-learn asks of an estimator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from tableloop.model.coding import Kinds
from tableloop.model.design import Arrays, Design, learn
from tableloop.model.kriging import KERNEL, Features, Indices, NeighbourFeatures, RowInputs
from tableloop.model.terms import Matrix, Term


class SpatialFeatures(TransformerMixin, BaseEstimator):
    """Add ``features`` to the design matrix; the last two are the kriging estimate's uncertainty and itself.

    ``fit_transform`` leaves one out: a training row sees the other rows only, because a feature that contains the
    row's own target looks perfect in training and is worthless afterwards. ``transform`` is for rows that were not
    in ``fit``.

    Parameters
    ----------
    columns
        The names of the columns, in their order.
    place
        The names of the two columns with latitude and longitude, in degrees.
    middle_latitude
        A degree of longitude counts as much as it measures at this latitude; without it, at the mean of the rows.
    features
        By name, in the order of the result: a term of `tableloop.model.terms`; ``distance: n``, to the n-th nearest
        place; ``mean: n`` or ``deviation: n``, of the values of the n nearest; or ``mean: n`` with
        ``around: column``, of a column of theirs.
    kernel
        The covariance of two rows at distances g (degrees of latitude on the map) and a (over all inputs, each in
        standard deviations divided by its length) is ``place_share * exp(-g / place_length) +
        (1 - place_share) * exp(-a)``. Further keys: ``noise``, the variance of a single value in units of the
        covariance; ``inputs``, terms with a ``length`` each; ``place``, the length of both coordinates as inputs.
        ``python -m pipeline.fit_kernel`` fits the numbers. What is left out is that of `KERNEL`, and with no inputs
        named every plain number is one.
    neighbours, candidates
        How many places enter the kriging, and out of how many nearest ones they are chosen.
    kinds, codes
        As `tableloop.model.row_features.RowFeatures` has them.
    gaps
        Whether values may be missing. Medians stand for them in the kriging, the other features miss them too.
    """

    def __init__(
        self,
        columns: Sequence[str],
        place: Sequence[str],
        *,
        middle_latitude: float | None = None,
        features: Mapping[str, Term] | None = None,
        kernel: Mapping[str, Any] | None = None,
        neighbours: int = 16,
        candidates: int = 50,
        kinds: Kinds | None = None,
        codes: int = 0,
        gaps: bool = False,
    ) -> None:
        self.columns = columns
        self.place = place
        self.middle_latitude = middle_latitude
        self.features = features
        self.kernel = kernel
        self.neighbours = neighbours
        self.candidates = candidates
        self.kinds = kinds
        self.codes = codes
        self.gaps = gaps

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> SpatialFeatures:
        """Remember rows of shape (n, columns) and targets of shape (n,); at least two rows."""
        self._fit(X, y)
        return self

    def fit_transform(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Features:
        """Fit, and return the features of the same rows, each computed without the row itself."""
        rows, left_out = self._fit(X, y)
        made = self.left_out(rows, np.arange(len(rows)))
        for name, means in left_out.items():
            made[:, self.design.means[name]] = means
        return made

    def left_out(self, X: Matrix, chosen: Indices) -> Features:
        """Return the features of some of the rows of ``fit``, each computed without the row itself.

        ``X`` are all of those rows, ``chosen`` the numbers of some. Means of categories are of all rows.
        """
        places = self.arrays_["places"].take(chosen, axis=0)
        count = min(self.candidates, len(X) - 1)
        distances, indices = self._formula.nearest(places, count + 1)
        itself = indices == chosen[:, None]
        # Where more rows than candidates share one place, the row itself may be missing from its own list.
        itself[~itself.any(axis=1), -1] = True
        others = [part[~itself].reshape(-1, count) for part in (distances, indices)]
        return self._formula.features(X.take(chosen, axis=0), places, *others)

    def _fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Matrix, Arrays]:
        """Return the rows, and what `tableloop.model.design.learn` says of the rows themselves."""
        rows, targets = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2, ensure_all_finite=self._finite
        )
        kernel = {**KERNEL, **(self.kernel or {})}
        if unknown := kernel.keys() - {*KERNEL, "inputs"}:
            raise ValueError(f"unknown kernel constants: {', '.join(sorted(unknown))}")
        middle = self.middle_latitude
        if middle is None:
            middle = float(rows[:, [*self.columns].index(self.place[0])].mean())
        # JSON can hold it: the compiled scorer keeps it beside its arrays.
        self.specification_: dict[str, Any] = {
            "columns": list(self.columns),
            "place": list(self.place),
            "middle_latitude": middle,
            "features": dict(self.features or {}),
            "kernel": kernel,
            "neighbours": self.neighbours,
            "candidates": self.candidates,
            "kinds": dict(self.kinds or {}),
            "codes": self.codes,
            "terms": {},
        }
        of_rows = RowInputs(self.specification_)
        self.above_ = of_rows.above
        self._check_domain(rows)
        places = of_rows.places(rows)
        _, inputs = of_rows(rows, places)
        targets = np.ascontiguousarray(targets, dtype=np.float64)
        self.arrays_, left_out = learn(self.specification_, rows, targets, impute=False)
        if self._finite is not True:
            medians = [
                np.median(values[np.isfinite(values)]) if np.isfinite(values).any() else 0.0 for values in inputs.T
            ]
            self.arrays_["input_medians"] = np.array(medians)
            inputs = np.where(np.isfinite(inputs), inputs, medians)
        spread = inputs.std(axis=0)
        spread[spread == 0] = 1.0
        scale = 1.0 / (spread * of_rows.lengths)
        self.arrays_ |= {"places": places, "targets": targets, "inputs": inputs * scale, "input_scale": scale}
        if any("around" in term for term in self.specification_["features"].values()):
            self.arrays_["rows"] = rows
        self._formula = NeighbourFeatures(self.specification_, self.arrays_)
        return rows, left_out

    def transform(self, X: npt.ArrayLike) -> Features:
        """Return the features of rows that were not in ``fit``, shape (n, features)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=self._finite)
        self._check_domain(rows)
        return self._formula(rows)[0]

    @property
    def design(self) -> Design:
        """The formula of the first features."""
        return self._formula.design

    def nearest_km(self, X: npt.ArrayLike) -> Matrix:
        """Return how far the nearest training place is from each row, in kilometres."""
        return self._formula.nearest_km(np.asarray(X, dtype=np.float64))

    def places(self, X: Matrix) -> Matrix:
        """Return where rows lie, in degrees of latitude north and east, shape (n, 2)."""
        return self._formula.places(X)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns that ``transform`` makes."""
        check_is_fitted(self)
        return np.array(self._formula.names, dtype=object)

    @property
    def _finite(self) -> bool | str:
        """What scikit-learn is to ask of rows."""
        return "allow-nan" if self.gaps or self.kinds else True

    def _check_domain(self, X: Matrix) -> None:
        if X.shape[1] != len(self.columns):
            raise ValueError(f"X has {X.shape[1]} features, but SpatialFeatures knows {len(self.columns)} columns")
        for name, above in self.above_.items():
            lowest = np.fmin.reduce(X[:, [*self.columns].index(name)], initial=math.inf)  # of what is not missing
            if lowest <= above:
                raise ValueError(f"{name} must be greater than {above:g}, not {lowest:g}")

    def __getstate__(self) -> dict[str, Any]:
        # The tree is made again from the places in milliseconds, and skops could not store it.
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_formula"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "arrays_" in state:
            self._formula = NeighbourFeatures(self.specification_, self.arrays_)


class OffsetRegressor(RegressorMixin, BaseEstimator):
    """Fit a regressor to the target less a part of the last feature, and add that part again.

    The last feature is an estimate of the target. Learning all of the rest (``share`` 1) trusts it too much where it
    is poor, none (0) makes the trees rebuild it step by step. Predictions are clipped to the range of the targets.
    """

    def __init__(self, regressor: Any = None, share: float = 0.5) -> None:
        self.regressor = regressor
        self.share = share

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> OffsetRegressor:
        """Fit on features of shape (n, m), the last of which is the estimate, and targets of shape (n,)."""
        rows, targets = validate_data(
            self, X, y, dtype=[np.float64, np.float32], y_numeric=True, ensure_all_finite="allow-nan"
        )
        regressor = HistGradientBoostingRegressor() if self.regressor is None else self.regressor
        self.regressor_ = clone(regressor).fit(rows, targets - self.offset(rows))
        self.low_, self.high_ = float(targets.min()), float(targets.max())
        return self

    def predict(self, X: npt.ArrayLike) -> Matrix:
        """Return the predicted targets, shape (n,)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False, ensure_all_finite="allow-nan")
        values: Matrix = np.clip(self.regressor_.predict(rows) + self.offset(rows), self.low_, self.high_)
        return values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def offset(self, X: npt.NDArray[Any]) -> Matrix:
        """Return what is added to the regressor's answer, shape (n,)."""
        estimate: Matrix = X[:, -1].astype(np.float64)
        return self.share * np.where(np.isnan(estimate), 0.0, estimate)  # without one, the trees have all to learn
