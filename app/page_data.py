"""What the front page shows of the table: its words, its rows as a map or a chart, rows that are alike, and curves.

The data is read when somebody first asks for it: for California 2 MB and 50 ms, which the start of the service does
not wait for. Of a larger file a sample is kept.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import compress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from app.champion import Champion, Matrix
from app.likeness import Likeness
from app.schemas import TABLE, Features
from tableloop.model.kriging import KILOMETRES
from tableloop.table import DATA, Column, Comparable, Display, Table, Value, data_files
from tableloop.table import Place as PlaceColumns

ROWS: Final = 50_000  # kept of a file; a second and 10 MB for 20 columns
POINTS: Final = 3_000  # of a chart: more would hide each other
ALIKE: Final = 6
AROUND: Final = 40  # with a place, rows that are alike are chosen among this many nearest ones
EXAMPLE_ROWS: Final = 200
CURVES: Final = 60  # the first features have one
LEVELS: Final = 12  # of a category, in its curve
EVEN_STEPS: Final = 30  # integers of no more steps have each its mark on the scale
# Shares of the rows below the marks of a slider; close together at the ends, where values are far apart.
_SHARES: Final = (0, 0.01, 0.025, 0.05, *(step / 20 for step in range(2, 19)), 0.95, 0.975, 0.99, 1)

MAP_HEADER: Final = struct.Struct("<I5f")
MAP_STEP_DEGREES: Final = 0.01
MAP_STEPS: Final = 65_535
MAP_VALUE_STEPS: Final = 250  # from 0 or the least value to the greatest: a value is one byte


class NoRowsError(Exception):
    """The data cannot be read; the message names the file and the cause."""


class DataRow(BaseModel):
    """One row of the data."""

    features: dict[str, Value] = Field(description="Its features by name")
    actual_value: float = Field(description="Its value of the target")
    kilometres: float | None = Field(description="From the point that was asked for")


class Points(BaseModel):
    """Some rows as points of a chart: a feature, as a number that the models see, or null, and the target."""

    x: list[float | None]
    y: list[float]


class Curve(BaseModel):
    """The predictions for one row with other values of one feature, and the ends of their intervals."""

    name: str
    values: list[Value]
    predicted: list[float]
    low: list[float]
    high: list[float]


class FeatureScale(BaseModel):
    """One feature: what it means, which values are possible, and which are usual."""

    name: str
    title: str
    description: str
    unit: str
    type: str
    categories: tuple[str, ...] | None
    required: bool
    unknown: str = Field(description="Whether a level that is not among the categories is a `warn` or a `refuse`")
    minimum: float | str | None = Field(description="A smaller value is refused")
    maximum: float | str | None = Field(description="A greater value is refused")
    example: Value
    training_range: tuple[float | str, float | str] | None = Field(
        description="Range in the training data of the version that serves; outside it a prediction has a warning"
    )
    scale: list[float] = Field(
        description="Marks at equal distances on a slider, of dates in days since 1970. Below them lie these shares "
        f"of the data: {', '.join(f'{share:g}' for share in _SHARES)}; of few whole numbers each is a mark"
    )


class PageTable(BaseModel):
    """What the page needs to know of the table to show it."""

    rows: str
    answer: str
    target: str
    unit: str
    display: Display
    place: PlaceColumns | None
    landmarks: dict[str, tuple[float, float, float]]
    comparable: tuple[Comparable, ...]
    features: list[FeatureScale]
    total: int = Field(description="Number of rows in the file")
    kept: int = Field(description="Number of those that the page knows")


@dataclass(frozen=True)
class Map:
    """All places as bytes, and a tag that changes with them.

    Little-endian: the number of places (uint32), the southernmost latitude, the westernmost longitude and the step in
    degrees, the least value and the step of the values (float32); then for all places the steps north, the steps east
    (uint16 each) and the steps of the value (uint8).
    """

    data: bytes
    zipped: bytes
    tag: str


@dataclass(frozen=True)
class Rows:
    """Rows of the data: features, coded, of shape (n, features), and targets of shape (n,); ``total`` in the file."""

    table: Table
    features: Matrix
    targets: Matrix
    total: int

    def described(self, champion: Champion | None) -> PageTable:
        """Return what the page shows of the table, with what the version that serves was trained on."""
        table = self.table
        same = ("rows", "answer", "display", "place", "landmarks", "comparable")
        return PageTable(
            **{name: getattr(table, name) for name in same},
            target=table.target.title,
            unit=table.target.unit,
            features=[
                _described(column, marks, _range(champion, number))
                for number, (column, marks) in enumerate(zip(table.features, self._scales, strict=True))
            ],
            total=self.total,
            kept=len(self.targets),
        )

    def nearest(self, latitude: float, longitude: float) -> DataRow:
        """Return the row nearest to a point; of several at the same distance the first in the data."""
        distances = self._kilometres(latitude, longitude)
        return self.row(int(distances.argmin()), distances)

    def alike(self, features: Features) -> list[DataRow]:
        """Return the rows most like another one, without itself: the most similar first, or with a place the nearest.

        Numbers are alike when they have about the same rank in the data, categories when they are the same. With a
        place, the rows are chosen among the nearest ones.
        """
        row = self._coded(features)
        if (place := self.table.place) is None:
            return [self.row(int(number)) for number in self._first(ALIKE, row, self._likeness.apart(row))]
        distances = self._kilometres(features[place.latitude], features[place.longitude])
        around = self._first(AROUND, row, distances)
        alike = np.sort(np.argsort(self._likeness.apart(row, around), kind="stable")[:ALIKE])
        return [self.row(int(number), distances) for number in around[alike]]

    def row(self, number: int, distances: Matrix | None = None) -> DataRow:
        """Return the row of this number, ``distances`` of all rows given."""
        return DataRow(
            features=self._values(self.features[number]),
            actual_value=float(self.targets[number]),
            kilometres=None if distances is None else round(float(distances[number]), 3),
        )

    def points(self, name: str) -> Points:
        """Return the rows of `shown` as points of a chart, with a feature as x."""
        values = self.features[self.shown, self.table.feature_names.index(name)]
        return Points(x=_brief(values, 8), y=_brief(self.targets[self.shown], 6))

    @cached_property
    def shown(self) -> npt.NDArray[np.intp]:
        """The numbers of the rows that a chart shows."""
        return np.sort(np.random.default_rng(0).permutation(len(self.targets))[:POINTS])

    def example_file(self) -> str:
        """Return rows from all over the data as CSV, without their values."""
        # Different rows each time: the same rows again and again would count as drift.
        chosen = np.random.default_rng().permutation(len(self.features))[:EXAMPLE_ROWS]
        columns = self.table.features
        lines = [",".join(self.table.feature_names)]
        for row in self.features[np.sort(chosen)]:
            values = self._values(row).values()
            lines.append(",".join(column.as_csv(value) for column, value in zip(columns, values, strict=True)))
        return "\n".join([*lines, ""])

    def curves(self, features: Features, champion: Champion) -> list[Curve]:
        """Return how the prediction for a row changes with each of its features alone; nothing is logged.

        Raises
        ------
        ArithmeticError
            A prediction is not a finite number.
        """
        row = self._coded(features)
        columns = self.table.features[:CURVES]
        grids = [
            _grid(column, marks, _range(champion, number), row[number])
            for number, (column, marks) in enumerate(zip(columns, self._scales[: len(columns)], strict=True))
        ]
        ends = np.cumsum([len(grid) for grid in grids])
        asked = np.repeat(row[np.newaxis], ends[-1], axis=0)
        for number, (grid, end) in enumerate(zip(grids, ends, strict=True)):
            asked[end - len(grid) : end, number] = grid
        answers = [np.split(numbers, ends[:-1]) for numbers in champion.checked(asked)[:3]]
        return [
            Curve(
                name=column.name,
                values=[self.table.coding.value(column.name, number) for number in grid.tolist()],
                **{
                    part: _brief(numbers, 6)
                    for part, numbers in zip(("predicted", "low", "high"), parts, strict=True)
                },
            )
            for column, grid, *parts in zip(columns, grids, *answers, strict=True)
        ]

    @cached_property
    def map(self) -> Map:
        """The map of all places."""
        places = (self._north, self._east)
        least, most = float(self.targets.min()), float(self.targets.max())
        least = 0.0 if 0 < least < most / 2 else least  # as the axis of the page
        value_step = max(most - least, 1e-9) / MAP_VALUE_STEPS
        step = MAP_STEP_DEGREES
        if any(not np.allclose(part, np.rint(part / step) * step, atol=1e-6) for part in places):
            step = max(float(np.ptp(part)) for part in places) / MAP_STEPS or step  # the data is finer than that
        south, west = (part.min() for part in places)
        header = MAP_HEADER.pack(len(self.targets), south, west, step, least, value_step)
        steps = [np.rint((part - part.min()) / step).astype("<u2") for part in places]
        values = np.rint((self.targets - least) / value_step).clip(0, 255).astype("u1")
        data = b"".join([header, *(part.tobytes() for part in (*steps, values))])
        return Map(data, gzip.compress(data, 9, mtime=0), hashlib.sha256(data).hexdigest()[:16])

    @cached_property
    def _north(self) -> Matrix:
        assert self.table.place is not None
        return self._column(self.table.place.latitude)

    @cached_property
    def _east(self) -> Matrix:
        assert self.table.place is not None
        return self._column(self.table.place.longitude)

    def _column(self, name: str) -> Matrix:
        return np.ascontiguousarray(self.features[:, self.table.feature_names.index(name)])

    def _kilometres(self, latitude: float, longitude: float) -> Matrix:
        north = self._north - latitude
        east = (self._east - longitude) * math.cos(math.radians(latitude))
        distances: Matrix = np.hypot(north, east) * KILOMETRES
        return distances

    @cached_property
    def _scales(self) -> list[Matrix]:
        return [_scale(column, values) for column, values in zip(self.table.features, self.features.T, strict=True)]

    @cached_property
    def _likeness(self) -> Likeness:
        return Likeness(self.table, self.features)

    def _first(self, number: int, row: Matrix, distances: Matrix) -> npt.NDArray[np.intp]:
        """Return so many rows with the shortest distances, in order, without a given row itself."""
        here = np.flatnonzero(distances == 0)
        others = self.features[here]
        itself = here[((others == row) | (np.isnan(others) & np.isnan(row))).all(axis=1)]
        order = np.argsort(distances, kind="stable")[: number + len(itself)]
        return order[~np.isin(order, itself)][:number]

    def _coded(self, features: Features) -> Matrix:
        row: Matrix = self.table.coding.rows([[features.get(name) for name in self.table.feature_names]])[0]
        return row

    def _values(self, row: Matrix) -> dict[str, Value]:
        coding = self.table.coding
        return {name: coding.value(name, number) for name, number in zip(coding.names, row.tolist(), strict=True)}


@cache
def table_rows() -> Rows:
    """Return the rows of the table that is served; they are read once.

    Raises
    ------
    NoRowsError
    """
    return read_rows(DATA / TABLE.path, TABLE)


def read_rows(file: Path, table: Table) -> Rows:
    """Return the rows of a file, or of a directory of Parquet files: a sample of at most `ROWS`, the same each time.

    Raises
    ------
    NoRowsError
        The file cannot be read, or has not the columns of the table.
    """
    try:
        rows, total = (_read_csv if file.suffix == ".csv" else _read_parquet)(file, table)
    except (OSError, ValueError) as error:
        raise NoRowsError(f"the data in {file} cannot be shown: {error}") from error
    return Rows(table, np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, -1]), total)


def _read_csv(file: Path, table: Table) -> tuple[Matrix, int]:
    """Return features and target, of shape (n, features + 1), and how many rows the file has."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(_records(lines)), [])
        places = [header.index(name) for name in (*table.feature_names, table.target_name)]
        total = sum(1 for _ in _records(lines))
        if not total:
            raise ValueError("it has no rows")
        lines.seek(0)
        next(records := _records(lines))
        rows = np.loadtxt(
            compress(records, _chosen(total).tolist()),
            delimiter=",",
            comments=None,
            quotechar='"',
            usecols=places,
            ndmin=2,
            # A float needs none, and is read twice as fast by numpy itself.
            converters={
                place: read for place, read in zip(places, _readers(table), strict=True) if read is not float
            },
        )
    return rows, total


def _read_parquet(file: Path, table: Table) -> tuple[Matrix, int]:
    """Return the same of a Parquet file, or of those in a directory."""
    import pyarrow as pa  # noqa: PLC0415 - saves 30 MB where the data is CSV
    import pyarrow.compute as pc  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    names = [*table.feature_names, table.target_name]
    files = data_files(file)
    schemas = [pq.read_schema(one) for one in files]
    total = sum(pq.read_metadata(one).num_rows for one in files)
    if missing := [name for name in names if any(name not in schema.names for schema in schemas)]:
        raise ValueError(f"it has no column {', '.join(missing)}")
    if not total:
        raise ValueError("it has no rows")
    chosen, done, parts = _chosen(total), 0, []
    for batch in _batches(files, names):
        part = chosen[done : done + batch.num_rows]
        done += batch.num_rows
        # pa.array would import pandas to see whether it has something to do.
        bits = pa.py_buffer(np.packbits(part, bitorder="little"))
        rows = batch.filter(pa.Array.from_buffers(pa.bool_(), len(part), [None, bits]))
        texts = [pc.cast(rows.column(name), pa.string()).to_pylist() for name in names]
        parts.append(
            [[reader(text or "") for text in column] for reader, column in zip(_readers(table), texts, strict=True)]
        )
    pa.default_memory_pool().release_unused()
    return np.concatenate([np.array(part, dtype=np.float64).T for part in parts]), total


def _batches(files: Sequence[Path], names: Sequence[str]) -> Iterator[Any]:
    """Yield the rows of Parquet files page by page, without keeping any."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    for file in files:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as reader:
            yield from reader.iter_batches(columns=list(names), use_threads=False)


def _readers(table: Table) -> list[Callable[[str], float]]:
    """Return what makes a number of a text in a file, for each feature and the target."""
    return [_reader(table, column) for column in (*table.features, table.target)]


def _reader(table: Table, column: Column) -> Callable[[str], float]:
    if column.is_number:
        return float if column.required else lambda text: float(text.strip() or math.nan)

    @cache
    def read(text: str) -> float:
        return float(table.coding.column(column.name, [column.read(text)])[0])

    return read


def _records(lines: Iterable[str]) -> Iterator[str]:
    """Yield the records of a CSV text that are not blank: a value in quotes may have several lines."""
    record = ""
    for line in lines:
        if not record and '"' not in line:
            if not line.isspace():
                yield line
            continue
        record += line
        if record.count('"') % 2 == 0:
            yield record
            record = ""


def _chosen(total: int) -> npt.NDArray[np.bool_]:
    """Return which of the rows of a file are kept, of shape (total,)."""
    chosen = np.zeros(total, dtype=np.bool_)
    chosen[np.random.default_rng(0).permutation(total)[:ROWS]] = True
    return chosen


def _described(column: Column, marks: Matrix, known: tuple[float, float] | None) -> FeatureScale:
    written: Callable[[float], float | str] = float if column.is_number else column.written
    return FeatureScale(
        **column.model_dump(include={"name", "title", "description", "unit", "type", "unknown", "example"}),
        categories=column.categories or None,
        required=column.required,
        minimum=written(column.minimum) if column.is_ordered else None,
        maximum=written(column.maximum) if column.is_ordered else None,
        training_range=known and (written(known[0]), written(known[1])),
        scale=marks.tolist(),
    )


def _range(champion: Champion | None, number: int) -> tuple[float, float] | None:
    """Return the range of an ordered feature in the training data of a version."""
    known = champion.known[number] if champion else None
    return known if isinstance(known, tuple) else None


def _scale(column: Column, values: Matrix) -> Matrix:
    """Return the marks of a feature's slider, in order; none of one that has no order."""
    if not column.is_ordered:
        return np.empty(0)
    values = values[~np.isnan(values)]
    if not len(values):
        return np.array([column.minimum, column.maximum])
    least, most = values.min(), values.max()
    if column.type == "integer" and 0 < most - least <= EVEN_STEPS:
        return np.arange(least, most + 1)
    return np.array(_brief(np.quantile(values, _SHARES), 6 if column.is_number else 8))


def _grid(column: Column, marks: Matrix, known: tuple[float, float] | None, value: float) -> Matrix:
    """Return the values of a feature at which its curve is computed, all within the range of training."""
    if column.is_ordered:
        grid = marks if known is None else np.clip(marks, *known)
        grid = np.unique(np.rint(grid) if column.type in ("integer", "date") else grid)
    else:
        grid = (
            np.arange(2.0)
            if column.type == "boolean"
            else np.arange(min(LEVELS, len(column.categories)), dtype=np.float64)
        )
        if not np.isnan(value) and value not in grid:
            grid = np.append(grid, value)
    return grid if column.required else np.append(grid, np.nan)


def _brief(numbers: Matrix, digits: int) -> list[Any]:
    return [None if math.isnan(number) else float(f"{number:.{digits}g}") for number in numbers.tolist()]
