"""How a row of the table becomes numbers: the one formula, in training and in serving; only numpy.

Models see float64 throughout. A number is itself, false and true are 0 and 1, a level of a category is its place
among the levels, a date is the days since 1970 with the time as their fraction. What is missing is NaN, and so is a
level that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Kinds = Mapping[str, Mapping[str, Any]]  # by name, of the columns that are no plain numbers: "type" and "categories"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DATES = ("date", "datetime")
_DAY = 86_400.0  # seconds


class Coding:
    """The coding of rows whose columns have these names.

    Parameters
    ----------
    names
        The columns, in their order.
    kinds
        Of those that are no plain numbers, the ``type`` ("boolean", "string", "date" or "datetime"), and of strings
        the ``categories``.
    """

    def __init__(self, names: Sequence[str], kinds: Kinds | None = None) -> None:
        self.names = tuple(names)
        self.kinds = kinds or {}
        self._coders = [(place, _coder(self.kinds[name])) for place, name in enumerate(names) if name in self.kinds]

    def __reduce__(self) -> tuple[Any, ...]:
        return Coding, (self.names, self.kinds)  # its coders are functions, which no other process can be sent

    def rows(self, rows: Sequence[Sequence[Any]]) -> Matrix:
        """Return rows of values, as JSON has them, as a matrix of shape (n, columns)."""
        if self._coders:
            rows = [self.row(row) for row in rows]
        return np.array(rows, dtype=np.float64).reshape(-1, len(self.names))

    def row(self, values: Sequence[Any]) -> list[Any]:
        """Return one row of values as numbers; None where a plain number is missing."""
        coded = list(values)
        for place, code in self._coders:
            value = coded[place]
            coded[place] = math.nan if value is None else code(value)
        return coded

    def column(self, name: str, values: Sequence[Any]) -> Matrix:
        """Return the values of one column that is no plain number, as JSON has them, as shape (n,)."""
        code = _coder(self.kinds[name])
        known: dict[Any, float] = {None: math.nan}
        for value in values:
            if value not in known:
                known[value] = code(value)
        return np.array([known[value] for value in values], dtype=np.float64)

    def frame(self, frame: Any) -> Matrix:
        """Return the columns of a data frame, found by name, as a matrix of shape (n, columns).

        Dates may be texts or moments, booleans may be numbers.

        Raises
        ------
        ValueError, TypeError
            A value is no number, or no date.
        """
        columns = frame[list(self.names)]
        if not self.kinds:
            return _contiguous(columns.to_numpy())
        coded = np.empty((len(columns), len(self.names)))
        for place, name in enumerate(self.names):
            coded[:, place] = _column(columns[name], self.kinds.get(name))
        return coded

    def value(self, name: str, number: float) -> bool | float | str | None:
        """Return what a number of a column stands for, None for NaN."""
        if math.isnan(number):
            return None
        kind = self.kinds.get(name)
        if kind is None:
            return number
        if kind["type"] == "boolean":
            return bool(number)
        if kind["type"] == "string":
            return str(kind["categories"][int(number)])
        return iso_of(number, with_time=kind["type"] == "datetime")

    def to(self, other: Coding) -> Callable[[Matrix], Matrix]:
        """Return what turns rows of this coding into those of another one of the same columns, or fewer.

        Raises
        ------
        ValueError
            The other one has a column that is not here.
        """
        places, levels = [], {}
        for place, name in enumerate(other.names):
            if name not in self.names:
                raise ValueError(f"there is no column {name}; there are {', '.join(self.names)}")
            places.append(self.names.index(name))
            ours, theirs = (list(kinds.get(name, {}).get("categories", ())) for kinds in (self.kinds, other.kinds))
            if ours != theirs:
                known = {level: float(code) for code, level in enumerate(theirs)}
                levels[place] = np.array([*(known.get(level, math.nan) for level in ours), math.nan])
        if not levels and places == [*range(len(self.names))]:
            return lambda rows: rows

        def change(rows: Matrix) -> Matrix:
            changed = rows[:, places]
            for place, codes in levels.items():
                column = changed[:, place]
                changed[:, place] = codes[np.where(np.isnan(column), -1, column).astype(np.intp)]
            return np.ascontiguousarray(changed)

        return change


def days_of(text: str) -> float:
    """Return the days from 1970-01-01 to a date or a moment in ISO 8601; without an offset it is in UTC.

    Raises
    ------
    ValueError
        The text is neither.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - EPOCH).total_seconds() / _DAY


def iso_of(days: float, *, with_time: bool) -> str:
    """Return the date so many days after 1970-01-01 in ISO 8601, with the time to the second in UTC if asked for."""
    moment = (EPOCH + timedelta(seconds=round(days * _DAY))).replace(tzinfo=None).isoformat()
    return moment if with_time else moment[:10]


def _coder(kind: Mapping[str, Any]) -> Callable[[Any], float]:
    if kind["type"] in DATES:
        return days_of
    if kind["type"] == "string":
        codes = {level: float(code) for code, level in enumerate(kind["categories"])}
        return lambda level: codes.get(level, math.nan)
    return float


def _column(values: Any, kind: Mapping[str, Any] | None) -> Matrix:
    """Return a column of a data frame as numbers."""
    if kind is not None and kind["type"] in DATES and values.dtype.kind in "OTU":
        distinct, codes = _distinct(values)
        days = np.array([math.nan if text is None else days_of(text) for text in distinct], dtype=np.float64)
        return days[codes] if len(days) else np.empty(0)
    if kind is not None and kind["type"] in DATES and values.dtype.kind == "M":
        moments = values.to_numpy("datetime64[ns]")
        days = moments.astype(np.int64) / (_DAY * 1e9)
        return np.where(np.isnat(moments), math.nan, days)
    if kind is not None and kind["type"] == "string":
        distinct, codes = _distinct(values)
        code = _coder(kind)
        numbers = np.array([math.nan if level is None else code(level) for level in distinct], dtype=np.float64)
        return numbers[codes] if len(numbers) else np.empty(0)
    return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))


def _distinct(values: Any) -> tuple[list[str | None], npt.NDArray[np.intp]]:
    """Return the distinct texts of a column, None for missing ones, and which of them each value is."""
    codes, distinct = values.factorize(use_na_sentinel=True)
    return [*map(str, distinct), None], codes  # -1, the last one, is what is missing


def _contiguous(rows: Any) -> Matrix:
    # One layout: with another, sums are added in another order, and the last digit differs.
    return np.ascontiguousarray(rows, dtype=np.float64)
