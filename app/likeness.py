"""How unlike rows of a table are: numbers by their ranks in the data, categories by whether they are the same."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from app.champion import Matrix
from tableloop.table import Table

UNLIKE: Final = 0.25  # of two levels, or of a value and none; half of the range of numbers apart, squared


class Likeness:
    """Compares rows with those of the data, which are coded, of shape (n, features)."""

    def __init__(self, table: Table, features: Matrix) -> None:
        self._table = table
        self._features = features

    def apart(self, row: Matrix, rows: Any = slice(None)) -> Matrix:
        """Return how unlike a row those ``rows`` of the data are that an index names; 0 of the same row."""
        apart: Matrix = np.zeros(len(self._features))[rows]
        for number, (column, ranks) in enumerate(zip(self._table.features, self._ranks, strict=True)):
            others, rank = ranks[rows], np.float32(self._rank(number, row[number]))
            if np.isnan(rank):
                apart += UNLIKE * ~np.isnan(others)
            elif column.is_ordered:
                squared = ((others - rank) / len(self._features)) ** 2
                apart += squared if column.required else np.where(np.isnan(squared), UNLIKE, squared)
            else:
                apart += UNLIKE * (others != rank)
        return apart

    @cached_property
    def _known(self) -> list[Matrix]:
        """The values of each column that are not missing, in order."""
        return [np.sort(values[~np.isnan(values)]) for values in self._features.T]

    @cached_property
    def _ranks(self) -> npt.NDArray[np.float32]:
        """The rank of each value among those of its column, or the code of a level; of shape (features, n)."""
        ranks = np.empty(self._features.T.shape, dtype=np.float32)
        for number, values in enumerate(self._features.T):
            ranks[number] = self._rank(number, values)
        return ranks

    def _rank(self, number: int, values: npt.ArrayLike) -> Matrix:
        if not self._table.features[number].is_ordered:
            return np.asarray(values)
        return np.where(np.isnan(values), np.nan, np.searchsorted(self._known[number], values))
