"""Numbers made of a row's columns, as params.yaml describes them by name; only numpy.

A term is a mapping with at most one of these keys; without any of them it is the column of its own name:

- ``ratio: [a, b]`` or ``product: [a, b]``: of two columns;
- ``angle: degrees``: the place along an axis turned from north to east: trees split along axes.

To what comes of it are applied, in this order, ``clip: [low, high]``, ``plus: number`` and ``log: true``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Term = Mapping[str, Any]

ONE = ""  # stands for the number 1 among the columns
NOT_BOUND = {"clip", "ratio", "product", "angle"}  # with one of these a logarithm bounds no column
KEYS = ("ratio", "product", "angle", "clip", "plus", "log")


class Places:
    """Where rows lie, in degrees of latitude north and east.

    Parameters
    ----------
    columns
        The names of a row's columns, in their order.
    place
        The names of those with latitude and longitude, in degrees.
    middle_latitude
        A degree of longitude counts as much as it measures at this latitude.
    """

    def __init__(self, columns: Sequence[str], place: Sequence[str], middle_latitude: float) -> None:
        self._columns = positions(columns, place)
        self._degrees = np.array([1.0, math.cos(math.radians(middle_latitude))])

    def __call__(self, X: Matrix) -> Matrix:
        """Return the places of rows, (n, columns) to (n, 2)."""
        where = X.take(self._columns, axis=1)
        where *= self._degrees
        return where

    def coordinates(self, places: Matrix) -> Matrix:
        """Return latitudes and longitudes of such places, (n, 2)."""
        coordinates: Matrix = places / self._degrees
        return coordinates


class Terms:
    """The values of named terms.

    Raises
    ------
    ValueError
        A term names no column, or has a key that does not exist.
    """

    def __init__(self, columns: Sequence[str], terms: Sequence[tuple[str, Term]]) -> None:
        for name, term in terms:
            if unknown := [key for key in term if key not in KEYS]:
                raise ValueError(f"{name}: there is no {', '.join(unknown)}; there are {', '.join(KEYS)}")
        # Every term is a * b / c, of columns or of the ones that a row is given as its last column: no kind of term
        # needs calls of its own, whose overhead is most of what a single row costs.
        factors = [positions([*columns, ONE], _factors(name, term)) for name, term in terms]
        self._a, self._b, self._c = np.array(factors, dtype=np.intp).reshape(-1, 3).T
        self._products = any("product" in term for _, term in terms)
        self._ratios = any("ratio" in term for _, term in terms)
        self._turned = np.array([i for i, (_, term) in enumerate(terms) if "angle" in term], dtype=np.intp)
        angles = [math.radians(terms[i][1]["angle"]) for i in self._turned]
        self._cosines, self._sines = np.cos(angles), np.sin(angles)
        bounds = [term.get("clip", (-math.inf, math.inf)) for _, term in terms]
        self._low, self._high = np.array(bounds, dtype=np.float64).reshape(-1, 2).T
        self._clips = any("clip" in term for _, term in terms)
        self._plus = np.array([term.get("plus", 0.0) for _, term in terms], dtype=np.float64)
        self._logarithms = np.array([i for i, (_, term) in enumerate(terms) if term.get("log")], dtype=np.intp)
        # What a column must be greater than, or a term is no number.
        self.above = {term["ratio"][1]: 0.0 for _, term in terms if "ratio" in term}
        self.above |= {
            name: -term.get("plus", 0.0) for name, term in terms if term.get("log") and not term.keys() & NOT_BOUND
        }

    def __call__(self, X: Matrix, places: Matrix | None = None) -> Matrix:
        """Return the terms of rows that lie at places of shape (n, 2): (n, columns) to (n, terms)."""
        rows = np.empty((len(X), X.shape[1] + 1))
        rows[:, :-1] = X
        rows[:, -1] = 1.0
        out = rows.take(self._a, axis=1)
        if self._products:
            out *= rows.take(self._b, axis=1)
        if self._ratios:
            out /= rows.take(self._c, axis=1)
        if places is not None and len(self._turned):
            out[:, self._turned] = places[:, :1] * self._cosines + places[:, 1:] * self._sines
        if self._clips:
            np.maximum(out, self._low, out=out)
            np.minimum(out, self._high, out=out)
        if len(self._logarithms):
            out += self._plus
            out[:, self._logarithms] = np.log(out.take(self._logarithms, axis=1))
        return out


def positions(columns: Sequence[str], names: Sequence[str]) -> Indices:
    """Return where names stand among the columns.

    Raises
    ------
    ValueError
        A name is no column.
    """
    for name in names:
        if name not in columns:
            raise ValueError(f"there is no column {name}; there are {', '.join(filter(None, columns))}")
    return np.array([columns.index(name) for name in names], dtype=np.intp)


def _factors(name: str, term: Term) -> tuple[str, str, str]:
    """Return a, b and c of a term that is a * b / c; an angle is no such term, and is made of ones first."""
    if "ratio" in term:
        above, below = term["ratio"]
        return above, ONE, below
    if "product" in term:
        first, second = term["product"]
        return first, second, ONE
    return (ONE if "angle" in term else name), ONE, ONE
