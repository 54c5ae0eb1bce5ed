"""What the spatial model asks the nearest training places: the one formula of its features, in training and serving.

Only numpy and a k-d tree, so that the compiled scorer computes the very features of ``SpatialFeatures`` without the
seconds and the memory that importing scikit-learn takes.

The kriging is a nearest-neighbour Gaussian process (Datta et al. 2016, "Hierarchical Nearest-Neighbor Gaussian
Process Models for Large Geostatistical Datasets"): of the nearest ``candidates`` places the ``neighbours`` with the
largest kernel value to the row take part, so a row costs one small linear system whatever the size of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pykdtree.kdtree import KDTree

from tableloop.model.design import Design
from tableloop.model.terms import Matrix, Places, Term, Terms, positions

Features = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

KILOMETRES = 111.2  # in a degree of latitude
KERNEL = {"place_share": 0.5, "place_length": 1.0, "noise": 0.1, "place": 1.0}  # of a kernel that nobody has fitted
NEIGHBOUR_KEYS = ("distance", "mean", "deviation", "around")
LAST = ("KrigingUncertainty", "Kriging")
_CHUNK = 256  # rows at a time: their kernel matrices stay in the processor's cache


class Neighbours(NamedTuple):
    """The training places of which the kriging estimate of one row is made, the nearest first; each (count,).

    ``latitudes`` and ``longitudes`` in degrees, ``kilometres`` from the row. The estimate is the sum of the
    ``values``, each times its weight; ``weights`` add up to 1, and one may be negative where another is in its way.
    """

    latitudes: Matrix
    longitudes: Matrix
    kilometres: Matrix
    values: Matrix
    weights: Matrix


class RowInputs:
    """What is made of a row alone: its place, its features, and its inputs to the kernel.

    ``specification`` is that of `NeighbourFeatures`.
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        columns, place, kernel = (specification[name] for name in ("columns", "place", "kernel"))
        features = [(name, term) for name, term in specification["features"].items() if not _asks_places(term)]
        # With no inputs named, each plain number but those of the place is one.
        others = {*place, *specification.get("kinds", {})}
        inputs = kernel.get("inputs") or {name: {} for name in columns if name not in others}
        self.lengths = np.array([*(term.get("length", 1.0) for term in inputs.values()), *[kernel["place"]] * 2])
        self.places = Places(columns, place, specification["middle_latitude"])
        # One call for both: its overhead is most of what a single row costs.
        self._terms = Terms(columns, [*features, *((name, _without_length(term)) for name, term in inputs.items())])
        self._features = len(features)
        self.above = self._terms.above

    def __call__(self, X: Matrix, places: Matrix) -> tuple[Matrix, Matrix]:
        """Return features and inputs of rows (n, columns) at places (n, 2); the place is the last two inputs.

        Where a value is missing, so are they.
        """
        made = self._terms(X, places)
        return made[:, : self._features], np.concatenate([made[:, self._features :], places], axis=1)


class NeighbourFeatures:
    """The features of rows, from the rows themselves and from remembered places.

    Parameters
    ----------
    specification
        ``columns``, ``place``, ``middle_latitude``, ``features``, ``kernel``, ``neighbours`` and ``candidates``, as
        the parameters of `tableloop.model.spatial.SpatialFeatures` explain them; where there are other columns than
        plain numbers that are never missing, those of `tableloop.model.design.Design` as well.
    arrays
        Of the remembered places: ``places`` (m, 2), ``targets`` (m,), ``inputs`` (m, k), which are those of
        `RowInputs` times ``input_scale`` (k,), and ``rows`` (m, columns) if a feature asks what is around. Where
        values may be missing, ``input_medians`` (k,); and those of the design matrix.
    """

    def __init__(self, specification: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        columns, features, kernel = (specification[name] for name in ("columns", "features", "kernel"))
        # Scorers from before there was one have plain numbers alone.
        self.design = Design({"kinds": {}, "codes": 0, "terms": {}} | dict(specification), arrays)
        self.names = (*self.design.names, *features, *LAST)
        self._width = len(self.design.names)
        self._row_inputs = RowInputs(specification)
        self.places = self._row_inputs.places
        of_rows = [number for number, term in enumerate(features.values(), self._width) if not _asks_places(term)]
        self._of_rows = np.array(of_rows, dtype=np.intp)
        self._of_neighbours = [
            (number, _neighbour_feature(columns, term))
            for number, term in enumerate(features.values(), self._width)
            if _asks_places(term)
        ]
        self._places, self._targets, self._rows = arrays["places"], arrays["targets"], arrays.get("rows")
        self._inputs, self._input_scale = arrays["inputs"], arrays["input_scale"]
        self._input_medians = arrays.get("input_medians")
        self._place_length = kernel["place_length"]
        self._scaled_places = self._places / self._place_length
        # Only the ratio of the kernel's two parts matters to the weights, so the second one is scaled to 1.
        self._place_weight = kernel["place_share"] / (1.0 - kernel["place_share"])
        self._variance = 1.0 + self._place_weight
        self._diagonal = self._variance * (1.0 + kernel["noise"])
        self._candidates = min(specification["candidates"], len(self._places))
        self._neighbours = specification["neighbours"]
        self._tree = KDTree(self._places)

    def __call__(self, X: Matrix) -> tuple[Features, Matrix]:
        """Return the features of rows that are known to be valid, and the kilometres to their nearest places.

        Rows of shape (n, columns) give features of shape (n, features) and kilometres of shape (n,).
        """
        places = self.places(X)
        distances, indices = self.nearest(places, self._candidates)
        return self.features(X, places, distances, indices), distances[:, 0] * KILOMETRES

    def left_out(self, X: Matrix) -> tuple[Features, Matrix]:
        """Return the same of rows that may be among the remembered ones, each without itself."""
        places = self.places(X)
        distances, indices = self._others(X, places)
        return self.features(X, places, distances, indices), distances[:, 0] * KILOMETRES

    def neighbours(self, row: Matrix, *, left_out: bool = False) -> Neighbours:
        """Return the places that one row's kriging estimate is made of, with their weights.

        With ``left_out`` the row may be a remembered one, and is none of them.
        """
        X = row[np.newaxis]
        places = self.places(X)
        distances, indices = self._others(X, places) if left_out else self.nearest(places, self._candidates)
        inputs = self._scaled(self._row_inputs(X, places)[1])
        chosen, to_row, _, covariance = self._system(inputs, distances, indices)
        of_row, of_mean = np.linalg.solve(covariance[0], np.stack([to_row[0], np.ones(to_row.shape[1])], axis=1)).T
        weights = of_row + of_mean * (1.0 - of_row.sum()) / of_mean.sum()
        kilometres, numbers = distances.take(chosen[0]) * KILOMETRES, indices.take(chosen[0])
        order = np.argsort(kilometres, kind="stable")
        latitudes, longitudes = self.places.coordinates(self._places[numbers[order]]).T
        return Neighbours(latitudes, longitudes, kilometres[order], self._targets[numbers[order]], weights[order])

    def nearest(self, places: Matrix, count: int) -> tuple[Matrix, Indices]:
        """Return distances (degrees of latitude) and row numbers of the nearest training places, (n, count)."""
        distances, indices = self._tree.query(places, count)
        return distances.reshape(-1, count), indices.reshape(-1, count).astype(np.intp)

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
        of_rows, inputs = self._row_inputs(X, places)
        out[:, : self._width] = self.design(X)
        out[:, self._of_rows] = of_rows
        targets = self._targets.take(indices)
        sums = targets.cumsum(axis=1)
        for column, compute in self._of_neighbours:
            out[:, column] = compute(distances, targets, sums, indices, self._rows)
        out[:, -1], out[:, -2] = self._krige(self._scaled(inputs), distances, indices, targets)

    def _scaled(self, inputs: Matrix) -> Matrix:
        """Return the inputs as those of the remembered places are; they may be overwritten."""
        if self._input_medians is not None:
            inputs = np.where(np.isfinite(inputs), inputs, self._input_medians)
        inputs *= self._input_scale
        return inputs

    def _others(self, X: Matrix, places: Matrix) -> tuple[Matrix, Indices]:
        """Return distances and row numbers of the nearest training places, without one that is the row itself."""
        count = min(self._candidates, len(self._places) - 1)
        distances, indices = self.nearest(places, count + 1)
        inputs = self._scaled(self._row_inputs(X, places)[1])
        same = (distances == 0) & np.isclose(self._inputs[indices], inputs[:, np.newaxis]).all(axis=2)
        itself = np.zeros(same.shape, dtype=np.bool_)
        # The last one is left out where none is the row itself.
        itself[np.arange(len(X)), np.where(same.any(axis=1), same.argmax(axis=1), count)] = True
        return distances[~itself].reshape(-1, count), indices[~itself].reshape(-1, count)

    def _krige(self, inputs: Matrix, distances: Matrix, indices: Indices, targets: Matrix) -> tuple[Matrix, Matrix]:
        """Return the kriging estimates of rows and the share of variance that their neighbours leave open."""
        chosen, to_row, count, covariance = self._system(inputs, distances, indices)
        # Two right-hand sides of one system: the row's covariances, and ones for the unknown mean. What is wanted of
        # the two solutions are their products with the same two and with the values.
        columns = np.empty((len(inputs), 3, count))
        columns[:, 0], columns[:, 1], columns[:, 2] = to_row, 1.0, targets.take(chosen)
        products = columns @ np.linalg.solve(covariance, columns[:, :2].swapaxes(1, 2))
        (row_row, _), (row_one, one_one), (row_target, one_target) = products.transpose(1, 2, 0)
        mean = one_target / one_one
        return mean + row_target - mean * row_one, 1.0 - row_row / self._variance

    def _system(self, inputs: Matrix, distances: Matrix, indices: Indices) -> tuple[Indices, Matrix, int, Matrix]:
        """Return which neighbours of rows take part in the kriging, and their covariances.

        That is: their positions among all rows' neighbours (n, count), for `take`; their covariances with the row
        (n, count); the count; and those among themselves (n, count, count).
        """
        offsets = self._inputs.take(indices, axis=0)
        offsets -= inputs[:, None]
        # By place and over all inputs, here and below: what is the same for both kinds of distance is one call.
        apart = np.empty((2, *indices.shape))
        np.divide(distances, self._place_length, out=apart[0])
        np.sqrt(np.vecdot(offsets, offsets), out=apart[1])
        to_row = self._covariance(apart)

        count = min(self._neighbours, indices.shape[1])
        # Positions, because indexing with two arrays costs a single row much more.
        best = to_row.argpartition(-count, axis=1)[:, -count:]
        best += np.arange(0, indices.size, indices.shape[1])[:, None]
        offsets = offsets.reshape(-1, offsets.shape[2]).take(best, axis=0)
        around = self._scaled_places.take(indices.take(best), axis=0)
        around -= around[:, :1].copy()  # the products of small numbers are exact enough for their distances
        within = np.empty((2, len(inputs), count, count))
        for points, products in zip((around, offsets), within, strict=True):
            np.matmul(points, points.swapaxes(1, 2), out=products)
        covariance = self._covariance(_as_distances(within))
        covariance.reshape(len(inputs), -1)[:, :: count + 1] = self._diagonal
        return best, to_row.take(best), count, covariance

    def _covariance(self, distances: Matrix) -> Matrix:
        """Return the kernel of distances by place and over all inputs, (2, ...) to (...); they are overwritten.

        Both are in units of their length.
        """
        np.negative(distances, out=distances)
        np.exp(distances, out=distances)
        covariance: Matrix = distances[0]
        covariance *= self._place_weight
        covariance += distances[1]
        return covariance


Compute = Callable[[Matrix, Matrix, Matrix, Indices, Any], Matrix]


def _asks_places(term: Term) -> bool:
    return any(key in NEIGHBOUR_KEYS for key in term)


def _neighbour_feature(columns: Sequence[str], term: Term) -> Compute:
    if set(term) not in ({"distance"}, {"deviation"}, {"mean"}, {"mean", "around"}):
        raise ValueError(f"there is no feature {dict(term)}")
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


def _as_distances(products: Matrix) -> Matrix:
    """Return the distances of points from their products, (..., k, k), which are overwritten."""
    count = products.shape[-1]
    squares = products.reshape(*products.shape[:-2], -1)[..., :: count + 1].copy()  # the diagonals
    products *= -2.0
    products += squares[..., :, None]
    products += squares[..., None, :]
    np.maximum(products, 0.0, out=products)  # rounding can leave a distance of zero slightly negative
    return np.sqrt(products, out=products)
