"""What the neighbours say: features from the nearest training places, and the regressor that leans on them.

Prices depend on place more than on anything else in the table. ``SpatialFeatures`` looks up the nearest training
places of a row and estimates its value from theirs by ordinary kriging; ``OffsetRegressor`` learns what is left.

The kriging is a nearest-neighbour Gaussian process (Datta et al. 2016, "Hierarchical Nearest-Neighbor Gaussian
Process Models for Large Geostatistical Datasets"): of the nearest ``candidates`` places the ``neighbours`` with the
largest kernel value to the row take part, so a row costs one small linear system whatever the size of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin, clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

from pipeline.schema import FEATURE_NAMES

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

KILOMETRES = 111.2  # in a degree of latitude
EASTWARD = math.cos(math.radians(36.0))  # a degree of longitude in degrees of latitude, in the middle of California
# Beyond it the error, relative to the value, is twice that among near neighbours, and the intervals hold less than
# they promise: `python -m bench.quality`, by distance. One row of twenty-five lies so far out.
FAR_KM = 5.0
# Below or above, a value says nothing more about the price, and its logarithm would push a row away from all others.
ROOMS_BOUNDS = (0.5, 15.0)
BEDROOMS_BOUNDS = (0.05, 1.0)
OCCUPANCY_BOUNDS = (0.5, 10.0)

FEATURES_OUT = (
    *FEATURE_NAMES,
    "RoomsPerPerson", "BedroomShare", "IncomeRooms", "NorthEast", "NorthWest",
    "Distance1", "Distance5", "MeanOf5", "MeanOf20", "KrigingUncertainty", "Kriging",
)  # fmt: skip
WIDE_MEANS = (1, 2, 3, 8, 12, 30, 50)
WIDE_DISTANCES = (2, 10, 20, 50)
WIDE_ANGLES = (15.0, 30.0, 60.0, 75.0)
_CHUNK = 256  # rows at a time: their kernel matrices stay in the processor's cache


class SpatialFeatures(TransformerMixin, BaseEstimator):
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
        ``AveBedrms``, ``Population``, ``AveOccup`` and ``place``. ``python -m pipeline.kernel`` fits them. None:
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
        self._tree = cKDTree(self.places_)
        return self

    def fit_transform(self, X: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Fit, and return the features of the same rows, each computed without the row itself."""
        self.fit(X, y)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        count = min(self.candidates, len(rows) - 1)
        distances, indices = self._tree.query(self.places_, count + 1)
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

    def features(self, X: Matrix) -> npt.NDArray[np.float32]:
        """Return what ``transform`` does, for rows that are known to be valid."""
        distances, indices = self.nearest(places(X), min(self.candidates, len(self.targets_)))
        return self._features(X, distances, indices)

    def nearest(self, where: Matrix, count: int) -> tuple[Matrix, Indices]:
        """Return distances (degrees of latitude) and row numbers of the nearest training places, (n, count)."""
        distances, indices = self._tree.query(where, np.arange(1, count + 1))
        return distances, indices

    def nearest_km(self, X: npt.ArrayLike) -> Matrix:
        """Return how far the nearest training place is from each row, in kilometres (to 8 % east-west)."""
        distances, _ = self.nearest(places(np.asarray(X, dtype=np.float64)), 1)
        return distances[:, 0] * KILOMETRES

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
            self._tree = cKDTree(self.places_)

    def _features(self, X: Matrix, distances: Matrix, indices: Indices) -> npt.NDArray[np.float32]:
        width = len(FEATURES_OUT) + (len(WIDE_NAMES) if self.wide else 0)
        # float32 for the trees: a compiled scorer then sees exactly the numbers that scikit-learn has seen.
        out = np.empty((len(X), width), dtype=np.float32)
        for start in range(0, len(X), _CHUNK):
            rows = slice(start, start + _CHUNK)
            self._fill(out[rows], X[rows], distances[rows], indices[rows])
        return out

    def _fill(self, out: npt.NDArray[np.float32], X: Matrix, distances: Matrix, indices: Indices) -> None:
        income, _, rooms, bedrooms, _, occupancy, north, longitude = X.T
        east = longitude * EASTWARD
        nearest = indices.shape[1]
        sums = self.targets_.take(indices).cumsum(axis=1)
        five, twenty = min(5, nearest), min(20, nearest)
        out[:, :8] = X
        out[:, 8] = rooms / occupancy
        out[:, 9] = bedrooms / rooms
        out[:, 10] = income * rooms
        out[:, 11] = (north + east) * math.sqrt(0.5)
        out[:, 12] = (north - east) * math.sqrt(0.5)
        out[:, 13] = distances[:, 0]
        out[:, 14] = distances[:, five - 1]
        out[:, 15] = sums[:, five - 1] / five
        out[:, 16] = sums[:, twenty - 1] / twenty
        out[:, -1], out[:, -2] = self.krige(kernel_inputs(X), distances, indices)
        if self.wide:
            self._fill_wide(out[:, 17:-2], X, distances, indices)

    def _fill_wide(self, out: npt.NDArray[np.float32], X: Matrix, distances: Matrix, indices: Indices) -> None:
        nearest = indices.shape[1]
        sums = self.targets_.take(indices).cumsum(axis=1)
        north, east = places(X).T
        columns = [sums[:, min(k, nearest) - 1] / min(k, nearest) for k in WIDE_MEANS]
        columns += [distances[:, min(k, nearest) - 1] for k in WIDE_DISTANCES]
        for angle in WIDE_ANGLES:
            cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            columns += [cosine * north + sine * east, cosine * east - sine * north]
        columns.append(self.targets_.take(indices[:, :10]).std(axis=1))
        columns += list(self.rows_[indices[:, :10], :6].mean(axis=1).T)
        out[:] = np.stack(columns, axis=1)

    def krige(self, inputs: Matrix, distances: Matrix, indices: Indices) -> tuple[Matrix, Matrix]:
        """Return the kriging estimates of rows and the share of variance that their neighbours leave open.

        ``inputs`` are rows of ``kernel_inputs``, ``distances`` and ``indices`` their nearest places, (n, count).
        """
        offsets = self.inputs_.take(indices, axis=0)
        offsets -= (inputs * self.input_scale_)[:, None]
        to_row = self._covariance(distances, np.sqrt(np.einsum("npk,npk->np", offsets, offsets)))

        count = min(self.neighbours, indices.shape[1])
        rows = np.arange(len(inputs))[:, None]
        best = to_row.argpartition(-count, axis=1)[:, -count:]
        indices, to_row, offsets = indices[rows, best], to_row[rows, best], offsets[rows, best]
        around = self.places_.take(indices, axis=0)
        around -= around[:, :1].copy()
        covariance = self._covariance(_distances_within(around), _distances_within(offsets))
        variance = 1.0 + self.place_weight_
        covariance.reshape(len(inputs), -1)[:, :: count + 1] = variance * (1.0 + self.noise_)

        targets = self.targets_.take(indices)
        # Two right-hand sides of one system: the row's covariances, and ones for the unknown mean.
        solved = np.linalg.solve(covariance, np.stack([to_row, np.ones_like(to_row)], axis=2))
        by_row, by_one = solved[..., 0], solved[..., 1]
        mean = np.einsum("nk,nk->n", by_one, targets) / by_one.sum(axis=1)
        estimate = mean + np.einsum("nk,nk->n", by_row, targets) - mean * by_row.sum(axis=1)
        return estimate, 1.0 - np.einsum("nk,nk->n", by_row, to_row) / variance

    def _covariance(self, by_place: Matrix, by_all: Matrix) -> Matrix:
        """Return the kernel of two kinds of distances; ``by_all`` is overwritten."""
        near = by_place * (-1.0 / self.place_length_)
        np.exp(near, out=near)
        near *= self.place_weight_
        np.negative(by_all, out=by_all)
        np.exp(by_all, out=by_all)
        by_all += near
        return by_all


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
WIDE_NAMES = (
    *(f"MeanOf{k}" for k in WIDE_MEANS),
    *(f"Distance{k}" for k in WIDE_DISTANCES),
    *(f"Rotated{angle:.0f}{axis}" for angle in WIDE_ANGLES for axis in ("North", "East")),
    "DeviationOf10",
    *(f"Neighbours{name}" for name in FEATURE_NAMES[:6]),
)


def places(X: Matrix) -> Matrix:
    """Return where rows of raw features lie, shape (n, 2), in degrees of latitude north and east."""
    return np.column_stack([X[:, 6], X[:, 7] * EASTWARD])


def kernel_inputs(X: Matrix) -> Matrix:
    """Return the eight inputs of the kernel for rows of raw features, shape (n, 8)."""
    income, age, rooms, bedrooms, population, occupancy, north, longitude = X.T
    out = np.empty_like(X)
    out[:, 0] = np.log(income + 0.5)
    out[:, 1] = age
    out[:, 2] = np.log(np.clip(rooms, *ROOMS_BOUNDS))
    out[:, 3] = np.log(np.clip(bedrooms / rooms, *BEDROOMS_BOUNDS))
    out[:, 4] = np.log(population + 1.0)
    out[:, 5] = np.log(np.clip(occupancy, *OCCUPANCY_BOUNDS))
    out[:, 6] = north
    out[:, 7] = longitude * EASTWARD
    return out


def _distances_within(points: Matrix) -> Matrix:
    """Return the distances between the points of each group: (n, k, d) to (n, k, k)."""
    products = points @ points.swapaxes(1, 2)
    squares = np.einsum("nkk->nk", products).copy()
    products *= -2.0
    products += squares[:, :, None]
    products += squares[:, None, :]
    np.maximum(products, 0.0, out=products)  # rounding can leave a distance of zero slightly negative
    return np.sqrt(products, out=products)


def _check_domain(X: Matrix) -> None:
    if X.shape[1] != len(FEATURE_NAMES):
        raise ValueError(f"X has {X.shape[1]} features, but SpatialFeatures needs the {len(FEATURE_NAMES)} raw ones")
    for name, above in (("MedInc", -0.5), ("AveRooms", 0.0), ("Population", -1.0), ("AveOccup", 0.0)):
        lowest = X[:, FEATURE_NAMES.index(name)].min(initial=math.inf)
        if lowest <= above:
            raise ValueError(f"{name} must be greater than {above:g}, not {lowest:g}")
