"""What the spatial model asks the nearest training places: the one formula of its features, in training and serving.

Only numpy and a k-d tree, so that the compiled scorer computes the very features of ``SpatialFeatures`` without the
seconds and the memory that importing scikit-learn takes.

The kriging is a nearest-neighbour Gaussian process (Datta et al. 2016, "Hierarchical Nearest-Neighbor Gaussian
Process Models for Large Geostatistical Datasets"): of the nearest ``candidates`` places the ``neighbours`` with the
largest kernel value to the row take part, so a row costs one small linear system whatever the size of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pykdtree.kdtree import KDTree

from tableloop.model.terms import KEYS, Matrix, Places, Term, Terms, positions

Features = npt.NDArray[np.float32]
Indices = npt.NDArray[np.uint32]

KILOMETRES = 111.2  # in a degree of latitude
KERNEL = {"place_share": 0.5, "place_length": 1.0, "noise": 0.1, "place": 1.0}  # of a kernel that nobody has fitted
NEIGHBOUR_KEYS = ("distance", "mean", "deviation", "around")
LAST = ("KrigingUncertainty", "Kriging")
_CHUNK = 256  # rows at a time: their kernel matrices stay in the processor's cache


class KernelInputs:
    """The inputs of the kernel: the terms of a specification, then the place, north and east."""

    def __init__(self, specification: Mapping[str, Any]) -> None:
        columns, place = specification["columns"], specification["place"]
        kernel = specification["kernel"]
        # With no inputs named, each column but those of the place is one.
        terms = kernel.get("inputs") or {name: {} for name in columns if name not in place}
        self.places = Places(columns, place, specification["middle_latitude"])
        self.lengths = np.array([*(term.get("length", 1.0) for term in terms.values()), *[kernel["place"]] * 2])
        self._terms = Terms(columns, {name: _without_length(term) for name, term in terms.items()})
        self.above = self._terms.above

    def __call__(self, X: Matrix, places: Matrix) -> Matrix:
        """Return the inputs of rows (n, columns) at places (n, 2), shape (n, inputs)."""
        return np.concatenate([self._terms(X), places], axis=1)


class NeighbourFeatures:
    """The features of rows, from the rows themselves and from remembered places.

    Parameters
    ----------
    specification
        ``columns``, ``place``, ``middle_latitude``, ``features``, ``kernel``, ``neighbours`` and ``candidates``, as
        the parameters of `tableloop.model.spatial.SpatialFeatures` explain them.
    arrays
        Of the remembered places: ``places`` (m, 2), ``targets`` (m,), ``inputs`` (m, k), which are those of
        `KernelInputs` times ``input_scale`` (k,), and ``rows`` (m, columns) if a feature asks what is around.
    """

    def __init__(self, specification: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        columns, features, kernel = (specification[name] for name in ("columns", "features", "kernel"))
        self.names = (*columns, *features, *LAST)
        self._inputs_of = KernelInputs(specification)
        self.places = self._inputs_of.places
        self._terms, self._row_columns = _row_terms(columns, features)
        self._of_neighbours = _neighbour_features(columns, features)
        self._targets, self._rows = arrays["targets"], arrays.get("rows")
        self._input_scale = arrays["input_scale"]
        # A place beside the inputs of its row, both of the same width: distances on the map and over all inputs are
        # then computed by the same calls.
        inputs, places = arrays["inputs"], arrays["places"]
        self._points = np.zeros((len(inputs), 2, inputs.shape[1]))
        self._points[:, 0, :2] = places / kernel["place_length"]
        self._points[:, 1] = inputs
        self._degrees = 1.0 / kernel["place_length"]
        # Only the ratio of the kernel's two parts matters to the weights, so the second one is scaled to 1.
        self._place_weight = kernel["place_share"] / (1.0 - kernel["place_share"])
        self._variance = 1.0 + self._place_weight
        self._diagonal = self._variance * (1.0 + kernel["noise"])
        self._candidates = min(specification["candidates"], len(places))
        self._neighbours = specification["neighbours"]
        self._tree = KDTree(places)

    def __call__(self, X: Matrix) -> tuple[Features, Matrix]:
        """Return the features of rows that are known to be valid, and the kilometres to their nearest places.

        Rows of shape (n, columns) give features of shape (n, features) and kilometres of shape (n,).
        """
        places = self.places(X)
        distances, indices = self.nearest(places, self._candidates)
        return self.features(X, places, distances, indices), distances[:, 0] * KILOMETRES

    def nearest(self, places: Matrix, count: int) -> tuple[Matrix, Indices]:
        """Return distances (degrees of latitude) and row numbers of the nearest training places, (n, count)."""
        distances, indices = self._tree.query(places, count)
        return distances.reshape(-1, count), indices.reshape(-1, count)

    def nearest_km(self, X: Matrix) -> Matrix:
        """Return how far the nearest training place is from each row, in kilometres."""
        return self.nearest(self.places(X), 1)[0][:, 0] * KILOMETRES

    def features(self, X: Matrix, places: Matrix, distances: Matrix, indices: Indices) -> Features:
        """Return the features of rows whose nearest places are given, the nearest first."""
        # float32 for the trees: a compiled scorer then sees exactly the numbers that scikit-learn has seen.
        out = np.empty((len(X), len(self.names)), dtype=np.float32)
        for start in range(0, len(X), _CHUNK):
            rows = slice(start, start + _CHUNK)
            self._fill(out[rows], X[rows], places[rows], distances[rows], indices[rows])
        return out

    def _fill(self, out: Features, X: Matrix, places: Matrix, distances: Matrix, indices: Indices) -> None:
        out[:, : X.shape[1]] = X
        out[:, self._row_columns] = self._terms(X, places)
        targets = self._targets.take(indices)
        sums = targets.cumsum(axis=1)
        for column, compute in self._of_neighbours:
            out[:, column] = compute(distances, targets, sums, indices, self._rows)
        inputs = self._inputs_of(X, places)
        inputs *= self._input_scale
        out[:, -1], out[:, -2] = self._krige(inputs, places, distances, indices, targets)

    def _krige(
        self, inputs: Matrix, places: Matrix, distances: Matrix, indices: Indices, targets: Matrix
    ) -> tuple[Matrix, Matrix]:
        """Return the kriging estimates of rows and the share of variance that their neighbours leave open."""
        points = self._points.take(indices, axis=0)
        points[:, :, 1] -= inputs[:, None]
        apart = points[:, :, 1]
        to_row = self._covariance(distances * self._degrees, np.sqrt(np.einsum("npk,npk->np", apart, apart)))

        count = min(self._neighbours, indices.shape[1])
        rows = np.arange(len(inputs))[:, None]
        best = to_row.argpartition(-count, axis=1)[:, -count:]
        to_row, targets = to_row[rows, best], targets[rows, best]
        points = points[rows, best].swapaxes(1, 2).copy()
        points[:, 0, :, :2] -= (places * self._degrees)[:, None]
        by_place, by_all = _distances_within(points).swapaxes(0, 1)
        covariance = self._covariance(by_place, by_all)
        covariance.reshape(len(inputs), -1)[:, :: count + 1] = self._diagonal

        # Two right-hand sides of one system: the row's covariances, and ones for the unknown mean.
        sides = np.ones((len(inputs), count, 2))
        sides[:, :, 0] = to_row
        solved = np.linalg.solve(covariance, sides)
        by_row, by_one = solved[..., 0], solved[..., 1]
        mean = np.vecdot(by_one, targets) / by_one.sum(axis=1)
        estimate = mean + np.vecdot(by_row, targets) - mean * by_row.sum(axis=1)
        return estimate, 1.0 - np.vecdot(by_row, to_row) / self._variance

    def _covariance(self, by_place: Matrix, by_all: Matrix) -> Matrix:
        """Return the kernel of distances divided by their lengths; both are overwritten."""
        for distances in (by_place, by_all):
            np.negative(distances, out=distances)
            np.exp(distances, out=distances)
        by_place *= self._place_weight
        by_place += by_all
        return by_place


def check_features(columns: Sequence[str], features: Mapping[str, Term]) -> dict[str, float]:
    """Return what columns must be greater than for these features to be numbers.

    Raises
    ------
    ValueError
        A feature is of no kind that there is, or names no column.
    """
    _neighbour_features(columns, features)
    return _row_terms(columns, features)[0].above


def _row_terms(columns: Sequence[str], features: Mapping[str, Term]) -> tuple[Terms, list[int]]:
    """Return the features that are made of the row itself, and which columns of the result they are."""
    terms = {name: term for name, term in features.items() if not term.keys() & set(NEIGHBOUR_KEYS)}
    order = [*features]
    return Terms(columns, terms), [len(columns) + order.index(name) for name in terms]


Compute = Callable[[Matrix, Matrix, Matrix, Indices, Any], Matrix]


def _neighbour_features(columns: Sequence[str], features: Mapping[str, Term]) -> list[tuple[int, Compute]]:
    """Return the features that are made of the nearest places, each with its column of the result."""
    found = []
    for number, (name, term) in enumerate(features.items(), len(columns)):
        if not term.keys() & set(NEIGHBOUR_KEYS):
            continue
        if len(term) > 1 + ("around" in term):
            raise ValueError(f"{name}: one of {', '.join((*KEYS, *NEIGHBOUR_KEYS))} is needed")
        found.append((number, _neighbour_feature(columns, term)))
    return found


def _neighbour_feature(columns: Sequence[str], term: Term) -> Compute:
    if "distance" in term:
        number = term["distance"]
        return lambda distances, targets, sums, indices, rows: distances[:, min(number, distances.shape[1]) - 1]
    if "deviation" in term:
        number = term["deviation"]
        return lambda distances, targets, sums, indices, rows: targets[:, :number].std(axis=1)
    number = term["mean"]
    if "around" in term:
        (column,) = positions(columns, [term["around"]])
        return lambda distances, targets, sums, indices, rows: rows[indices[:, :number], column].mean(axis=1)

    def mean(distances: Matrix, targets: Matrix, sums: Matrix, indices: Indices, rows: Any) -> Matrix:
        count = min(number, sums.shape[1])
        return np.asarray(sums[:, count - 1] / count)

    return mean


def _without_length(term: Term) -> Term:
    return {key: value for key, value in term.items() if key != "length"}


def _distances_within(points: Matrix) -> Matrix:
    """Return the distances between the points of each group: (..., k, d) to (..., k, k)."""
    products = points @ points.swapaxes(-1, -2)
    squares = np.einsum("...kk->...k", products).copy()
    products *= -2.0
    products += squares[..., :, None]
    products += squares[..., None, :]
    np.maximum(products, 0.0, out=products)  # rounding can leave a distance of zero slightly negative
    return np.sqrt(products, out=products)
