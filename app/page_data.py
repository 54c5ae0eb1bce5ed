"""The places of the data, as the front page needs them: a map of all, one near a point, and others that compare.

Read once, when somebody asks first: 2 MB and a twentieth of a second, which a start does not wait for.
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

from app.champion import Champion
from app.schemas import HouseFeatures
from tableloop.model.kriging import KILOMETRES
from tableloop.table import FEATURE_NAMES, FEATURES, TARGET

Matrix = npt.NDArray[np.float64]

DATA: Final = Path(__file__).parents[1] / "data/raw/california_housing.csv"
COMPARABLE: Final = 6
AROUND: Final = 40  # nearest places among which the comparable ones are looked for
EXAMPLE_ROWS: Final = 200
# What makes two places alike, each by its logarithm: income, age, rooms, bedrooms, occupancy.
_ALIKE: Final = [0, 1, 2, 3, 5]
# Shares of the rows below the marks of a scale; close together at the ends, where a few values are far out.
_SHARES: Final = (0, 0.01, 0.025, 0.05, *(step / 20 for step in range(2, 19)), 0.95, 0.975, 0.99, 1)

MAP_HEADER: Final = struct.Struct("<2I4f")
MAP_STEP_DEGREES: Final = 0.01  # what the census rounded to
MAP_VALUE_STEP: Final = 0.02  # in the target's unit: a value is one byte


class NoPlacesError(Exception):
    """The data cannot be read; the message names the file and the cause."""


class Place(BaseModel):
    """One block group of the data."""

    features: dict[str, float] = Field(description="The eight features by name")
    actual_value: float = Field(description=f"{TARGET.title} in the census, in {TARGET.unit}")
    kilometres: float = Field(description="From the point that was asked about")


class FeatureScale(BaseModel):
    """One feature: how to ask for it, and what is usual."""

    name: str
    title: str
    description: str
    unit: str
    minimum: float = Field(description="Below, a value is refused")
    maximum: float = Field(description="Above, a value is refused")
    example: float
    training_range: tuple[float, float] | None = Field(
        description="What the serving model was trained on; outside, a prediction carries a warning"
    )
    scale: list[float] = Field(
        description=f"Values below which lie the shares {', '.join(f'{share:g}' for share in _SHARES)} of the data"
    )


@dataclass(frozen=True)
class Map:
    """All places as bytes, and a tag that changes with them.

    Little-endian: the number of places and a zero (uint32), the most southern latitude and the most western
    longitude in degrees, the degrees in a step and the value in a step (float32); then of all places the steps north,
    the steps east (uint16 each), and the value (uint8).
    """

    data: bytes
    zipped: bytes
    tag: str


@dataclass(frozen=True)
class Places:
    """The rows of the data: features of shape (n, 8) and targets of shape (n,)."""

    features: Matrix
    targets: Matrix

    def nearest(self, latitude: float, longitude: float) -> Place:
        """Return the place nearest to a point; of several at the same distance the first in the data."""
        distances = self._kilometres(latitude, longitude)
        return self._place(int(distances.argmin()), distances)

    def comparable(self, features: HouseFeatures) -> list[Place]:
        """Return the places most like a row, of the nearest ones that are not the row itself, the nearest first."""
        row = np.array([features.row()])
        distances = self._kilometres(row[0, 6], row[0, 7])
        itself = (self.features == row).all(axis=1)
        around = np.argsort(np.where(itself, np.inf, distances), kind="stable")[:AROUND]
        apart = (np.log1p(self.features[around][:, _ALIKE]) - np.log1p(row[:, _ALIKE])) / self._spread
        alike = np.sort(np.argsort((apart**2).sum(axis=1), kind="stable")[:COMPARABLE])
        return [self._place(int(number), distances) for number in around[alike]]

    def scales(self, champion: Champion | None) -> list[FeatureScale]:
        """Return the eight features in the order of the schema."""
        marks = np.quantile(self.features, _SHARES, axis=0).T
        ranges = champion.training_range if champion else (None,) * len(FEATURES)
        return [
            FeatureScale(
                name=column.name,
                title=column.title,
                description=column.description,
                unit=column.unit,
                minimum=column.minimum,
                maximum=column.maximum,
                example=column.example,
                training_range=known,
                scale=[float(f"{mark:.6g}") for mark in column_marks],
            )
            for column, known, column_marks in zip(FEATURES, ranges, marks, strict=True)
        ]

    def example_file(self) -> str:
        """Return rows from all over the data as CSV, without their values."""
        # Others each time: the same rows again and again would be drift.
        chosen = np.random.default_rng().permutation(len(self.features))[:EXAMPLE_ROWS]
        text = io.StringIO()
        np.savetxt(
            text,
            self.features[np.sort(chosen)],
            fmt="%.10g",
            delimiter=",",
            header=",".join(FEATURE_NAMES),
            comments="",
        )
        return text.getvalue()

    @cached_property
    def map(self) -> Map:
        """The map of all places."""
        north, east = self.features[:, 6], self.features[:, 7]
        header = MAP_HEADER.pack(len(north), 0, north.min(), east.min(), MAP_STEP_DEGREES, MAP_VALUE_STEP)
        steps = [np.rint((part - part.min()) / MAP_STEP_DEGREES).astype("<u2") for part in (north, east)]
        values = np.rint(self.targets / MAP_VALUE_STEP).clip(0, 255).astype("u1")
        data = b"".join([header, *(part.tobytes() for part in (*steps, values))])
        return Map(data, gzip.compress(data, 9, mtime=0), hashlib.sha256(data).hexdigest()[:16])

    @cached_property
    def _spread(self) -> Matrix:
        spread: Matrix = np.log1p(self.features[:, _ALIKE]).std(axis=0)
        return np.where(spread > 0, spread, 1.0)

    def _kilometres(self, latitude: float, longitude: float) -> Matrix:
        north = self.features[:, 6] - latitude
        east = (self.features[:, 7] - longitude) * math.cos(math.radians(latitude))
        distances: Matrix = np.hypot(north, east) * KILOMETRES
        return distances

    def _place(self, number: int, distances: Matrix) -> Place:
        return Place(
            features=dict(zip(FEATURE_NAMES, self.features[number].tolist(), strict=True)),
            actual_value=float(self.targets[number]),
            kilometres=round(float(distances[number]), 3),
        )


@cache
def read_places(file: Path = DATA) -> Places:
    """Return the places of a file; it is read once.

    Raises
    ------
    NoPlacesError
        It cannot be read, or is another table.
    """
    wanted = [*FEATURE_NAMES, TARGET.name]
    try:
        with file.open() as lines:
            header = lines.readline().strip().split(",")
            table = np.loadtxt(lines, delimiter=",", usecols=[header.index(name) for name in wanted], ndmin=2)
    except (OSError, ValueError) as error:
        raise NoPlacesError(f"the places of {file} cannot be shown: {error}") from error
    return Places(np.ascontiguousarray(table[:, :-1]), np.ascontiguousarray(table[:, -1]))
