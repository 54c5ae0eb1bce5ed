"""The rows that a story asks about, and how their values change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial import cKDTree

from pipeline.preprocess import check, split
from pipeline.stage_runner import load_params, raw_data
from tableloop.table import Place, Story, Table

KEPT = 0.25  # of the rows, for the time after the promotion
EARTH_KM = 6371.0

Matrix = npt.NDArray[np.float64]


class Market:
    """Rows with their values, in random order; each group begins again when it is used up.

    A quarter is kept until `only_new`: rows that were asked about and labelled before may have been trained on since.

    Attributes
    ----------
    features, values
        The columns of the rows, (n, features), and their true values as they are in the table, (n,).
    changed
        Their values in the changed market of `table.story`, (n,); the same values for a table without a story.
    """

    def __init__(self, rows: pd.DataFrame, table: Table) -> None:
        rows = rows.sample(frac=1, random_state=0)
        self.features: Matrix = rows[list(table.feature_names)].to_numpy(np.float64)
        self.values: Matrix = rows[table.target.name].to_numpy(np.float64)
        self.changed = self.values
        self._favoured, self._share = np.zeros(len(rows), dtype=bool), 0.0
        if table.story and table.place:
            near = near_line(rows, table.place, table.story)
            self.changed = np.where(near, self.values * table.story.factor, self.values)
            self._favoured = near & (rows[table.place.latitude].to_numpy() < table.story.south_of)
            self._share = table.story.share
        self._random = np.random.default_rng(1)
        kept = int(len(rows) * KEPT)
        self._kept = np.arange(kept)
        self._take(np.arange(kept, len(rows)))

    def only_new(self) -> None:
        """From now on give rows that were not asked about before."""
        self._take(self._kept)

    def next(self, *, changed: bool) -> tuple[list[float], float]:
        """Return the features of the next row and its value, in the changed market or as it is in the table."""
        if not changed:
            row = next(self._all)
            return self.features[row].tolist(), float(self.values[row])
        row = next(self._of_favoured if self._random.random() < self._share else self._of_others)
        return self.features[row].tolist(), float(self.changed[row])

    def _take(self, numbers: npt.NDArray[np.intp]) -> None:
        favoured = self._favoured[numbers]
        self._all = self._again(numbers)
        self._of_favoured, self._of_others = self._again(numbers[favoured]), self._again(numbers[~favoured])

    def _again(self, numbers: npt.NDArray[np.intp]) -> Iterator[int]:
        while True:
            yield from self._random.permutation(numbers).tolist()


def split_rows(table: Table) -> dict[str, pd.DataFrame]:
    """Return the raw rows as the pipeline splits them; no version is trained on those of "test"."""
    fractions = load_params()["preprocess"]
    rows = check(pd.read_csv(raw_data(table)), table)
    return split(rows, table.feature_names, fractions["test_fraction"], fractions["validation_fraction"])


def near_line(rows: pd.DataFrame, place: Place, story: Story) -> npt.NDArray[np.bool_]:
    """Return which rows lie within `story.kilometres` of the story's line, (n,)."""
    line = np.concatenate([np.linspace(start, end, 50) for start, end in itertools.pairwise(story.line)])
    places = rows[[place.latitude, place.longitude]].to_numpy(np.float64)
    distances, _ = cKDTree(_on_sphere(line)).query(_on_sphere(places))
    return np.asarray(distances < story.kilometres)


def _on_sphere(degrees: Matrix) -> Matrix:
    """Return latitudes and longitudes, (n, 2), as points in space, (n, 3), in kilometres."""
    north, east = np.radians(degrees).T
    return EARTH_KM * np.column_stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)])
