"""Files of rows, CSV or Parquet: read and written a few thousand rows at a time, checked against the table.

Columns are found by name. All go through as they are; of CSV the features as numbers, the others as text. What is
computed is appended as `output_columns`. How a CSV file is written is seen from itself: `tableloop.csv_text`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from threading import Lock
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from tableloop.csv_text import (
    BLOCK_BYTES,
    NoHeaderError,
    Text,
    find_columns,
    line_that_is_not_utf8,
    lines_of,
    looks_like,
    read_header,
)
from tableloop.model.intervals import Answers
from tableloop.table import MISSING, Column, Table, Value

Matrix = npt.NDArray[np.float64]
Kind = Literal["csv", "parquet"]

BATCH_ROWS: Final = 4096  # of a file with few columns
BATCH_VALUES: Final = 64 * BATCH_ROWS
MAX_ROWS: Final = 10_000_000
MAX_PROBLEMS: Final = 100
MAX_COLUMNS: Final = 1_000
MAX_BATCH_BYTES: Final = 8 << 20  # of which a service that predicts several files holds some copies each
_MAX_FOOTER: Final = 1_000_000  # strings and lists in what a Parquet file says of itself
_MOST_NAMES: Final = 20  # of columns in a message
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
    line: int | None = None  # of a CSV file, counted from 1

    @property
    def text(self) -> str:
        """The message, with the line of the file."""
        return self.message if self.line is None else f"{self.message} (line {self.line} of the file)"

    def __str__(self) -> str:
        where = [f"row {self.row}"] if self.row is not None else []
        where += [f"column {self.column}"] if self.column is not None else []
        notes = [f"it is {self.value}"] if self.value is not None else []
        notes += [f"line {self.line} of the file"] if self.line is not None else []
        message = f"{self.message} ({'; '.join(notes)})" if notes else self.message
        return f"{', '.join(where)}: {message}" if where else message


class TableError(ValueError):
    """A file that is no table of valid rows; ``unlisted`` is how many more problems it has."""

    def __init__(self, problems: list[Problem], unlisted: int = 0) -> None:
        more = [f"{unlisted:,} more problems are not listed"] if unlisted else []
        super().__init__("\n".join([*map(str, problems), *more]))
        self.problems = problems
        self.unlisted = unlisted

    @classmethod
    def of(cls, message: str) -> TableError:
        """Return an error about the file as a whole."""
        return cls([Problem(message)])


class Rows(NamedTuple):
    """Some rows: as they are written again, and their features, coded, of shape (n, features).

    ``others`` are the values of the features that are no numbers, by the place of the feature.
    """

    batch: pa.RecordBatch
    features: Matrix
    others: dict[int, list[Value]]

    def part(self, start: int, count: int) -> Rows:
        """Return at most so many of the rows, from one on."""
        rows = slice(start, start + count)
        others = {place: values[rows] for place, values in self.others.items()}
        return Rows(self.batch.slice(start, count), self.features[rows], others)

    def values(self) -> Iterable[Sequence[Value]]:
        """Return the features of each row as they are; a number that is missing is NaN."""
        if not self.others:
            rows: list[list[Value]] = self.features.tolist()
            return rows
        numbers = self.features.T
        return zip(*(self.others.get(place) or numbers[place].tolist() for place in range(len(numbers))), strict=True)


class _Source:
    """What Arrow reads of CSV: it does so ahead, in a thread of its own that outlives the reader it is for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reading = Lock()
        self.closed = False

    def read(self, size: int) -> bytes:
        """Return the next bytes, none after `close`."""
        with self._reading:
            return b"" if self.closed else self._file.read(size)

    def close(self) -> None:
        """End reading, and leave the file open."""
        with self._reading:
            self.closed = True


class TableReader:
    """The rows of a file, batch by batch; memory does not grow with their number.

    More than `MAX_ROWS` are only read with ``any_length``.

    Raises
    ------
    TableError
        The file cannot be read, or it lacks columns.
    """

    def __init__(self, file: BinaryIO, kind: Kind, table: Table, *, any_length: bool = False) -> None:
        self._file = file
        self._kind = kind
        self._any_length = any_length
        self._columns = table.features
        self._coding = table.coding
        self._text: Text | None = None
        self._source: _Source | None = None
        self._decimal_mark: str | None = None
        try:
            if kind == "csv":
                self._text = read_header(file, table.feature_names)
                found = pa.schema([(name.strip(' "'), pa.string()) for name in self._text.names])
                self._places = _places(found, kind, table, looks_like(file, is_text=True))
                file.seek(self._text.offset)
                self._source = _Source(file)
                self._reader = _open_csv(self._source, self._text)
            else:
                self._reader = _open_parquet(file)
                found = self._reader.schema_arrow
                self._places = _places(found, kind, table, "")
        except MemoryError:
            raise  # Arrow's is one of its own errors too
        except (NoHeaderError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error
        self.schema = found
        if kind == "csv":
            for place in [place for place, column in self._numbers]:
                self.schema = self.schema.set(place, pa.field(found.names[place], pa.float64()))
        self.rows: int | None = self._reader.metadata.num_rows if kind == "parquet" else None  # None: not known yet

    def batches(self) -> Iterator[Rows]:
        """Yield the rows, at most `BATCH_ROWS` at a time.

        Raises
        ------
        TableError
            With the first hundred values that are wrong in a batch.
        """
        for batch, done in self._raw():
            rows, problems, count = self._read(batch, done, MAX_PROBLEMS)
            if problems:
                raise TableError(problems, count - len(problems))
            yield rows

    def check(self, kind_out: Kind) -> int:
        """Read to the end, and return how many rows there are; all are valid, and ``kind_out`` can hold them.

        Raises
        ------
        TableError
            Some are not, or there are none.
        """
        trial = _CsvTrial(self.schema) if self._kind != kind_out == "csv" else None
        if self._kind != kind_out == "parquet":
            twice = (name for name, number in Counter(self.schema.names).items() if number > 1)
            for name in twice:
                message = "a Parquet file cannot hold two columns of this name: rename one, or ask for CSV"
                raise TableError([Problem(message, column=name)])
        problems: list[Problem] = []
        count = rows = 0
        try:
            for batch, done in self._raw():
                _, found, more = self._read(batch, done, MAX_PROBLEMS - len(problems))
                problems += found
                count += more
                rows = done + batch.num_rows
                if trial is not None:
                    trial.write(batch, done)
        except TableError as error:
            problems += error.problems
            count += len(error.problems)
        if problems:
            raise TableError(self._with_lines(problems), count - len(problems))
        if rows == 0:
            raise TableError.of("there are no rows")
        return rows

    def _raw(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield the rows as they are in the file, and how many came before."""
        done = 0
        batches = iter(self._reader) if self._kind == "csv" else _parquet_batches(self._reader)
        while True:
            try:
                big = next(batches, None)
            except MemoryError:
                raise
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(error) from error
            if big is None:
                return
            for start in range(0, big.num_rows, BATCH_ROWS):
                batch = big.slice(start, BATCH_ROWS)
                if batch.nbytes > MAX_BATCH_BYTES:
                    raise TableError.of(
                        f"{batch.num_rows:,} of its rows take more than {MAX_BATCH_BYTES >> 20} MB of memory: "
                        "leave out the columns of long values"
                    )
                yield batch, done
                done += batch.num_rows
                if done > MAX_ROWS and not self._any_length:
                    raise TableError.of(f"there are more than {MAX_ROWS:,} rows")

    def _read(self, batch: pa.RecordBatch, done: int, most: int) -> tuple[Rows, list[Problem], int]:
        """Return the rows of a batch, the first problems in them, ``most`` at most, and how many there are."""
        columns = list(batch.columns)
        matrix = np.empty((batch.num_rows, len(self._columns)))
        others: dict[int, list[Value]] = {}
        problems: list[Problem] = []
        count = 0
        mark = self._mark([batch.column(place) for place, _ in self._numbers]) if self._text is not None else None
        for feature, (place, column) in enumerate(zip(self._places, self._columns, strict=True)):
            name = self.schema.names[place]
            if column.is_number:
                read, found, wrong = _as_numbers(columns[place], column, name, done, mark)
                matrix[:, feature] = _numbers_of(pc.fill_null(read, np.nan))
                if self._text is not None:
                    columns[place] = read
            else:
                others[feature], found, wrong = _as_values(columns[place], column, name, done)
            problems += found
            count += wrong
        for feature, values in others.items():
            matrix[:, feature] = self._coding.column(self._columns[feature].name, values)
        problems.sort(key=lambda problem: problem.row or 0)
        return Rows(pa.record_batch(columns, schema=self.schema), matrix, others), problems[:most], count

    @property
    def _numbers(self) -> list[tuple[int, Column]]:
        """Where the features stand in the file that are numbers."""
        return [pair for pair in zip(self._places, self._columns, strict=True) if pair[1].is_number]

    def _mark(self, texts: list[pa.Array]) -> str:
        """Return the decimal mark: that of the first rows which have one.

        A comma, where it separates nothing and no number has a point. Otherwise it may stand between thousands.
        """
        if self._text is not None and self._text.separator == ",":
            return "."
        if self._decimal_mark is None:
            commas, points = (any(pc.any(pc.match_substring(text, mark)).as_py() for text in texts) for mark in ",.")
            if commas or points:
                self._decimal_mark = "." if points else ","
        return self._decimal_mark or "."

    def _with_lines(self, problems: list[Problem]) -> list[Problem]:
        """Return problems with the lines of their rows."""
        if self._text is None:
            return problems
        self._end_reading()
        lines = lines_of(self._file, self._text, {problem.row for problem in problems if problem.row is not None})
        return [replace(problem, line=lines.get(problem.row or 0)) for problem in problems]

    def _end_reading(self) -> None:
        """Leave the position of the file to others."""
        if self._source is not None:
            self._source.close()

    def _unreadable(self, error: Exception) -> TableError:
        """Return Arrow's error about the file; it counts the header as row 1."""
        self._end_reading()
        text = _first_line(error)
        is_text = self._kind == "csv"
        parsed = re.search(r"Row #(\d+): (Expected (\d+) columns, got (\d+).*)", text)
        if self._text is not None and parsed:
            mark = self._text.separator
            quotes = f"; a value with a {mark} in it needs quotes" if int(parsed[4]) > int(parsed[3]) else ""
            return TableError(self._with_lines([Problem(parsed[2] + quotes, row=int(parsed[1]) - 1)]))
        if like := looks_like(self._file, is_text=is_text):
            text = f"it looks like {like}"
        elif isinstance(error, NoHeaderError):
            return TableError.of(text)
        elif isinstance(error, UnicodeDecodeError) or "invalid UTF8" in text:
            line = line_that_is_not_utf8(self._file)
            text = f"its text is not UTF-8 in line {line}: save it so, or say its charset in the Content-Type"
        return TableError.of(f"this is no {'CSV' if is_text else 'Parquet'} file that can be read: {text}")


def check_table(file: BinaryIO, kind: Kind, table: Table, kind_out: Kind, *, any_length: bool = False) -> int:
    """Read a file to its end and return how many rows it has; all are valid, and can be written as ``kind_out``.

    ``any_length`` is that of `TableReader`.

    Raises
    ------
    TableError
        Some are not, or there are none.
    """
    file.seek(0)
    rows = TableReader(file, kind, table, any_length=any_length).check(kind_out)
    file.seek(0)
    return rows


class TableWriter:
    """Writes batches with their predictions to a binary file; what it holds back is one row group at most.

    ``answer`` is the name of the predicted value, ``numbers`` are the names of further columns of numbers, and
    ``facts`` are kept in the footer of a Parquet file. Whether the file can hold the rows, `check_table` has found
    out.

    Raises
    ------
    TableError
        The file has a further column already.
    """

    def __init__(
        self,
        file: BinaryIO,
        schema: pa.Schema,
        kind: Kind,
        answer: str,
        numbers: Sequence[str] = (),
        *,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        if problems := _taken(numbers, schema.names):
            raise TableError(problems)
        types = [pa.float64()] * 3 + [pa.string()] * 2 + [pa.float64()] * len(numbers)
        names = (*output_columns(answer), *numbers)
        added = [pa.field(name, type_) for name, type_ in zip(names, types, strict=True)]
        kept = {**(schema.metadata or {}), **(facts or {})}  # pandas keeps its index there
        self._given = pa.schema([*schema, *added], kept or None)
        self._schema = _for_csv(self._given) if kind == "csv" else self._given
        self._writer: Any = (
            pyarrow.csv.CSVWriter(file, self._schema)
            if kind == "csv"
            # prediction_id differs from row to row: a dictionary of all values would be as long as the column
            else pyarrow.parquet.ParquetWriter(file, self._schema, use_dictionary=["model_version"])
        )

    def write(
        self,
        batch: pa.RecordBatch,
        answers: Answers,
        model_version: str,
        prediction_ids: list[str],
        numbers: Sequence[Matrix] = (),
    ) -> None:
        """Write a batch; ``numbers`` are the further columns, (n,) each."""
        added = [
            *(_number_array(numbers) for numbers in answers[:3]),
            _text_array([model_version] * batch.num_rows),
            _text_array(prediction_ids),
            *map(_number_array, numbers),
        ]
        self._writer.write_batch(pa.record_batch([*batch.columns, *added], schema=self._given).cast(self._schema))

    def close(self) -> None:
        """Write what ends the file."""
        self._writer.close()


class _CsvTrial:
    """Writes what a CSV file may not be able to hold, column by column and to nowhere, before an answer begins."""

    def __init__(self, schema: pa.Schema) -> None:
        self._writers: dict[int, tuple[pa.Schema, Any]] = {}
        for place, field in enumerate(schema):
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type):
                continue
            alone = _for_csv(pa.schema([field]))
            try:
                self._writers[place] = alone, pyarrow.csv.CSVWriter(pa.MockOutputStream(), alone)
            except pa.ArrowException:
                raise TableError([self._problem(field, f"values of the type {field.type}")]) from None

    def write(self, batch: pa.RecordBatch, done: int) -> None:
        """Try to write a batch; ``done`` rows came before."""
        for place, (alone, writer) in self._writers.items():
            column = batch.column(place)
            try:
                column.validate(full=True)
                writer.write_batch(pa.record_batch([column.cast(alone.field(0).type)], schema=alone))
            except pa.ArrowException as error:
                field = alone.field(0)
                what = f"the values of the rows from {done + 1:,} on, of the type {field.type} ({_first_line(error)})"
                raise TableError([self._problem(field, what)]) from error

    @staticmethod
    def _problem(field: pa.Field, what: str) -> Problem:
        return Problem(f"a CSV file cannot hold {what}: ask for Parquet, or leave the column out", column=field.name)


def _for_csv(schema: pa.Schema) -> pa.Schema:
    """Return a schema with what is text or a number in another form, as Polars writes it, as text or a number."""
    for place, field in enumerate(schema):
        type_ = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
        type_ = pa.large_string() if pa.types.is_string_view(type_) else type_
        schema = schema.set(place, field.with_type(type_))
    return schema


def _open_csv(file: _Source, text: Text) -> Any:
    if len(text.names) > MAX_COLUMNS:
        raise _too_many(len(text.names))
    return pyarrow.csv.open_csv(
        file,
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, block_size=BLOCK_BYTES, column_names=text.names, skip_rows_after_names=1
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=text.separator, newlines_in_values=True),
        # Everything is text at first: a type guessed from the first rows would refuse later ones.
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(text.names, pa.string())),
    )


def _open_parquet(file: BinaryIO) -> Any:
    # Read page by page: by itself it would hold whole column chunks, which may be the whole file.
    reader = pyarrow.parquet.ParquetFile(
        file,
        buffer_size=BLOCK_BYTES,
        pre_buffer=False,
        thrift_string_size_limit=_MAX_FOOTER,
        thrift_container_size_limit=_MAX_FOOTER,
    )
    if reader.metadata.num_columns > MAX_COLUMNS:
        raise _too_many(reader.metadata.num_columns)
    return reader


def _too_many(columns: int) -> TableError:
    return TableError.of(f"it has {columns:,} columns; files of at most {MAX_COLUMNS:,} are read")


def _parquet_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    said = reader.metadata
    size = sum(said.row_group(number).total_byte_size for number in range(said.num_row_groups))
    # What a file says of itself is its size without repetitions, so it may take more: that is checked batch by batch.
    rows = min(
        BATCH_ROWS, BATCH_VALUES // max(1, said.num_columns), MAX_BATCH_BYTES // 2 * said.num_rows // max(1, size)
    )
    return iter(reader.iter_batches(batch_size=max(1, rows), use_threads=False))


def _places(found: pa.Schema, kind: Kind, table: Table, like: str) -> list[int]:
    """Return where the features are among the columns of a file that looks ``like`` something."""
    places, missing, problems = [], [], []
    for name, at in find_columns(found.names, table.feature_names).items():
        places += at[:1]
        if not at:
            missing.append(name)
        elif len(at) > 1:
            numbers = _listed([str(place + 1) for place in at])
            problems.append(Problem(f"there is more than one column of this name: {numbers}", column=name))
        elif kind == "parquet":
            given, column = found.field(at[0]).type, table.column(name)
            is_number = pa.types.is_floating(given) or pa.types.is_integer(given) or pa.types.is_decimal(given)
            if column.is_number and not is_number:
                problems.append(Problem(f"its type is {given}, not a number", column=name))
            elif pa.types.is_nested(given):
                problems.append(Problem(f"its type is {given}, not a {column.type}", column=name))
    if missing:
        problems.insert(0, _missing(missing, found.names, places, like))
    problems += _taken(output_columns(table.answer), found.names)
    if problems:
        raise TableError(problems)
    return places


def _taken(appended: Sequence[str], given: Sequence[str]) -> list[Problem]:
    """Return a problem for each column of the answer whose name a column of the file has."""
    return [
        Problem("a column of the answer has this name: rename or remove yours", column=name)
        for name in appended
        if name in given
    ]


def _missing(missing: list[str], names: Sequence[str], places: list[int], like: str) -> Problem:
    """Return in one sentence which columns are missing, what the file has instead, and why that may be.

    ``places`` are those of the columns that it has.
    """
    named = f"the column {missing[0]} is" if len(missing) == 1 else f"the columns {_listed(missing)} are"
    others = [name for place, name in enumerate(names) if place not in places]
    similar = {name: get_close_matches(name, others, 1, 0.75) for name in missing}
    renamed = [f"{close[0]} to {name}" for name, close in similar.items() if close]
    if like:
        cause = f"it looks like {like}"
    elif not places and all(_is_number(name) for name in names):
        cause = "its first line must name the columns, and seems to be a row"
    elif len(names) == 1:
        cause = "columns are separated by commas, semicolons or tabs"
    elif renamed:
        cause = f"perhaps rename {_listed(renamed)}"
    elif len(missing) > len(places):
        cause = "it seems to be of another table"
    else:
        cause = f"perhaps {'it has another name' if len(missing) == 1 else 'they have other names'} there"
    return Problem(
        f"{named} missing; the file has {_listed(names)}: {cause}", column=missing[0] if len(missing) == 1 else None
    )


def _listed(names: Sequence[str]) -> str:
    shown = [name[:60] or '""' for name in names[:_MOST_NAMES]]
    if len(names) > _MOST_NAMES:
        shown.append(f"{len(names) - _MOST_NAMES:,} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _is_number(text: str) -> bool:
    return re.fullmatch(_NUMBER, text.replace(",", ".")) is not None


def _as_numbers(
    values: pa.Array, column: Column, name: str, done: int, mark: str | None
) -> tuple[pa.Array, list[Problem], int]:
    """Return a column as float64, the first problems in it, and how many there are; ``done`` rows came before.

    ``mark`` is the decimal mark of texts, None for a column of numbers; ``name`` is what the file calls the column.
    """
    texts = values if mark is not None else None
    not_numbers = np.zeros(len(values), dtype=bool)
    if texts is not None:
        trimmed = pc.utf8_trim(pc.utf8_trim_whitespace(texts), ' "')
        if mark == ",":
            trimmed = pc.replace_substring(pc.replace_substring(trimmed, ".", "?"), ",", ".")
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
    marked = "a decimal comma as in the rows before" if mark == "," else "a decimal point and no other mark"
    if texts is not None and not column.required:
        words = _as_bool(pc.is_in(pc.utf8_lower(trimmed), pa.array(sorted(MISSING))))
        missing, not_numbers = missing | words, not_numbers & ~words
        numbers = np.where(words, np.nan, numbers)
    checks = (
        (missing & column.required, "a value is missing"),
        (~missing & ~np.isfinite(numbers), "a finite number is needed"),
        (np.isfinite(numbers) & (numbers < column.minimum), f"the least possible is {column.minimum:g}"),
        (np.isfinite(numbers) & (numbers > column.maximum), f"the greatest possible is {column.maximum:g}"),
    )
    problems = []
    for wrong, message in checks:
        for row in np.flatnonzero(wrong)[:MAX_PROBLEMS].tolist():
            given = None if missing[row] else texts[row].as_py() if texts is not None else f"{numbers[row]:.6g}"
            said = (
                f"{message}, with {marked}" if not_numbers[row] and re.search(r"\d[.,]\d", given or "") else message
            )
            problems.append(Problem(said, done + row + 1, name, given and given[:100]))
    return values, problems, sum(int(wrong.sum()) for wrong, _ in checks)


def _as_values(values: pa.Array, column: Column, name: str, done: int) -> tuple[list[Value], list[Problem], int]:
    """Return a column that is no number as values, the first problems in it, and how many; as `_as_numbers`."""
    if not pa.types.is_dictionary(values.type):
        values = pc.dictionary_encode(pc.cast(values, pa.string()))
    read: list[Value] = []
    wrong: dict[int, Problem] = {}  # by the place of the text among the distinct ones
    for number, text in enumerate(pc.cast(values.dictionary, pa.string()).to_pylist()):
        try:
            read.append(column.read(text.strip(' "') if text is not None else ""))
        except ValueError as error:
            read.append(None)
            wrong[number] = Problem(str(error), column=name, value=text and text[:100])
    codes = values.indices.to_pylist()
    missing = Problem("a value is missing", column=name) if column.required else None
    problems: list[Problem] = []
    count = 0
    for row, code in enumerate(codes, done + 1):
        if (problem := missing if code is None else wrong.get(code)) is not None:
            count += 1
            if len(problems) < MAX_PROBLEMS:
                problems.append(replace(problem, row=row))
    return [None if code is None else read[code] for code in codes], problems, count


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
