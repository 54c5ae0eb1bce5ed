"""What the front page shows of the table: its words, a map of its places, and places that compare.

The data is read when somebody first asks for it: 2 MB and 50 ms, which the start of the service does not wait for.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from app.champion import Champion, Matrix
from app.schemas import TABLE, Features
from tableloop.model.kriging import KILOMETRES
from tableloop.table import DATA, Comparable, Display
from tableloop.table import Place as PlaceColumns

COMPARABLE: Final = 6
AROUND: Final = 40  # comparable places are chosen among this many nearest ones
EXAMPLE_ROWS: Final = 200
# Shares of the rows below the marks of a slider; close together at the ends, where values are far apart.
_SHARES: Final = (0, 0.01, 0.025, 0.05, *(step / 20 for step in range(2, 19)), 0.95, 0.975, 0.99, 1)

MAP_HEADER: Final = struct.Struct("<2I4f")
MAP_STEP_DEGREES: Final = 0.01
MAP_VALUE_STEPS: Final = 250  # from 0 to the greatest value: a value is one byte


class NoPlacesError(Exception):
    """The data cannot be read or has no places; the message names the file and the cause."""


class Place(BaseModel):
    """One row of the data."""

    features: dict[str, float] = Field(description="Its features by name")
    actual_value: float = Field(description="Its value of the target")
    kilometres: float = Field(description="From the point that was asked for")


class FeatureScale(BaseModel):
    """One feature: what it means, which values are possible, and which are usual."""

    name: str
    title: str
    description: str
    unit: str
    minimum: float = Field(description="A smaller value is refused")
    maximum: float = Field(description="A greater value is refused")
    example: float
    training_range: tuple[float, float] | None = Field(
        description="Range in the training data of the version that serves; outside it a prediction has a warning"
    )
    scale: list[float] = Field(
        description=f"Values below which these shares of the data lie: {', '.join(f'{share:g}' for share in _SHARES)}"
    )


class PageTable(BaseModel):
    """What the page needs to know of the table to show it."""

    rows: str
    answer: str
    target: str
    unit: str
    display: Display
    place: PlaceColumns
    landmarks: dict[str, tuple[float, float, float]]
    comparable: tuple[Comparable, ...]
    features: list[FeatureScale]


def page_table(places: Places, champion: Champion | None) -> PageTable:
    """Return what the page shows of the table, with what the version that serves was trained on."""
    ranges = champion.training_range if champion else (None,) * len(TABLE.features)
    assert TABLE.place is not None  # or there are no places
    return PageTable(
        **{name: getattr(TABLE, name) for name in ("rows", "answer", "display", "place", "landmarks", "comparable")},
        target=TABLE.target.title,
        unit=TABLE.target.unit,
        features=[
            FeatureScale(
                **column.model_dump(include={"name", "title", "description", "unit", "example"}),
                minimum=column.minimum,
                maximum=column.maximum,
                training_range=known,
                scale=[float(f"{mark:.6g}") for mark in marks],
            )
            for column, known, marks in zip(TABLE.features, ranges, places.scales(), strict=True)
        ],
    )


@dataclass(frozen=True)
class Map:
    """All places as bytes, and a tag that changes with them.

    Little-endian: the number of places and a zero (uint32), the southernmost latitude and the westernmost longitude
    in degrees, the degrees per step and the value per step (float32); then for all places the steps north, the steps
    east (uint16 each) and the steps of the value (uint8).
    """

    data: bytes
    zipped: bytes
    tag: str


@dataclass(frozen=True)
class Places:
    """The rows of the data: features of shape (n, features), and targets, latitudes and longitudes of shape (n,)."""

    features: Matrix
    targets: Matrix
    north: Matrix
    east: Matrix

    def nearest(self, latitude: float, longitude: float) -> Place:
        """Return the place nearest to a point; of several at the same distance the first in the data."""
        distances = self._kilometres(latitude, longitude)
        return self._place(int(distances.argmin()), distances)

    def comparable(self, features: Features) -> list[Place]:
        """Return the places most like a row, chosen among the nearest ones without the row itself, nearest first.

        Two rows are alike when each feature has about the same rank in the data.
        """
        assert TABLE.place is not None
        row = np.array(list(features.values()))
        distances = self._kilometres(features[TABLE.place.latitude], features[TABLE.place.longitude])
        itself = (self.features == row).all(axis=1)
        around = np.argsort(np.where(itself, np.inf, distances), kind="stable")[:AROUND]
        apart = np.zeros(len(around))
        for values, value, ordered in zip(self.features[around].T, row, self._ordered, strict=True):
            ranks, rank = np.searchsorted(ordered, values), np.searchsorted(ordered, value)
            apart += ((ranks - rank) / len(ordered)) ** 2
        alike = np.sort(np.argsort(apart, kind="stable")[:COMPARABLE])
        return [self._place(int(number), distances) for number in around[alike]]

    def scales(self) -> list[list[float]]:
        """Return for each feature the values below which `_SHARES` of the data lie."""
        marks: list[list[float]] = np.quantile(self.features, _SHARES, axis=0).T.tolist()
        return marks

    def example_file(self) -> str:
        """Return rows from all over the data as CSV, without their values."""
        # Different rows each time: the same rows again and again would count as drift.
        chosen = np.random.default_rng().permutation(len(self.features))[:EXAMPLE_ROWS]
        text = io.StringIO()
        header = ",".join(TABLE.feature_names)
        np.savetxt(text, self.features[np.sort(chosen)], "%.10g", ",", header=header, comments="")
        return text.getvalue()

    @cached_property
    def map(self) -> Map:
        """The map of all places."""
        north, east = self.north, self.east
        value_step = max(float(self.targets.max()), 1e-9) / MAP_VALUE_STEPS
        header = MAP_HEADER.pack(len(north), 0, north.min(), east.min(), MAP_STEP_DEGREES, value_step)
        steps = [np.rint((part - part.min()) / MAP_STEP_DEGREES).astype("<u2") for part in (north, east)]
        values = np.rint(self.targets / value_step).clip(0, 255).astype("u1")
        data = b"".join([header, *(part.tobytes() for part in (*steps, values))])
        return Map(data, gzip.compress(data, 9, mtime=0), hashlib.sha256(data).hexdigest()[:16])

    @cached_property
    def _ordered(self) -> npt.NDArray[np.float64]:
        return np.sort(self.features, axis=0).T

    def _kilometres(self, latitude: float, longitude: float) -> Matrix:
        north = self.north - latitude
        east = (self.east - longitude) * math.cos(math.radians(latitude))
        distances: Matrix = np.hypot(north, east) * KILOMETRES
        return distances

    def _place(self, number: int, distances: Matrix) -> Place:
        return Place(
            features=dict(zip(TABLE.feature_names, self.features[number].tolist(), strict=True)),
            actual_value=float(self.targets[number]),
            kilometres=round(float(distances[number]), 3),
        )


@cache
def read_places(file: Path = DATA / TABLE.path) -> Places:
    """Return the places of a file; it is read once.

    Raises
    ------
    NoPlacesError
        The file cannot be read, or has not the columns of the table, or the table has no places.
    """
    if TABLE.place is None:
        raise NoPlacesError(f"the table {TABLE.name} has no columns for a place")
    names = [*TABLE.feature_names, TABLE.target_name]
    try:
        with file.open() as lines:
            header = lines.readline().strip().split(",")
            places = [header.index(name) for name in names]
            rows = np.loadtxt(lines, delimiter=",", usecols=places, ndmin=2)
    except (OSError, ValueError) as error:
        raise NoPlacesError(f"the places of {file} cannot be shown: {error}") from error
    columns = dict(zip(names, np.ascontiguousarray(rows.T), strict=True))
    features = np.column_stack([columns[name] for name in TABLE.feature_names])
    return Places(features, columns[TABLE.target_name], columns[TABLE.place.latitude], columns[TABLE.place.longitude])
