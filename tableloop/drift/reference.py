"""What a version was made from, kept with it in some 200 kB: a summary of its training rows, and some of them.

Only numpy: the service reads it without the seconds that importing `tableloop.drift.statistics` takes, which makes it
and compares with it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tableloop.model.coding import Coding, Kinds

Matrix = npt.NDArray[np.float64]

REFERENCE_FILE = "drift_reference.npz"  # in the directory of a model version
QUANTILES = 1024
SAMPLE_ROWS = 2000


@dataclass(frozen=True)
class Reference:
    """What a version was made from.

    Attributes
    ----------
    columns : tuple of str
        The names of the features.
    quantiles : ndarray of shape (features + 1, `QUANTILES`)
        Of the features, then of the version's predictions of rows it had not seen; of the values that are known.
    counts, deviations : ndarray of shape (features + 1,)
        Of how many rows these are, and the standard deviations.
    rows : ndarray of shape (m, features)
        At most `SAMPLE_ROWS` of the rows.
    test_rmse : float
        The error that the version promised.
    missing : ndarray of shape (features + 1,)
        The shares of missing values.
    levels : ndarray of shape (features + 1, most levels)
        The shares of the levels of `level_names`, where a column has any.
    kinds : Kinds
        How its columns are coded.
    """

    columns: tuple[str, ...]
    quantiles: Matrix
    counts: Matrix
    deviations: Matrix
    rows: Matrix
    test_rmse: float
    missing: Matrix
    levels: Matrix
    kinds: Kinds

    def coded(self, coding: Coding) -> Matrix:
        """Return its rows as a model takes them, in this coding: a level that it did not know is missing."""
        rows = self.rows.copy()
        for place, name in enumerate(self.columns):
            if categories := self.kinds.get(name, {}).get("categories"):
                rows[rows[:, place] >= len(categories), place] = np.nan
        return Coding(self.columns, self.kinds).to(coding)(rows)

    def save(self, path: Path) -> None:
        """Write the reference."""
        np.savez_compressed(path, **asdict(self) | {"kinds": json.dumps(self.kinds)})

    @classmethod
    def load(cls, path: Path, columns: Sequence[str]) -> Reference:
        """Read a reference, its features in the order of ``columns``; one without names is in that order.

        Older ones are of numbers that are never missing.

        Raises
        ------
        OSError, ValueError
            There is none, the file is something else, or of other columns.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                names = tuple(file["columns"].tolist()) if "columns" in file else tuple(columns)
                numbers = ("quantiles", "counts", "deviations", "rows", "test_rmse")
                quantiles, counts, deviations, rows, test_rmse = (
                    np.asarray(file[name], dtype=np.float64) for name in numbers
                )
                missing = np.asarray(file["missing"], np.float64) if "missing" in file else np.zeros(len(counts))
                levels = np.asarray(file["levels"], np.float64) if "levels" in file else np.zeros((len(counts), 0))
                kinds = json.loads(str(file["kinds"])) if "kinds" in file else {}
        except (zipfile.BadZipFile, KeyError, EOFError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a drift reference: {error}") from None
        if sorted(names) != sorted(columns) or rows.shape[1:] != (len(columns),):
            raise ValueError(f"{path} is a drift reference of other columns: {', '.join(names)}")
        order = [names.index(name) for name in columns]
        with_predictions = [*order, len(order)]
        return cls(
            columns=tuple(columns),
            quantiles=quantiles[with_predictions],
            counts=counts[with_predictions],
            deviations=deviations[with_predictions],
            rows=rows[:, order],
            test_rmse=float(test_rmse),
            missing=missing[with_predictions],
            levels=levels[with_predictions],
            kinds=kinds,
        )
