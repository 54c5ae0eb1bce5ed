"""How a CSV file is written: where its header is, what separates its columns, what it is if it is none.

Spreadsheets separate columns by semicolons where the decimal mark is a comma, and by tabs on the clipboard.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import count
from typing import BinaryIO, Final, NamedTuple

# Text of CSV is parsed by blocks of bytes, and a row must fit into one.
BLOCK_BYTES: Final = 1 << 20
SEPARATORS: Final = (",", ";", "\t", "|")
MOST_BLANK_LINES: Final = 100  # before the header
MOST_HEADER_LINES: Final = 100
_BOM: Final = b"\xef\xbb\xbf"
_BY_START: Final = (
    (b"PAR1", "Parquet: send it as application/vnd.apache.parquet"),
    (b"\x1f\x8b", "gzip: send it with Content-Encoding: gzip"),
    (b"PK\x03\x04", "an Excel workbook or a ZIP archive: save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook: save it as CSV"),
    (b"ARROW1", "Arrow or Feather: save it as Parquet"),
    (b"\xff\xfe", "text in UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16: save it as UTF-8"),
    (b"{", "JSON: send it as application/json"),
    (b"[", "JSON: send it as application/json"),
    (b"<", "HTML or XML"),
    (b"--", "a form: send the file alone, as the body"),
)


class NoHeaderError(ValueError):
    """There is no line that names columns; the message says what there is."""


class Text(NamedTuple):
    """Where the header begins, in bytes and in lines from 1, what separates columns, and their names."""

    offset: int
    line: int
    separator: str
    names: list[str]


def read_header(file: BinaryIO, wanted: Sequence[str]) -> Text:
    """Return how a CSV file is written that has columns of the ``wanted`` names.

    Raises
    ------
    NoHeaderError
        It has no header and rows.
    UnicodeDecodeError
        The header is not UTF-8.
    """
    file.seek(0)
    separators: Sequence[str] = SEPARATORS
    for number in count(1):
        offset = file.tell()
        start = file.readline(BLOCK_BYTES)
        line = start.removeprefix(_BOM).strip(b" \r\n")
        named = re.fullmatch(rb'"?sep=(.)"?', line, re.IGNORECASE)  # for Excel
        if named:
            separators = [named[1].decode("latin-1")]
        elif line.strip(b",;\t|") or not start:
            break
        elif number >= MOST_BLANK_LINES:
            raise NoHeaderError(f"its first {MOST_BLANK_LINES} lines are blank: the first line must name the columns")
    if not line:
        raise NoHeaderError("the file is empty: its first line must name the columns")
    parts, quotes = [start], start.count(b'"')
    while quotes % 2 and parts[-1] and len(parts) < MOST_HEADER_LINES and sum(map(len, parts)) < BLOCK_BYTES:
        parts.append(file.readline(BLOCK_BYTES))  # a name in quotes goes on
        quotes += parts[-1].count(b'"')
    start = b"".join(parts)[:BLOCK_BYTES]
    if not start.endswith((b"\n", b"\r")) and b"\r" not in start:
        if len(start) >= BLOCK_BYTES:
            raise NoHeaderError(f"its first line is longer than {BLOCK_BYTES:,} bytes: it must name the columns")
        raise NoHeaderError("there are no rows")
    header = start.decode("utf-8-sig")

    def names(separator: str) -> list[str]:
        with suppress(csv.Error):
            return next(csv.reader(io.StringIO(header, newline=""), delimiter=separator, skipinitialspace=True), [])
        return []

    def fits(text: Text) -> tuple[int, int]:
        return sum(len(places) == 1 for places in find_columns(text.names, wanted).values()), len(text.names)

    return max((Text(offset, number, separator, names(separator)) for separator in separators), key=fits)


def find_columns(names: Sequence[str], wanted: Sequence[str]) -> dict[str, list[int]]:
    """Return where each wanted column is, more than one place when that is in doubt.

    A column that has not just the wanted name may have it in other letters or with other marks between its words.
    """
    exact: dict[str, list[int]] = {name: [] for name in wanted}
    similar: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if name.strip() in exact:
            exact[name.strip()].append(place)
        else:
            similar.setdefault(_letters(name), []).append(place)
    alike = Counter(map(_letters, wanted))
    return {
        name: places or (similar.get(_letters(name), []) if alike[_letters(name)] == 1 else [])
        for name, places in exact.items()
    }


def lines_of(file: BinaryIO, text: Text, rows: AbstractSet[int]) -> dict[int, int]:
    """Return the line of each row, both from 1: lines may be blank, and a value in quotes may have several."""
    lines: dict[int, int] = {}
    last = max(rows, default=0)
    file.seek(text.offset)
    reading = io.TextIOWrapper(file, "utf-8-sig", "replace", newline="")
    try:
        records = csv.reader(reading, delimiter=text.separator)
        row, begins = -1, text.line
        with suppress(csv.Error):
            for record in records:
                row += bool(record)
                if record and row in rows:
                    lines[row] = begins
                if row >= last:
                    break
                begins = text.line + records.line_num
    finally:
        reading.detach()
    return lines


def line_that_is_not_utf8(file: BinaryIO) -> int:
    """Return the first line with bytes that are not UTF-8, counted from 1."""
    file.seek(0)
    for number, line in enumerate(iter(lambda: file.readline(BLOCK_BYTES), b""), 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return 0


def looks_like(file: BinaryIO, *, is_text: bool) -> str:
    """Return what a file is instead of text, or of Parquet, and what to do about it; empty if that is unknown."""
    file.seek(0)
    start = file.read(512).removeprefix(_BOM).lstrip()
    if not is_text and start.startswith(b"PAR1"):
        return ""  # broken Parquet
    for sign, kind in _BY_START:
        if start.startswith(sign):
            return kind
    return "" if is_text or not re.fullmatch(rb"[\t\n\r -~]+", start) else "text: send CSV as text/csv"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
