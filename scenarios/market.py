"""The rows that a story asks about, and how their values change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from pipeline.preprocess import split
from pipeline.raw_rows import check, read_raw
from scenarios.story import concerned_rows, default_story
from tableloop.table import DATA, Column, Table, Value, params_file

KEPT = 0.25  # of the rows, for the time after the promotion

Matrix = npt.NDArray[np.float64]


class Asked(NamedTuple):
    """A row to ask about: its features, its true value, what its label says, and whether this is told first now."""

    features: list[Value]
    value: float
    label: float
    first: bool


class Market:
    """Rows with their values, in random order; each group begins again when it is used up.

    A quarter is kept until `only_new`: rows that were asked about and labelled before may have been trained on since.

    Parameters
    ----------
    rows
        Rows that no version was trained on; a quarter of them is kept.
    more
        Further rows to ask about before `only_new`, where there are few of the others: a window of the same few rows
        again and again is another one than the table's.

    Attributes
    ----------
    story
        The table's, or the one that is made for it.
    features, values
        The coded columns of the rows, (n, features), and their true values as they are in the table, (n,).
    changed
        Their values when the story has happened, (n,).
    """

    def __init__(self, rows: pd.DataFrame, table: Table, more: pd.DataFrame | None = None) -> None:
        kept = int(len(rows) * KEPT)
        parts = [part.sample(frac=1, random_state=0) for part in (rows, more) if part is not None]
        rows = pd.concat(parts, ignore_index=True)
        self.features: Matrix = table.coding.frame(rows)
        self.values: Matrix = rows[table.target_name].to_numpy(np.float64)
        self.story = table.story or default_story(self.features, self.values, table)
        concerned = concerned_rows(self.features, self.story, table)
        self.changed = np.where(concerned, self._moved(table.target), self.values)
        self._favoured = concerned
        if table.place is not None:
            latitudes = self.features[:, table.feature_names.index(table.place.latitude)]
            self._favoured = concerned & (latitudes < self.story.south_of)
        natural = rows[list(table.feature_names)].astype(object)
        self._asked: list[list[Value]] = natural.where(natural.notna(), None).to_numpy().tolist()
        self._told: tuple[set[int], set[int]] = (set(), set())
        self._random = np.random.default_rng(1)
        self._kept = np.arange(kept)
        self._take(np.arange(kept, len(rows)))

    def only_new(self) -> None:
        """From now on give rows that were not asked about before."""
        self._take(self._kept)

    def next(self, *, changed: bool, mistaken: bool = False) -> Asked:
        """Return the next row; its value is the one when the story has happened, or as it is in the table.

        ``mistaken``: its label says that the story has happened, though it has not.
        """
        if not changed:
            row = next(self._all)
        else:
            row = next(self._of_favoured if self._random.random() < self.story.share else self._of_others)
        told = self._told[changed]
        first = row not in told
        told.add(row)
        values = self.changed if changed else self.values
        labels = self.changed if mistaken else values
        return Asked(self._asked[row], float(values[row]), float(labels[row]), first)

    def _moved(self, target: Column) -> Matrix:
        """Return every value changed as those that the story is about: one that is possible."""
        moved = np.clip(self.values * self.story.factor + self.story.plus, target.minimum, target.maximum)
        return np.round(moved) if target.type == "integer" else moved

    def _take(self, numbers: npt.NDArray[np.intp]) -> None:
        favoured = self._favoured[numbers]
        self._all = self._again(numbers)
        groups = (group if len(group) else numbers for group in (numbers[favoured], numbers[~favoured]))
        self._of_favoured, self._of_others = map(self._again, groups)

    def _again(self, numbers: npt.NDArray[np.intp]) -> Iterator[int]:
        while True:
            yield from self._random.permutation(numbers).tolist()


def split_rows(table: Table, directory: Path = DATA) -> dict[str, pd.DataFrame]:
    """Return the raw rows as the pipeline splits them; no version is trained on those of "test"."""
    fractions = yaml.safe_load(params_file(directory).read_text())["preprocess"]
    rows = check(read_raw(directory / table.path, table), table)
    return split(rows, table.feature_names, fractions["test_fraction"], fractions["validation_fraction"])
