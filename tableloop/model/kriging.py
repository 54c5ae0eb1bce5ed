"""Numbers from the neighbours: what the spatial model asks the nearest training places for a row.

Only numpy and a k-d tree, so that the compiled scorer computes the very features of ``SpatialFeatures`` without the
seconds and the memory that importing scikit-learn takes.

The kriging is a nearest-neighbour Gaussian process (Datta et al. 2016, "Hierarchical Nearest-Neighbor Gaussian
Process Models for Large Geostatistical Datasets"): of the nearest ``candidates`` places the ``neighbours`` with the
largest kernel value to the row take part, so a row costs one small linear system whatever the size of the table.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from pykdtree.kdtree import KDTree

from tableloop.table import FEATURE_NAMES

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.uint32]

KILOMETRES = 111.2  # in a degree of latitude
EASTWARD = math.cos(math.radians(36.0))  # a degree of longitude in degrees of latitude, in the middle of California
# Beyond it the error, relative to the value, is twice that among near neighbours (`python -m bench.quality`, by
# distance); the intervals are wider and hold what they promise. One row of twenty-five lies so far out.
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
WIDE_NAMES = (
    *(f"MeanOf{k}" for k in WIDE_MEANS),
    *(f"Distance{k}" for k in WIDE_DISTANCES),
    *(f"Rotated{angle:.0f}{axis}" for angle in WIDE_ANGLES for axis in ("North", "East")),
    "DeviationOf10",
    *(f"Neighbours{name}" for name in FEATURE_NAMES[:6]),
)
_CHUNK = 256  # rows at a time: their kernel matrices stay in the processor's cache


class Neighbours:
    """Remembered places and what is asked of them.

    The attributes are the fitted ones of ``SpatialFeatures``, which is made of this; its parameters explain them.
    ``index`` must be called when they are there.
    """

    neighbours: int
    candidates: int
    wide: bool
    inputs_: Matrix  # (places, 8): ``kernel_inputs`` times ``input_scale_``
    places_: Matrix  # (places, 2)
    targets_: Matrix  # (places,)
    rows_: Matrix  # (places, 8), raw; only of a wide one
    input_scale_: Matrix  # (8,)
    place_length_: float
    place_weight_: float
    noise_: float

    def index(self) -> None:
        """Build the search tree: milliseconds, so it is made again where the rest is loaded."""
        self._tree = KDTree(self.places_)

    def features(self, X: Matrix) -> npt.NDArray[np.float32]:
        """Return the features of rows of shape (n, 8) that are known to be valid, (n, features)."""
        distances, indices = self.nearest(places(X), min(self.candidates, len(self.targets_)))
        return self._features(X, distances, indices)

    def nearest(self, where: Matrix, count: int) -> tuple[Matrix, Indices]:
        """Return distances (degrees of latitude) and row numbers of the nearest training places, (n, count)."""
        distances, indices = self._tree.query(where, count)
        return distances.reshape(-1, count), indices.reshape(-1, count)

    def nearest_km(self, X: npt.ArrayLike) -> Matrix:
        """Return how far the nearest training place is from each row, in kilometres (to 8 % east-west)."""
        distances, _ = self.nearest(places(np.asarray(X, dtype=np.float64)), 1)
        return distances[:, 0] * KILOMETRES

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
