"""The compiled scorer: a model's answers at a small part of scikit-learn's cost for a single row.

The regressors, that of the value and that of its expected error, run as one ONNX graph in onnxruntime. The features
are computed by `tableloop.model.design` and `tableloop.model.kriging`, for scikit-learn and here alike. All of it is
float64, so answers differ in the last digits only.

`tableloop.model.onnx_export` makes the files of a scorer. Here is what reads and runs them: without scikit-learn,
whose import would take a service as long as the rest of its start and more memory than the rest of it has.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Read when onnxruntime is loaded, which else makes an id of this machine in HOME and sends events to its makers.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import numpy.typing as npt
import onnxruntime

from tableloop.model.design import Design
from tableloop.model.intervals import Answers, interval_ends
from tableloop.model.kriging import Features, NeighbourFeatures, Neighbours

Matrix = npt.NDArray[np.float64]
_Look = Callable[[Matrix], tuple[Features, Matrix]]  # at the neighbours of rows

TREES = "trees.onnx"
ARRAYS = "arrays.npz"
FORMAT = 4  # a scorer of another format is of another version of this file, or of the neighbour search
FORMATS = (3, FORMAT)  # 3 had spatial models of plain numbers only, and is the same for these
CHUNK = 1024  # rows at a time
OUTPUTS = ["value", "error"]
MOST_BYTES = 1 << 30  # of the arrays, unpacked
TOLERANCE = 1e-6  # how far it may be from scikit-learn's values and ends of intervals, as a part of the largest


class BrokenScorerError(ValueError):
    """The files are not those of a scorer that answers as its model did."""


class Scorer:
    """Values and intervals of a model, from its compiled regressors and what its features remember.

    Safe to use from several threads; rows are taken as valid, as the service has checked them.

    Attributes
    ----------
    columns
        The names of a row's columns, in their order.
    kinds
        Of those that are no plain numbers, as `tableloop.model.coding.Coding` takes them.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], trees: bytes) -> None:
        specification = json.loads(arrays["specification"].item())
        self.columns: list[str] = specification["columns"]
        self.kinds: dict[str, Any] = specification.get("kinds", {})
        self._neighbours = NeighbourFeatures(specification, arrays) if "neighbours" in specification else None
        self._design = Design(specification, arrays) if self._neighbours is None else self._neighbours.design
        self._least_error = specification["least_error"]
        self._ends = [specification[name] for name in ("factor", "lowest", "highest")]
        options = onnxruntime.SessionOptions()
        # One row is done before a second thread has woken up; large tables are the caller's to divide.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._trees = onnxruntime.InferenceSession(trees, options, providers=["CPUExecutionProvider"])

    @classmethod
    def load(cls, directory: Path) -> Scorer:
        """Return the scorer of these files, after it has answered its example as scikit-learn did.

        Raises
        ------
        BrokenScorerError
            Whatever is wrong with them.
        """
        try:
            _check_size(directory / ARRAYS)
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
            raise BrokenScorerError(
                f"its answers for its example are up to {difference:.2g} of the largest value from scikit-learn's"
            )
        return scorer

    def difference(self, X: Matrix, expected: Matrix) -> float:
        """Return how far values and ends are from the expected, (n, 3), at most, rows together and one by one.

        It is a part of the largest value that was trained.
        """
        together = np.stack(self.predict(X)[:3], axis=1)
        one_by_one = np.concatenate([np.stack(self.predict(row[None])[:3], axis=1) for row in X])
        difference = max(np.abs(together - expected).max(), np.abs(one_by_one - expected).max())
        return float(difference) / (max(map(abs, self._ends[1:])) or 1.0)

    def predict(self, X: Matrix) -> Answers:
        """Return what the model says of rows of shape (n, columns)."""
        return self._predict(X, self._neighbours)

    def left_out(self, X: Matrix) -> Answers:
        """Return what it would say of rows of its training, of which a spatial model remembers many, without each."""
        return self._predict(X, None if self._neighbours is None else self._neighbours.left_out)

    def neighbours(self, row: Matrix, *, left_out: bool = False) -> Neighbours | None:
        """Return the training places that a row, (columns,), is compared with; None if the model remembers none.

        With ``left_out`` the row itself is none of them.
        """
        return None if self._neighbours is None else self._neighbours.neighbours(row, left_out=left_out)

    def _predict(self, X: Matrix, look: _Look | None) -> Answers:
        if 0 < len(X) <= CHUNK:
            return self._answer(*self._score(X, look))
        scored = np.empty((2 if look is None else 3, len(X)))
        for start in range(0, len(X), CHUNK):
            for row, part in zip(scored, self._score(X[start : start + CHUNK], look), strict=True):
                row[start : start + CHUNK] = part
        return self._answer(*scored)

    def _score(self, X: Matrix, look: _Look | None) -> tuple[Matrix, ...]:
        """Return values, expected errors and, of a spatial model, kilometres to the nearest place, each (n,)."""
        if look is None:
            value, error = self._trees.run(OUTPUTS, {"features": self._design(X)})
            return value[:, 0], error[:, 0]
        features, kilometres = look(X)
        value, error = self._trees.run(OUTPUTS, {"features": features.astype(np.float64)})
        return value[:, 0], error[:, 0], kilometres

    def _answer(self, values: Matrix, errors: Matrix, kilometres: Matrix | None = None) -> Answers:
        errors = np.maximum(errors, self._least_error)
        return Answers(values, *interval_ends(values, errors, *self._ends), kilometres)


def _check_size(arrays: Path) -> None:
    with zipfile.ZipFile(arrays) as archive:
        if (size := sum(member.file_size for member in archive.infolist())) > MOST_BYTES:
            raise BrokenScorerError(f"{arrays.name} unpacks to {size:,} bytes; at most {MOST_BYTES:,} are read")


def _check_belonging(arrays: Mapping[str, npt.NDArray[Any]], trees: bytes) -> None:
    if arrays["format"].item() not in FORMATS:
        raise BrokenScorerError(f"its format is {arrays['format'].item()}, not {FORMAT}")
    if arrays["trees_sha256"].item() != hashlib.sha256(trees).hexdigest():
        raise BrokenScorerError(f"{TREES} is not the file that belongs to {ARRAYS}")
    # The key under which a tensor names the file that holds it: onnxruntime would read any file of this machine.
    if b"location" in trees:
        raise BrokenScorerError(f"{TREES} has tensors in other files")
