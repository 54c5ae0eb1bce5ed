"""What the values of a column mean: numbers, dates, categories and what is missing, as people write them.

Nothing is decided in silence. Whatever could be meant otherwise is said in `Values.notes`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tableloop.table import MISSING

Kind = Literal["number", "integer", "boolean", "string", "date", "datetime", "unreadable"]
Where = Callable[[Collection[int]], str]

EMPTY = MISSING - {"none"} | {"n.a.", "#n/a", "<na>", "#null!", "-", "--", "\u2014", "?", "."}
NO_NUMBER = frozenset(("none", "missing", "unknown", "#value!", "#div/0!", "inf", "+inf", "-inf", "infinity"))
TRUE_AND_FALSE = (
    ("true", "false"),
    ("yes", "no"),
    ("t", "f"),
    ("y", "n"),
    ("on", "off"),
    ("ja", "nein"),
    ("oui", "non"),
)
MOST_SPELLINGS = 10  # of true and false in one column
ENOUGH = 0.9  # of the values that are there must be numbers or dates, or the column is text
SIGNS = {"$": "$", "€": "€", "£": "£", "¥": "¥", "₹": "₹", "%": "%", "usd": "$", "eur": "€", "gbp": "£"}
SAMPLE = 300  # distinct values, from which the forms that dates may have are told
IN_UTC = "times are given with their zone: they are in UTC here"
MARK_ROWS = 10_000  # from which the decimal mark is told
SHOWN = 3  # values in a note

_SIGN = "|".join(re.escape(sign) for sign in SIGNS)
_PLAIN = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_APART = {
    ".": ",'\u2019 \u00a0\u202f",
    ",": ".'\u2019 \u00a0\u202f",
}  # by decimal mark: what stands between thousands
_GROUPED = {  # by decimal mark: digits, perhaps in groups of three
    mark: rf"^[+-]?(\d{{1,3}}([{apart}]\d{{3}})+|\d+)?({re.escape(mark)}\d*)?([eE][+-]?\d+)?$"
    for mark, apart in _APART.items()
}
_CODE = r"^0\d+$"  # a number has no zero in front: a postcode has
_DATED = r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]|$)|^\d{1,2}[ -][A-Za-z]{3,9}[ -]|^[A-Za-z]{3,9} \d{1,2},? "
_DATES = {  # by how it is told in a note
    "year first": ("%Y/%m/%d", "%Y.%m.%d"),
    "day first": ("%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y", "%d.%m.%y", "%d/%m/%y", "%d-%m-%y"),
    "month first": ("%m/%d/%Y", "%m-%d-%Y", "%m/%d/%y", "%m-%d-%y"),
    "month by name": ("%d %b %Y", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y"),
}
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


@dataclass
class Values:
    """The values of a column and what they are; ``notes`` say what a person should look at.

    ``data`` is float64 of numbers, Int64 of integers, boolean, text of strings, datetime64 of dates; of an
    unreadable column it is empty.
    """

    type: Kind
    data: Any
    unit: str = ""
    notes: list[str] = field(default_factory=list)


def decimal_mark(columns: Sequence[Any], separator: str) -> str:
    """Return the decimal mark of a file: what most of the columns have whose values leave no doubt.

    In a file without such a column it is a comma where semicolons separate, else a point.
    """
    votes: Counter[str] = Counter()
    for texts in columns:
        if not pa.types.is_string(texts.type):
            continue
        sample = _bare(pc.utf8_trim_whitespace(pc.unique(texts[:MARK_ROWS])))
        point, comma = (pc.match_substring_regex(sample, _GROUPED[mark]) for mark in ".,")
        numbers = pc.sum(pc.or_(point, comma)).as_py() or 0
        if numbers >= ENOUGH * len(sample) / 2:
            only = [pc.sum(pc.and_not(one, other)).as_py() or 0 for one, other in ((point, comma), (comma, point))]
            if max(only) > 0:
                votes["." if only[0] >= only[1] else ","] += 1
    return votes.most_common(1)[0][0] if votes else ("," if separator == ";" else ".")


def read_column(name: str, given: Any, mark: str, where: Where) -> Values:
    """Return the values of a column of a file: of text in CSV, or of a type in Parquet.

    Parameters
    ----------
    mark
        The decimal mark, where the values themselves leave it open.
    where
        Says in words where rows are, counted from 0.
    """
    if pa.types.is_dictionary(given.type):
        given = given.cast(given.type.value_type)
    if pa.types.is_string(given.type) or pa.types.is_large_string(given.type) or pa.types.is_string_view(given.type):
        return _of_text(name, given.cast(pa.string()), mark, where)
    return _of_type(given)


def _of_type(given: Any) -> Values:
    type_ = given.type
    if pa.types.is_boolean(type_):
        return Values("boolean", given.to_pandas().astype("boolean"))
    if pa.types.is_integer(type_):
        return Values("integer", given.to_pandas(types_mapper=lambda _: pd.Int64Dtype()))
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return _numbers(given.cast(pa.float64()).to_numpy(), whole=False)
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        return _dates(given.to_pandas())
    if pa.types.is_null(type_):
        return Values("string", pd.Series([None] * len(given), dtype="str"))
    return Values("unreadable", pd.Series([], dtype=float), notes=[f"its values are of the type {type_}"])


def _of_text(name: str, given: Any, mark: str, where: Where) -> Values:
    """Return what a column of text says; all is tried on its distinct values."""
    coded = pc.dictionary_encode(given.combine_chunks())
    texts = pc.utf8_trim_whitespace(coded.dictionary)
    lower = pc.utf8_lower(texts)
    missing = _in(lower, EMPTY)
    present = pc.if_else(missing, None, texts)
    column = _Column(name, coded.indices.to_numpy(zero_copy_only=False), present, mark, where)
    values = _booleans(column, lower) or _texts_as_dates(column) or _texts_as_numbers(column) or _levels(column)
    if said := column.said(
        pc.and_(missing, pc.greater(pc.utf8_length(texts), 0)).to_numpy(zero_copy_only=False), texts
    ):
        values.notes.insert(0, f"read as missing: {said}")
    return values


class _Column:
    """The distinct ``texts`` of a column, null where one means missing, and which of them each row has."""

    def __init__(self, name: str, codes: npt.NDArray[np.int64], texts: Any, mark: str, where: Where) -> None:
        self.name, self.texts, self.mark = name, texts, mark
        self.codes = np.where(np.isnan(codes), -1, codes).astype(np.int64)  # -1: null in the file
        self._where = where

    @property
    def present(self) -> int:
        return len(self.texts) - int(self.texts.null_count)

    def rows(self, distinct: Any) -> Any:
        """Return values of the distinct texts for all rows."""
        return pd.Series(pd.api.extensions.take(distinct.array, self.codes, allow_fill=True))

    def said(self, which: npt.NDArray[np.bool_], texts: Any = None) -> str:
        """Return some of the distinct texts with how often and where they are; empty if there are none."""
        chosen = np.flatnonzero(which)
        if not len(chosen):
            return ""
        texts = self.texts if texts is None else texts
        rows = np.flatnonzero(np.isin(self.codes, chosen))
        counts = np.bincount(self.codes[rows], minlength=len(which))
        shown = sorted(chosen, key=lambda code: -counts[code])[:SHOWN]
        listed = ", ".join(f'"{texts[int(code)].as_py()}" ({counts[code]:,})' for code in shown)
        return f"{listed}{', …' if len(chosen) > SHOWN else ''}, {self._where(rows[:4].tolist())}"


def _booleans(column: _Column, lower: Any) -> Values | None:
    if column.present > MOST_SPELLINGS:
        return None
    lower = pc.if_else(pc.is_null(column.texts), None, lower)
    levels = set(lower.to_pylist()) - {None}
    for true, false in TRUE_AND_FALSE:
        if levels == {true, false}:
            read = pc.equal(lower, true)
            return Values("boolean", column.rows(read.to_pandas().astype("boolean")))
    return None


def _texts_as_numbers(column: _Column) -> Values | None:
    """Return numbers, or nothing where too few texts are any."""
    texts, notes, unit = column.texts, [], ""
    plain = pc.match_substring_regex(texts, _PLAIN)
    if pc.any(pc.match_substring_regex(texts, _CODE)).as_py():
        return None
    if not pc.all(plain).as_py():
        bare = _bare(texts)
        texts, note = _with_points(bare, column.mark)
        notes += [note] if note else []
        plain = pc.match_substring_regex(texts, _PLAIN)
        unit, unit_note = _sign(column.texts, plain)
        notes += [unit_note] if unit_note else []
    is_number = pc.fill_null(plain, False).to_numpy(zero_copy_only=False)
    weights = np.bincount(column.codes[column.codes >= 0], minlength=len(texts))
    there = pc.is_valid(column.texts).to_numpy(zero_copy_only=False)
    words = _in(pc.utf8_lower(column.texts), NO_NUMBER).to_numpy(zero_copy_only=False)
    others = there & ~is_number
    counted = weights[is_number].sum()
    if not counted or counted < ENOUGH * weights[there & ~words].sum():
        return None
    if said := column.said(others):
        notes.append(f"no numbers, read as missing: {said}")
    numbers = pc.cast(pc.if_else(pa.array(is_number), texts, None), pa.float64())
    whole = not pc.any(pc.match_substring_regex(pc.if_else(pa.array(is_number), texts, None), "[.eE]")).as_py()
    return _numbers(column.rows(numbers.to_pandas()).to_numpy(np.float64), whole=whole, unit=unit, notes=notes)


def _numbers(numbers: npt.NDArray[np.float64], *, whole: bool, unit: str = "", notes: Sequence[str] = ()) -> Values:
    """Return integers where all are written so, or where only what is missing has made them fractions."""
    notes = list(notes)
    infinite = np.isinf(numbers)
    if infinite.any():
        notes.append(f"{_times(int(infinite.sum()))} infinite, read as missing")
        numbers = np.where(infinite, np.nan, numbers)
    there = numbers[~np.isnan(numbers)]
    made_fractions = len(there) < len(numbers) and bool((there == np.round(there)).all())
    if (whole or made_fractions) and np.abs(there).max(initial=0) < 2**53:
        integers = pd.array(np.where(np.isnan(numbers), 0, numbers).astype(np.int64), dtype="Int64")
        integers[np.isnan(numbers)] = pd.NA
        return Values("integer", pd.Series(integers), unit, notes)
    return Values("number", pd.Series(numbers), unit, notes)


def _bare(texts: Any) -> Any:
    """Return texts without quotes, signs of money and percent; (5) is -5 to an accountant."""
    for pattern, instead in (
        (r"""^["'](.*?)["']?$""", r"\1"),
        ("^[\u2212\u2013]", "-"),
        (r"^\(([^()]*)\)$", r"-\1"),
        (rf"(?i)^([+-]?)\s*(?:{_SIGN})\s*([+-]?)", r"\1\2"),
        (rf"(?i)\s*(?:{_SIGN})$", ""),
    ):
        texts = pc.replace_substring_regex(texts, pattern, instead)
    return texts


def _sign(texts: Any, is_number: Any) -> tuple[str, str]:
    """Return the sign that the numbers have, if it is one, and a note where it is not."""
    numbers = pc.utf8_lower(pc.filter(texts, pc.fill_null(is_number, False)))
    found = pc.extract_regex(numbers, rf"^[+-]?\s*(?P<before>{_SIGN})|(?P<after>{_SIGN})$")
    texts_of = (pc.unique(pc.struct_field(found, part)).to_pylist() for part in ("before", "after"))
    signs = {SIGNS[sign] for signs in texts_of for sign in signs if sign}
    if len(signs) > 1 or (signs and found.null_count):
        return (
            "",
            f"not all numbers have the same sign ({', '.join(sorted(signs))}): the numbers were taken as they are",
        )
    return next(iter(signs), ""), ""


def _with_points(texts: Any, mark: str) -> tuple[Any, str]:
    """Return numbers with a decimal point and without marks between thousands, and a note where this is in doubt."""
    fits = {mark: pc.fill_null(pc.match_substring_regex(texts, _GROUPED[mark]), False) for mark in ".,"}
    counts = {mark: pc.sum(fits[mark]).as_py() or 0 for mark in ".,"}
    doubt = counts["."] == counts[","] > 0
    chosen = mark if doubt else max(counts, key=lambda mark: counts[mark])
    apart = _APART[chosen]
    fitting = pc.if_else(fits[chosen], texts, None)
    marked = pc.filter(fitting, pc.fill_null(pc.match_substring_regex(fitting, "[.,]"), False))
    read = pc.replace_substring_regex(pc.replace_substring_regex(fitting, f"[{apart}]", ""), ",", ".")
    if doubt and len(marked):
        first = marked[0].as_py()
        as_read = re.sub(f"[{apart}]", "", first).replace(",", ".")
        return read, f'"{first}" was read as {as_read}: its mark may stand between thousands or before decimals'
    return read, ""


def _texts_as_dates(column: _Column) -> Values | None:
    """Return dates, or nothing where too few texts are any."""
    texts = column.texts
    digits = pc.all(pc.match_substring_regex(texts, r"^(19|20)\d\d[01]\d[0-3]\d$")).as_py() and column.present > 0
    if digits and re.search("date|day|datum|fecha", column.name, re.IGNORECASE):
        moments = pd.to_datetime(texts.to_pandas(), format="%Y%m%d", errors="coerce")
        return _checked_dates(column, moments, [])
    if (pc.sum(pc.match_substring_regex(texts, _DATED)).as_py() or 0) < max(1, ENOUGH * column.present):
        return None
    plain = texts.to_pandas()
    moments = pd.to_datetime(plain, format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
    if moments.notna().sum() >= ENOUGH * column.present:
        zoned = pc.any(pc.match_substring_regex(texts, r":\d\d.*(Z|[+-]\d\d:?\d\d)$")).as_py()
        return _checked_dates(column, moments, [IN_UTC] if zoned else [])
    sample = plain.dropna().head(SAMPLE)
    fitting = {
        date + time: order
        for (order, dates), time in product(_DATES.items(), _TIMES)
        for date in dates
        if pd.to_datetime(sample, format=date + time, errors="coerce").notna().sum() >= ENOUGH * len(sample)
    }
    readings = {form: pd.to_datetime(plain, format=form, errors="coerce") for form in fitting}
    most = max((reading.notna().sum() for reading in readings.values()), default=0)
    forms = [form for form in readings if readings[form].notna().sum() == most]
    if not forms:
        return None
    notes = []
    if (
        len({fitting[form] for form in forms}) > 1
    ):  # both orders fit: that in which the rows are sorted is the right one
        is_sorted = {form: bool(column.rows(readings[form]).is_monotonic_increasing) for form in forms}
        usual = "day first" if column.mark == "," else "month first"
        forms.sort(key=lambda form: (not is_sorted[form], fitting[form] != usual))
        notes.append(f'"{sample.iloc[0]}" was read with the {fitting[forms[0]]}: no value tells days from months')
    if "%y" in forms[0]:
        notes.append("years have two digits: those from 69 on are of the last century")
    return _checked_dates(column, readings[forms[0]], notes)


def _checked_dates(column: _Column, moments: Any, notes: list[str]) -> Values | None:
    others = pc.is_valid(column.texts).to_numpy(zero_copy_only=False) & moments.isna().to_numpy()
    if moments.notna().sum() < ENOUGH * column.present:
        return None
    if said := column.said(others):
        notes.append(f"no dates, read as missing: {said}")
    return _dates(column.rows(moments), notes)


def _dates(moments: Any, notes: Sequence[str] = ()) -> Values:
    """Return days, or moments to the second in UTC where there is a time of day."""
    notes = list(notes)
    moments = pd.to_datetime(moments)
    if moments.dt.tz is not None:
        moments = moments.dt.tz_convert("UTC").dt.tz_localize(None)
        notes.append(IN_UTC)
    moments = moments.astype("datetime64[s]")
    with_time = bool((moments.dropna() != moments.dropna().dt.normalize()).any())
    return Values("datetime" if with_time else "date", moments, "", notes)


def _levels(column: _Column) -> Values:
    notes = []
    texts = column.texts.to_pandas().astype("str")
    alike = texts.dropna().groupby(texts.dropna().str.casefold()).agg(lambda spelt: list(dict.fromkeys(spelt)))
    twice = [spelt for spelt in alike if len(spelt) > 1]
    if twice:
        notes.append(f"levels that differ in capitals only: {' and '.join(map(repr, twice[0]))}")
    measured = pc.sum(pc.match_substring_regex(column.texts, r"^[+-]?\d+([.,]\d+)? ?[A-Za-z°²³/]{1,6}$")).as_py() or 0
    if column.present > 1 and measured == column.present:
        notes.append(
            f'values like "{texts.dropna().iloc[0]}" look like numbers with a unit: remove the unit in the file'
        )
    if pc.all(pc.match_substring_regex(column.texts, r"^\d{1,2}:\d\d(:\d\d)?$")).as_py() and column.present:
        notes.append("these are times of the day: write hours as a number, or a date with the time")
    if pc.any(pc.match_substring_regex(column.texts, _CODE)).as_py():
        notes.append("values with a zero in front were read as codes, not as numbers")
    return Values("string", column.rows(texts), "", notes)


def _in(texts: Any, values: Collection[str]) -> Any:
    return pc.fill_null(pc.is_in(texts, value_set=pa.array(sorted(values), pa.string())), False)


def _times(count: int) -> str:
    return "1 value is" if count == 1 else f"{count:,} values are"
