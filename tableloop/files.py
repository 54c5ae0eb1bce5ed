"""Files of rows, CSV or Parquet: read and written a few thousand rows at a time, checked against the table.

Columns are found by name. Those of the table become float64; all others go through as they are, which for CSV means
as text. What is computed is appended as `output_columns`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from tableloop.model.intervals import Answers
from tableloop.table import Column, Table

Matrix = npt.NDArray[np.float64]
Kind = Literal["csv", "parquet"]

BATCH_ROWS: Final = 4096
MAX_ROWS: Final = 10_000_000
MAX_PROBLEMS: Final = 100
# Text of CSV is parsed by blocks of bytes, and a row must fit into one.
_BLOCK_BYTES: Final = 1 << 20
_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def output_columns(answer: str) -> tuple[str, ...]:
    """Return the names of the columns that are appended; ``answer`` is the name of the predicted value."""
    return (answer, "low", "high", "model_version", "prediction_id")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a table: where, counted from 1 without the header, and in which column, if it is in one."""

    message: str
    row: int | None = None
    column: str | None = None
    value: str | None = None

    def __str__(self) -> str:
        where = [f"row {self.row}"] if self.row is not None else []
        where += [f"column {self.column}"] if self.column is not None else []
        given = f" (it is {self.value})" if self.value is not None else ""
        return f"{', '.join(where)}: {self.message}{given}" if where else self.message


class TableError(ValueError):
    """A file that is no table of valid rows."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems

    @classmethod
    def of(cls, message: str) -> TableError:
        """Return an error about the file as a whole."""
        return cls([Problem(message)])


class TableReader:
    """The rows of a file, batch by batch; memory does not grow with their number.

    Raises
    ------
    TableError
        The file cannot be read, or it lacks columns.
    """

    def __init__(self, file: BinaryIO, kind: Kind, table: Table) -> None:
        self._kind = kind
        self._columns = table.features
        try:
            self._reader = _open_csv(file) if kind == "csv" else _open_parquet(file)
            found = self._reader.schema if kind == "csv" else self._reader.schema_arrow
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise TableError([_unreadable(error, kind)]) from error
        _check_columns(found, kind, table)
        fields = [
            pa.field(field.name, pa.float64()) if field.name in table.feature_names else field for field in found
        ]
        self.schema = pa.schema(fields)
        self.rows: int | None = self._reader.metadata.num_rows if kind == "parquet" else None  # None: not known yet

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows with the features as float64, at most `BATCH_ROWS` at a time.

        Raises
        ------
        TableError
            With the first hundred values that are wrong in a batch.
        """
        done = 0
        batches = iter(self._reader) if self._kind == "csv" else _parquet_batches(self._reader)
        while True:
            try:
                big = next(batches, None)
            except (pa.ArrowException, OSError) as error:
                raise TableError([_unreadable(error, self._kind)]) from error
            if big is None:
                return
            for start in range(0, big.num_rows, BATCH_ROWS):
                batch = big.slice(start, BATCH_ROWS)
                yield self._checked(batch, done)
                done += batch.num_rows
                if done > MAX_ROWS:
                    raise TableError.of(f"there are more than {MAX_ROWS:,} rows")

    def _checked(self, batch: pa.RecordBatch, done: int) -> pa.RecordBatch:
        problems: list[Problem] = []
        columns = list(batch.columns)
        for column in self._columns:
            place = self.schema.get_field_index(column.name)
            columns[place], wrong = _as_numbers(columns[place], column, done)
            problems += wrong
        if problems:
            problems.sort(key=lambda problem: problem.row or 0)
            raise TableError(problems[:MAX_PROBLEMS])
        return pa.record_batch(columns, schema=self.schema)


def check_table(file: BinaryIO, kind: Kind, table: Table) -> int:
    """Read a file to its end and return how many rows it has; all of them are valid.

    Raises
    ------
    TableError
        Some are not, or there are none.
    """
    file.seek(0)
    rows: int = sum(batch.num_rows for batch in TableReader(file, kind, table).batches())
    if rows == 0:
        raise TableError.of("there are no rows")
    file.seek(0)
    return rows


def features_of(batch: pa.RecordBatch, names: Sequence[str]) -> Matrix:
    """Return the features of a batch, the columns of these names, shape (n, names)."""
    return np.column_stack([_numbers_of(batch.column(name)) for name in names])


class TableWriter:
    """Writes batches with their predictions to a binary file; what it holds back is one row group at most.

    ``answer`` is the name of the predicted value.

    Raises
    ------
    TableError
        The table has columns that a CSV file cannot hold.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, kind: Kind, answer: str) -> None:
        types = [pa.float64()] * 3 + [pa.string()] * 2
        added = [pa.field(name, type_) for name, type_ in zip(output_columns(answer), types, strict=True)]
        self._schema = pa.schema([*schema, *added])
        try:
            self._writer: Any = (
                pyarrow.csv.CSVWriter(file, self._schema)
                if kind == "csv"
                # prediction_id differs from row to row: a dictionary of all values would be as long as the column
                else pyarrow.parquet.ParquetWriter(file, self._schema, use_dictionary=["model_version"])
            )
        except pa.ArrowException as error:
            raise TableError.of(f"a CSV file cannot hold it: {_first_line(error)}") from error

    def write(self, batch: pa.RecordBatch, answers: Answers, model_version: str, prediction_ids: list[str]) -> None:
        """Write a batch."""
        added = [
            *(_number_array(numbers) for numbers in answers[:3]),
            _text_array([model_version] * batch.num_rows),
            _text_array(prediction_ids),
        ]
        self._writer.write_batch(pa.record_batch([*batch.columns, *added], schema=self._schema))

    def close(self) -> None:
        """Write what ends the file."""
        self._writer.close()


def _open_csv(file: BinaryIO) -> Any:
    header = file.readline(_BLOCK_BYTES).decode("utf-8-sig")
    file.seek(0)
    if not header.strip():
        raise TableError.of("the file is empty: its first line must name the columns")
    if not header.endswith(("\n", "\r")) and len(header) < _BLOCK_BYTES:
        raise TableError.of("there are no rows")
    # Everything is text at first: a type guessed from the first rows would refuse later ones.
    names = pyarrow.csv.open_csv(file, read_options=_read_options()).schema.names
    file.seek(0)
    return pyarrow.csv.open_csv(
        file,
        read_options=_read_options(),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )


def _read_options() -> Any:
    return pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)


def _open_parquet(file: BinaryIO) -> Any:
    # Read page by page: by itself it would hold whole column chunks, which may be the whole file.
    return pyarrow.parquet.ParquetFile(file, buffer_size=_BLOCK_BYTES, pre_buffer=False)


def _parquet_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    return iter(reader.iter_batches(batch_size=BATCH_ROWS, use_threads=False))


def _check_columns(found: pa.Schema, kind: Kind, table: Table) -> None:
    problems = [
        Problem("the column is missing", column=name) for name in table.feature_names if name not in set(found.names)
    ]
    problems += [
        Problem("there are two columns of this name", column=name)
        for name in dict.fromkeys(found.names)
        if found.names.count(name) > 1
    ]
    problems += [
        Problem("a column of the answer has this name: rename or remove yours", column=name)
        for name in output_columns(table.answer)
        if name in found.names
    ]
    for name in table.feature_names:
        if kind == "csv" or found.names.count(name) != 1:
            continue
        given = found.field(name).type
        if not (pa.types.is_floating(given) or pa.types.is_integer(given) or pa.types.is_decimal(given)):
            problems.append(Problem(f"its type is {given}, not a number", column=name))
    if problems:
        raise TableError(problems)


def _as_numbers(values: pa.Array, column: Column, done: int) -> tuple[pa.Array, list[Problem]]:
    """Return a column as float64, and what is wrong in it; ``done`` rows came before."""
    texts = values if pa.types.is_string(values.type) else None
    not_numbers = np.zeros(len(values), dtype=bool)
    if texts is not None:
        trimmed = pc.utf8_trim_whitespace(texts)
        try:
            values = pc.cast(trimmed, pa.float64())
        except pa.ArrowInvalid:
            sound = pc.match_substring_regex(trimmed, _NUMBER)
            not_numbers = ~_as_bool(sound) & _as_bool(pc.not_equal(trimmed, ""))
            values = pc.cast(pc.if_else(sound, trimmed, pa.scalar(None, pa.string())), pa.float64())
    else:
        values = pc.cast(values, pa.float64(), safe=False)
    missing = _as_bool(values.is_null()) & ~not_numbers
    numbers = np.where(missing | not_numbers, np.nan, _numbers_of(values))
    checks = (
        (missing, "a value is missing"),
        (~missing & ~np.isfinite(numbers), "a finite number is needed"),
        (np.isfinite(numbers) & (numbers < column.minimum), f"the least possible is {column.minimum:g}"),
        (np.isfinite(numbers) & (numbers > column.maximum), f"the greatest possible is {column.maximum:g}"),
    )
    problems = []
    for wrong, message in checks:
        for row in np.flatnonzero(wrong)[:MAX_PROBLEMS].tolist():
            given = None if missing[row] else texts[row].as_py() if texts is not None else f"{numbers[row]:.6g}"
            problems.append(Problem(message, done + row + 1, column.name, given and given[:100]))
    return values, problems


# pa.array and Array.to_numpy would import pandas, half a second and 50 MB, to see whether it has something to do.
def _number_array(values: Matrix) -> pa.Array:
    return pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _text_array(values: list[str]) -> pa.Array:
    ends = np.cumsum([0, *(len(text.encode()) for text in values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer("".join(values).encode())]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _numbers_of(values: pa.Array) -> Matrix:
    """Return a float64 column; anything may stand where it has no value."""
    return np.frombuffer(values.buffers()[1], np.float64, len(values), values.offset * 8)


def _as_bool(values: pa.Array) -> npt.NDArray[np.bool_]:
    octets = pc.cast(values, pa.uint8())
    return np.frombuffer(octets.buffers()[1], np.bool_, len(octets), octets.offset)


def _unreadable(error: Exception, kind: Kind) -> Problem:
    """Return Arrow's error as a problem; it counts the header as row 1."""
    text = _first_line(error)
    if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in text:
        text = "its text is not UTF-8"
    found = re.search(r"Row #(\d+): (.*)", text)
    if kind == "csv" and found:
        return Problem(found[2], row=int(found[1]) - 1)
    return Problem(f"this is no {'CSV' if kind == 'csv' else 'Parquet'} file that can be read: {text}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
