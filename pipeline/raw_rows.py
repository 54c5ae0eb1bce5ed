"""The raw data: a CSV file, a Parquet file, or a directory of Parquet files; read in batches, and checked.

A CSV file is one batch. Parquet is read in batches of some two million values, so that a table may be larger than
memory. What is wrong with the rows is gathered over all batches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa
import pyarrow
import pyarrow.parquet

from pipeline.stage_runner import StageError
from tableloop.table import Column, Table, data_files

BATCH_VALUES = 2_000_000
WORDS = {"not_nullable": "empty", "coerce_dtype('float64')": "not a number"}  # for pandera's names of checks
SHOWN = 5  # ranges and values shown of each problem


@dataclass(frozen=True)
class Piece:
    """So many rows of a file: its ``name`` if there are several, and the number that people give the first row."""

    name: str
    first: int
    rows: int


@dataclass(frozen=True)
class Batch:
    """Rows as they are in the raw data, with an index from 0 on, and where they come from.

    ``unit`` is what people count: the lines of a CSV file, whose header is line 1, or the rows of Parquet.
    """

    frame: pd.DataFrame
    pieces: tuple[Piece, ...]
    unit: str


def check(frame: pd.DataFrame, table: Table, what: str = "the raw data") -> pd.DataFrame:
    """Return the frame with columns of the table's types, the features in its order and then the target.

    Numbers are float64, categories and dates text, the latter in the form that `Column.written` gives them.

    Raises
    ------
    StageError
        Naming every column that is missing, unknown or holds something impossible, with the lines of the file
        (its header is line 1) and a few of the values.
    """
    checks = Check(table)
    checked = checks.rows(_of_lines(frame))
    checks.end(what)
    assert checked is not None
    return checked


def read_raw(path: Path, table: Table) -> pd.DataFrame:
    """Return all of the raw data as it is: see `batches`."""
    return pd.concat([batch.frame for batch in batches(path, table)], ignore_index=True)


def batches(path: Path, table: Table) -> Iterator[Batch]:
    """Yield the raw data as it is: of CSV numbers as numbers, everything else as text, only nothing as missing.

    Raises
    ------
    OSError, ValueError
        A file cannot be read.
    """
    if path.suffix == ".csv":
        texts = {column.name: "str" for column in table.fields if not column.is_number}
        frame = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
        yield _of_lines(frame)
        return
    most = max(1, BATCH_VALUES // len(table.fields))
    waiting: list[pyarrow.RecordBatch] = []
    pieces: list[Piece] = []
    for piece, rows in _pieces(path, most):
        # A file with other columns begins a batch of its own, so that what is wrong is said of it alone.
        full = sum(piece.rows for piece in pieces) + piece.rows > most
        if pieces and (full or not rows.schema.equals(waiting[0].schema)):
            yield _batch(waiting, pieces)
            waiting, pieces = [], []
        waiting.append(rows)
        pieces.append(piece)
    if pieces:
        yield _batch(waiting, pieces)


def raw_md5(path: Path) -> str:
    """Return the md5 of the raw data as dvc.lock has it: of a directory, that of the list of its files' md5."""
    if not path.is_dir():
        return _md5(path)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listed = [{"md5": _md5(file), "relpath": name} for name, file in sorted(files.items())]
    text = json.dumps(listed, sort_keys=True).encode()
    return f"{hashlib.md5(text, usedforsecurity=False).hexdigest()}.dir"


class Check:
    """The check of rows, batch by batch; `end` says what was wrong with all of them."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._schema = pa.DataFrameSchema({column.name: _schema(column) for column in table.fields}, strict=True)
        self._problems: dict[tuple[str, str], _Problem] = {}
        self._rows = 0

    def rows(self, batch: Batch) -> pd.DataFrame | None:
        """Return the rows as `check` does; None if something is wrong with one of them."""
        self._rows += len(batch.frame)
        if batch.frame.empty:
            return None
        try:
            checked: pd.DataFrame = self._schema.validate(batch.frame, lazy=True)
        except pa.errors.SchemaErrors as error:
            self._note(error.failure_cases, batch)
            return None
        table = self._table
        in_form = {
            column.name: _in_one_form(checked[column.name], column)
            for column in table.features
            if not column.is_number
        }
        return checked[[*table.feature_names, table.target_name]].assign(**in_form)

    def end(self, what: str) -> None:
        """Raise a `StageError` if there were no rows, or something was wrong with them; ``what`` names them."""
        if not self._rows:
            raise StageError(f"{what} holds no rows")
        if self._problems:
            problems = sorted(self._problems.values(), key=lambda problem: bool(problem.what))  # columns first
            lines = [f"{len(problems)} problems in {what}", *map(str, problems)]
            raise StageError("\n  ".join(lines))

    def _note(self, failures: pd.DataFrame, batch: Batch) -> None:
        """Take up pandera's table of single failures."""
        file = f" in {batch.pieces[0].name}" if batch.pieces[0].name else ""
        for kind, what in (("column_in_dataframe", "missing column"), ("column_in_schema", "unknown column")):
            for name in failures.loc[failures["check"] == kind, "failure_case"]:
                self._problems.setdefault((what, name), _Problem(f"{what}: {name}{file}"))
        of_values = failures.dropna(subset=["column", "index"])
        # What pandera says of a whole column's type it has said of the values before.
        of_values = of_values[~of_values["check"].str.startswith("dtype")]
        for (name, check_name), cases in of_values.groupby(["column", "check"], sort=False):
            what = WORDS.get(str(check_name), str(check_name))
            problem = self._problems.setdefault((str(name), what), _Problem(str(name), what, batch.unit))
            problem.add(np.sort(cases["index"].to_numpy(np.int64)), batch.pieces, cases["failure_case"])


@dataclass
class _Problem:
    """A column and what is wrong with it: how often, the first spans of rows as (file, first, last), and examples."""

    subject: str
    what: str = ""
    unit: str = ""
    count: int = 0
    spans: list[tuple[str, int, int]] = field(default_factory=list)
    more_spans: int = 0
    examples: dict[str, None] = field(default_factory=dict)
    _last: tuple[str, int, int] = ("", -1, -1)

    def add(self, rows: npt.NDArray[np.int64], pieces: tuple[Piece, ...], values: pd.Series[Any]) -> None:
        """Add the rows of a batch with these numbers, in order, and their values."""
        self.count += len(rows)
        examples = dict.fromkeys(str(value) for value in values.dropna())
        self.examples = dict.fromkeys([*self.examples, *examples][:SHOWN])
        start = 0
        for piece in pieces:
            inside = rows[(start <= rows) & (rows < start + piece.rows)] - start + piece.first
            starts = np.flatnonzero(np.diff(inside, prepend=-1) > 1)
            ends = np.append(starts[1:] - 1, len(inside) - 1) if len(inside) else starts
            for first, last in zip(inside[starts].tolist(), inside[ends].tolist(), strict=True):
                self._add_span(piece.name, first, last)
            start += piece.rows

    def _add_span(self, name: str, first: int, last: int) -> None:
        if self._last[0] == name and self._last[2] + 1 == first:  # it began in the batch before
            first = self._last[1]
            if not self.more_spans:
                self.spans.pop()
        elif len(self.spans) == SHOWN:
            self.more_spans += 1
        self._last = (name, first, last)
        if not self.more_spans:
            self.spans.append(self._last)

    def __str__(self) -> str:
        if not self.what:
            return self.subject
        values = "1 value" if self.count == 1 else f"{self.count:,} values"
        unit = self.unit if self.count == 1 else f"{self.unit}s"
        files: dict[str, list[str]] = {}
        for name, first, last in self.spans:
            files.setdefault(name, []).append(f"{first}" if first == last else f"{first}-{last}")
        spans = "; ".join(", ".join(listed) + (f" of {name}" if name else "") for name, listed in files.items())
        more = f" and {self.more_spans:,} more ranges" if self.more_spans else ""
        examples = f" (for example {', '.join(self.examples)})" if self.examples else ""
        return f"{self.subject}: {values} {self.what}, {unit} {spans}{more}{examples}"


def _of_lines(frame: pd.DataFrame) -> Batch:
    return Batch(frame, (Piece("", 2, len(frame)),), "line")


def _pieces(path: Path, most: int) -> Iterator[tuple[Piece, pyarrow.RecordBatch]]:
    """Yield the rows of Parquet files, at most so many at once."""
    for file in data_files(path):
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as reader:
            first = 1
            for rows in reader.iter_batches(most, use_threads=False):
                yield Piece(name, first, rows.num_rows), rows
                first += rows.num_rows


def _batch(rows: list[pyarrow.RecordBatch], pieces: list[Piece]) -> Batch:
    frame = pyarrow.Table.from_batches(rows).to_pandas().reset_index(drop=True)
    return Batch(frame, tuple(pieces), "row")


def _schema(column: Column) -> pa.Column:
    """Return what a column of the raw data has to be."""
    nullable = not column.required
    if column.is_number:
        within = f"not within {column.minimum:g} to {column.maximum:g}"
        checks = [pa.Check.in_range(column.minimum, column.maximum, error=within)]
        if column.type == "integer":
            checks.append(pa.Check(lambda values: values % 1 == 0, error="not a whole number"))
        return pa.Column(float, checks, coerce=True, nullable=nullable)

    def sound(values: pd.Series[Any]) -> pd.Series[bool]:
        return values.map({value: _is_sound(column, value) for value in values.dropna().unique()}).astype(bool)

    what = {
        "boolean": "neither true nor false",
        "string": f"none of {', '.join(column.categories)}",
    }.get(column.type, "no date in ISO 8601, or one that is not possible")
    return pa.Column(None, pa.Check(sound, error=what), nullable=nullable)


def _is_sound(column: Column, value: object) -> bool:
    try:
        column.read(str(value))
    except ValueError:
        return False
    return True


def _in_one_form(values: pd.Series[Any], column: Column) -> pd.Series[Any]:
    """Return booleans as booleans, and levels and dates as text in one form."""
    read = values.map({value: column.read(str(value)) for value in values.dropna().unique()})
    return read.astype("boolean" if column.type == "boolean" else "str")


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
