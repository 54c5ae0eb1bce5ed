"""A file as people have it, CSV of any usual kind or Parquet: its columns as they stand there, and how they do."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tableloop.csv_text import BLOCK_BYTES, NoHeaderError, Text, lines_of, looks_like, read_header

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SHOWN = 20  # names in a message


class FileError(ValueError):
    """The file cannot become a table; the message names the file, the place in it, and what to do."""


@dataclass(frozen=True)
class RawFile:
    """Names as in the header, "" of a column without one; columns of CSV as text; ``separator`` is "" of Parquet.

    ``where`` says in words where rows are, counted from 0.
    """

    names: list[str]
    columns: list[Any]
    separator: str
    written: str  # in words
    notes: list[str]
    where: Callable[[Collection[int]], str]


def read_raw(path: Path, target: str) -> RawFile:
    """Return a file with a column that is called ``target``.

    Raises
    ------
    FileError
        It cannot be read, or has no such column.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    raw = _parquet(path, content) if content.startswith(b"PAR1") else _csv(path, content, target)
    if target not in raw.names:
        _refuse_other_kinds(path, content)
        close = get_close_matches(target, raw.names, n=1, cutoff=0.5)
        meant = f"; did you mean {close[0]!r}" if close else ""
        names = ", ".join(raw.names[:SHOWN]) + (", …" if len(raw.names) > SHOWN else "")
        raise FileError(
            f"{path} has no column {target!r}{meant}? Its first line must name the columns; they are: {names}"
        )
    if not len(raw.columns[0]):
        raise FileError(f"{path}: there are no rows")
    if raw.names.count(target) > 1:
        raise FileError(f"{path} has {raw.names.count(target)} columns {target!r}: rename all but the one to predict")
    return raw


def _parquet(path: Path, content: bytes) -> RawFile:
    try:
        table = pyarrow.parquet.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise FileError(f"{path} is no Parquet file that can be read: {error}") from None
    names = ["" if name.startswith("__index_level_") else name for name in table.column_names]  # pandas names it so
    return RawFile(
        names, table.columns, "", "Parquet", [], lambda rows: _counted("row", sorted(row + 1 for row in rows))
    )


def _csv(path: Path, content: bytes, target: str) -> RawFile:
    text, encoding = _decoded(content)
    notes = [f"its text is not UTF-8: it was read as {encoding}"] if encoding == "Windows-1252" else []
    file = io.BytesIO(text)
    try:
        head = read_header(file, [target])
        head, extra = _with_unnamed(text, head)
        columns = _columns(text[head.offset :], head)
    except (NoHeaderError, pa.ArrowException) as error:
        _refuse_other_kinds(path, content)
        why = str(error) if isinstance(error, NoHeaderError) else _why(str(error), file, head)
        raise FileError(f"{path}: {why}") from None
    names = [name.strip(' "') for name in head.names]

    def where(rows: Collection[int]) -> str:
        return _counted("line", sorted(lines_of(file, head, {row + 1 for row in rows}).values()))

    written = f"CSV, separated by {SEPARATORS.get(head.separator, head.separator)}, {encoding}"
    return RawFile(names, columns, head.separator, written, notes + extra, where)


def _refuse_other_kinds(path: Path, content: bytes) -> None:
    if like := looks_like(io.BytesIO(content), is_text=True).partition(":")[0]:
        raise FileError(f"{path} looks like {like}: save it as CSV or Parquet")


def _decoded(content: bytes) -> tuple[bytes, str]:
    """Return a text in UTF-8 without a byte order mark, and what its encoding was."""
    start = content[:1000]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16").encode(), "UTF-16"
    for name, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if zeros and zeros.count(0) > len(zeros) // 2:
            return content.decode(name, "replace").encode(), "UTF-16"
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace").encode(), "Windows-1252"
    return content.removeprefix(b"\xef\xbb\xbf"), "UTF-8"


def _with_unnamed(text: bytes, head: Text) -> tuple[Text, list[str]]:
    """Return the header with a name for each value: R gives row names none, others end each row with a mark."""
    lines = io.TextIOWrapper(
        io.BytesIO(text[head.offset : head.offset + BLOCK_BYTES]), "utf-8", "replace", newline=""
    )
    first = next(islice(filter(None, csv.reader(lines, delimiter=head.separator)), 1, None), [])
    if len(first) != len(head.names) + 1:
        return head, []
    if not first[-1].strip():
        return head._replace(names=[*head.names, ""]), []
    return head._replace(names=["", *head.names]), [
        "the header has one name less: the first column is without a name"
    ]


def _columns(text: bytes, head: Text) -> list[Any]:
    """Return all columns as text: a type guessed from the first rows would refuse later ones."""
    names = [str(place) for place in range(len(head.names))]  # as in the file they may be there twice
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text),
        # One thread, as only then an error tells the row.
        read_options=pyarrow.csv.ReadOptions(
            column_names=names, skip_rows_after_names=1, use_threads=False, block_size=8 * BLOCK_BYTES
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=head.separator, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    return list(table.columns)


def _why(error: str, file: io.BytesIO, head: Text) -> str:
    """Return what Arrow says of a CSV file, with the line; it counts the header as row 1."""
    found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", error)
    if found:
        row, expected, got = map(int, found.groups())
        line = lines_of(file, head, {row - 1}).get(row - 1, row)
        remedy = (
            f"a value with a {head.separator!r} in it needs quotes" if got > expected else "remove or complete it"
        )
        return f"line {line} has {got} values and the header {expected} names: {remedy}"
    return f"it is no CSV file that can be read: {error.splitlines()[0]}"


def _counted(what: str, numbers: list[int]) -> str:
    shown = ", ".join(f"{number:,}" for number in numbers[:3])
    return f"{what}{'s' if len(numbers) > 1 else ''} {shown}{', …' if len(numbers) > 3 else ''}"
