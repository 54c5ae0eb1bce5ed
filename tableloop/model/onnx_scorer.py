"""The compiled scorer: the spatial model's answers at a small part of scikit-learn's cost for a single row.

The trees, those of the value and those of its expected error, run as one ONNX graph in onnxruntime. Its features come
from `tableloop.model.kriging` like scikit-learn's: rows together by the same code, a single row by the same formulas
on small arrays, where the overhead of general array code would take most of the time. All of it is float64, so
answers differ in the last digits only.

`tableloop.model.onnx_export` makes the files of a scorer. Here is what reads and runs them: without scikit-learn,
whose import would take a service as long as the rest of its start and more memory than the rest of it has.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Read when onnxruntime is loaded, which else makes an id of this machine in HOME and sends events to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnxruntime
from scipy.linalg.lapack import dposv
from scipy.spatial.distance import cdist

from tableloop.model.intervals import SCALE_FLOOR, Answers, interval_ends
from tableloop.model.kriging import (
    BEDROOMS_BOUNDS,
    EASTWARD,
    FEATURES_OUT,
    KILOMETRES,
    OCCUPANCY_BOUNDS,
    ROOMS_BOUNDS,
    Neighbours,
)

Matrix = npt.NDArray[np.float64]

DIRECTORY = "scorer"  # beside the model's own files
TREES = "trees.onnx"
ARRAYS = "arrays.npz"
FORMAT = 2  # a scorer of another format is of another version of this file, or of the neighbour search
CHUNK = 1024  # rows at a time
FEW = 2  # rows that are faster one by one than together
OUTPUTS = ["value", "error"]
TOLERANCE = 1e-4  # ten dollars: how far it may be from scikit-learn's values and ends of intervals
_DISTANCE = FEATURES_OUT.index("Distance1")


class BrokenScorerError(ValueError):
    """The files are not those of a scorer that answers as its model did."""


class Scorer:
    """Values and intervals of a spatial model, from its compiled trees and the places it remembers.

    Safe to use from several threads; rows are taken as valid, as the service has checked them.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], trees: bytes) -> None:
        self._places = _places(arrays)
        self._factor, self._lowest, self._highest = (arrays[name].item() for name in ("factor", "lowest", "highest"))
        options = onnxruntime.SessionOptions()
        # One row is done before a second thread has woken up; large tables are the caller's to divide.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._trees = onnxruntime.InferenceSession(trees, options, providers=["CPUExecutionProvider"])
        self._features_of_one = _features_of_one(self._places)

    @classmethod
    def load(cls, directory: Path) -> Scorer:
        """Return the scorer of these files, after it has answered its example as scikit-learn did.

        Raises
        ------
        BrokenScorerError
            Whatever is wrong with them.
        """
        try:
            with (directory / ARRAYS).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = dict(stored)
            trees = (directory / TREES).read_bytes()
            _check_belonging(arrays, trees)
            scorer = cls(arrays, trees)
            difference = scorer.difference(arrays["example"], arrays["expected"])
        except BrokenScorerError:
            raise
        except Exception as error:  # onnxruntime, zipfile and numpy have their own kinds for a damaged file
            raise BrokenScorerError(f"it cannot be read: {error}") from error
        if not difference <= TOLERANCE:
            raise BrokenScorerError(f"its answers are up to {difference:.2g} from scikit-learn's for its example")
        return scorer

    def difference(self, X: Matrix, expected: Matrix) -> float:
        """Return how far values and ends are from the expected, (n, 3), at most, rows together and one by one."""
        together = np.stack(self.predict(X)[:3], axis=1)
        one_by_one = np.array([self.score(row)[:3] for row in X.tolist()])
        return float(max(np.abs(together - expected).max(), np.abs(one_by_one - expected).max()))

    def predict(self, X: Matrix) -> Answers:
        """Return what the model says of rows of shape (n, 8)."""
        if 0 < len(X) <= FEW:
            return Answers(*np.array([self.score(row) for row in X.tolist()]).T)
        values, errors, distances = np.empty((3, len(X)))
        for start in range(0, len(X), CHUNK):
            rows = slice(start, start + CHUNK)
            features = self._places.features(X[rows]).astype(np.float64)
            value, error = self._trees.run(OUTPUTS, {"features": features})
            values[rows], errors[rows], distances[rows] = value[:, 0], error[:, 0], features[:, _DISTANCE]
        low, high = interval_ends(values, errors, self._factor, self._lowest, self._highest)
        return Answers(values, low, high, distances * KILOMETRES)

    def score(self, row: Sequence[float]) -> tuple[float, float, float, float]:
        """Return value, lower end, upper end and kilometres of one row: eight floats in the order of the schema."""
        features = self._features_of_one(row)
        value_, error = self._trees.run(OUTPUTS, {"features": features})
        value: float = value_.item()
        width = self._factor * max(error.item(), SCALE_FLOOR)
        return (
            value,
            min(max(value - width, self._lowest), value),
            max(min(value + width, self._highest), value),
            features.item(_DISTANCE) * KILOMETRES,
        )


def _check_belonging(arrays: Mapping[str, npt.NDArray[Any]], trees: bytes) -> None:
    if arrays["format"].item() != FORMAT:
        raise BrokenScorerError(f"its format is {arrays['format'].item()}, not {FORMAT}")
    if arrays["trees_sha256"].item() != hashlib.sha256(trees).hexdigest():
        raise BrokenScorerError(f"{TREES} is not the file that belongs to {ARRAYS}")


def _places(arrays: Mapping[str, npt.NDArray[Any]]) -> Neighbours:
    places = Neighbours()
    places.wide = False
    places.neighbours, places.candidates = arrays["neighbours"].item(), arrays["candidates"].item()
    places.inputs_, places.places_, places.targets_ = arrays["inputs"], arrays["places"], arrays["targets"]
    places.input_scale_ = arrays["input_scale"]
    places.place_length_, places.place_weight_ = arrays["place_length"].item(), arrays["place_weight"].item()
    places.noise_ = arrays["noise"].item()
    places.index()
    return places


def _features_of_one(places: Neighbours) -> Callable[[Sequence[float]], Matrix]:
    """Return a function that makes the features of one row, shape (1, m): ``Neighbours.features`` for a row.

    Formulas and their order are those of ``Neighbours``, with plain floats where a row has one number. Whatever the
    function uses is a local name here, because it is looked up at every call.
    """
    nearest, inputs, targets = places._tree.query, places.inputs_, places.targets_
    # As complex numbers, places are one array, and the absolute value of a difference is a distance.
    spots = places.places_.view(np.complex128).ravel() / places.place_length_
    scales = places.input_scale_.tolist()
    # The two parts of the kernel: by place, and by all inputs.
    factors, weights = np.array([[-1.0 / places.place_length_], [-1.0]]), np.array([places.place_weight_, 1.0])
    variance = 1.0 + places.place_weight_
    diagonal = variance * (1.0 + places.noise_)
    near = min(places.candidates, len(targets))
    count = min(places.neighbours, near)
    five, twenty = min(5, near), min(20, near)
    width, half = len(FEATURES_OUT), math.sqrt(0.5)
    array, empty, log, exp, sqrt = np.array, np.empty, math.log, np.exp, np.sqrt
    absolute, negative, vecdot = np.absolute, np.negative, np.vecdot
    (fewest, most), (least, largest), (lonely, crowded) = ROOMS_BOUNDS, BEDROOMS_BOUNDS, OCCUPANCY_BOUNDS
    of_income, of_age, of_rooms, of_bedrooms, of_population, of_occupancy, of_north, of_east = scales

    def features(row: Sequence[float]) -> Matrix:
        income, age, rooms, bedrooms, population, occupancy, north, longitude = row
        east, share = longitude * EASTWARD, bedrooms / rooms
        (distances,), (indices,) = nearest(array(((north, east),)), near)
        values = targets.take(indices)
        sums = values[:twenty].cumsum()

        offsets = inputs.take(indices, 0)
        offsets -= array(
            (
                log(income + 0.5) * of_income,
                age * of_age,
                log(min(max(rooms, fewest), most)) * of_rooms,
                log(min(max(share, least), largest)) * of_bedrooms,
                log(population + 1.0) * of_population,
                log(min(max(occupancy, lonely), crowded)) * of_occupancy,
                north * of_north,
                east * of_east,
            )
        )
        parts = empty((2, near))
        parts[0] = distances
        sqrt(vecdot(offsets, offsets), parts[1])
        parts *= factors
        exp(parts, parts)
        to_row = weights.dot(parts)

        best = to_row.argpartition(near - count)[near - count :]
        around, offsets = spots.take(indices.take(best)), offsets.take(best, 0)
        kernels = empty((2, count, count))
        absolute(around[:, None] - around, kernels[0])
        cdist(offsets, offsets, out=kernels[1])
        negative(kernels, kernels)
        exp(kernels, kernels)
        covariance = weights.dot(kernels.reshape(2, -1))
        covariance[:: count + 1] = diagonal

        columns = empty((3, count))
        columns[0], columns[1], columns[2] = to_row.take(best), 1.0, values.take(best)
        # Symmetric and positive definite, so Cholesky; the transposed arrays are in the order that LAPACK wants.
        _, solved, _ = dposv(covariance.reshape(count, count).T, columns[:2].T, overwrite_a=1)
        (row_row, row_one, row_target), (_, one_one, one_target) = columns.dot(solved).T.tolist()
        mean = one_target / one_one
        kriging = mean + row_target - mean * row_one
        out = empty((1, width), np.float32)
        out[0] = (
            income, age, rooms, bedrooms, population, occupancy, north, longitude,
            rooms / occupancy, share, income * rooms, (north + east) * half, (north - east) * half,
            distances.item(0), distances.item(five - 1), sums.item(five - 1) / five, sums.item(twenty - 1) / twenty,
            1.0 - row_row / variance, kriging,
        )  # fmt: skip
        return out.astype(np.float64)

    return features
