"""What the neighbours say: features from the nearest training places, and the regressor that leans on them.

Prices depend on place more than on anything else in the table. ``SpatialFeatures`` looks up the nearest training
places of a row and estimates its value from theirs by ordinary kriging; ``OffsetRegressor`` learns what is left.
What is computed for a row is in `tableloop.model.kriging`; here is what scikit-learn asks of an estimator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from tableloop.model.kriging import FEATURES_OUT, WIDE_NAMES, Neighbours, kernel_inputs, places
from tableloop.table import FEATURE_NAMES

Matrix = npt.NDArray[np.float64]


class SpatialFeatures(Neighbours, TransformerMixin, BaseEstimator):
    """Turn the eight raw features into those of ``get_feature_names_out``; the last is the kriging estimate.

    ``fit_transform`` leaves one out: a training row sees the other rows only, because a feature that contains the
    row's own target looks perfect in training and is worthless afterwards. ``transform`` is for rows that were not
    in ``fit``.

    Parameters
    ----------
    kernel
        The covariance of two rows at distances g (degrees of latitude on the map) and a (over eight inputs, each in
        standard deviations divided by its length) is ``place_share * exp(-g / place_length) +
        (1 - place_share) * exp(-a)``. The keys are ``place_share``, ``place_length``, ``noise`` (variance of a
        single value, in units of the covariance), and a length for each of ``MedInc``, ``HouseAge``, ``AveRooms``,
        ``AveBedrms``, ``Population``, ``AveOccup`` and ``place``. ``python -m pipeline.fit_kernel`` fits them. None:
        every length and ``place_length`` 1, ``place_share`` 0.5, ``noise`` 0.1.
    neighbours, candidates
        How many places enter the kriging, and out of how many nearest ones they are chosen.
    wide
        Add more mean targets, distances and rotations, and what the neighbours are like: slower, for a blend.
    """

    def __init__(
        self,
        kernel: Mapping[str, float] | None = None,
        neighbours: int = 16,
        candidates: int = 50,
        wide: bool = False,
    ) -> None:
        self.kernel = kernel
        self.neighbours = neighbours
        self.candidates = candidates
        self.wide = wide

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> SpatialFeatures:
        """Remember rows of shape (n, 8) and targets of shape (n,); at least two rows."""
        rows, targets = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        _check_domain(rows)
        kernel = {**dict.fromkeys(KERNEL_NAMES, 1.0), "place_share": 0.5, "noise": 0.1, **(self.kernel or {})}
        if unknown := kernel.keys() - set(KERNEL_NAMES):
            raise ValueError(f"unknown kernel constants: {', '.join(sorted(unknown))}")
        inputs = kernel_inputs(rows)
        spread = inputs.std(axis=0)
        spread[spread == 0] = 1.0
        lengths = np.array([kernel[name] for name in INPUT_LENGTHS])
        self.input_scale_ = 1.0 / (spread * lengths)
        self.inputs_ = inputs * self.input_scale_
        self.places_ = places(rows)
        self.targets_ = np.ascontiguousarray(targets, dtype=np.float64)
        self.place_length_ = float(kernel["place_length"])
        # Only the ratio of the two parts matters to the weights, so the second one is scaled to 1.
        self.place_weight_ = float(kernel["place_share"] / (1.0 - kernel["place_share"]))
        self.noise_ = float(kernel["noise"])
        if self.wide:
            self.rows_ = rows
        self.index()
        return self

    def fit_transform(self, X: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Fit, and return the features of the same rows, each computed without the row itself."""
        self.fit(X, y)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        count = min(self.candidates, len(rows) - 1)
        distances, indices = self.nearest(self.places_, count + 1)
        itself = indices == np.arange(len(rows))[:, None]
        # Where more rows than candidates share one place, the row itself may be missing from its own list.
        itself[~itself.any(axis=1), -1] = True
        others = ~itself
        return self._features(rows, distances[others].reshape(-1, count), indices[others].reshape(-1, count))

    def transform(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the features of rows that were not in ``fit``, shape (n, features)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        _check_domain(rows)
        return self.features(rows)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns that ``transform`` makes."""
        check_is_fitted(self)
        names = FEATURES_OUT
        if self.wide:
            names = (*FEATURES_OUT[:-2], *WIDE_NAMES, *FEATURES_OUT[-2:])
        return np.array(names, dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        # The tree is made again from the places in milliseconds, and skops could not store it.
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_tree", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "places_" in state:
            self.index()


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
        rows, targets = validate_data(self, X, y, dtype=[np.float64, np.float32], y_numeric=True)
        regressor = HistGradientBoostingRegressor() if self.regressor is None else self.regressor
        self.regressor_ = clone(regressor).fit(rows, targets - self.offset(rows))
        self.low_, self.high_ = float(targets.min()), float(targets.max())
        return self

    def predict(self, X: npt.ArrayLike) -> Matrix:
        """Return the predicted targets, shape (n,)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        values: Matrix = np.clip(self.regressor_.predict(rows) + self.offset(rows), self.low_, self.high_)
        return values

    def offset(self, X: npt.NDArray[Any]) -> Matrix:
        """Return what is added to the regressor's answer, shape (n,)."""
        return self.share * X[:, -1].astype(np.float64)


INPUT_LENGTHS = (*FEATURE_NAMES[:6], "place", "place")
KERNEL_NAMES = ("place_share", "place_length", "noise", *FEATURE_NAMES[:6], "place")


def _check_domain(X: Matrix) -> None:
    if X.shape[1] != len(FEATURE_NAMES):
        raise ValueError(f"X has {X.shape[1]} features, but SpatialFeatures needs the {len(FEATURE_NAMES)} raw ones")
    for name, above in (("MedInc", -0.5), ("AveRooms", 0.0), ("Population", -1.0), ("AveOccup", 0.0)):
        lowest = X[:, FEATURE_NAMES.index(name)].min(initial=math.inf)
        if lowest <= above:
            raise ValueError(f"{name} must be greater than {above:g}, not {lowest:g}")
