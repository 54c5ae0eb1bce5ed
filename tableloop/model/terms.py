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


class Terms:
    """The values of named terms.

    Raises
    ------
    ValueError
        A term names no column, or has a key that does not exist.
    """

    def __init__(self, columns: Sequence[str], terms: Mapping[str, Term]) -> None:
        for name, term in terms.items():
            if unknown := [key for key in term if key not in KEYS]:
                raise ValueError(f"{name}: there is no {', '.join(unknown)}; there are {', '.join(KEYS)}")
        self._count = len(terms)
        names, given = list(terms), list(terms.values())
        alone = [i for i, term in enumerate(given) if not term.keys() & {"ratio", "product", "angle"}]
        # Each kind of term: which of the results it makes, and of which columns.
        self._alone = np.array(alone, dtype=np.intp), positions(columns, [names[i] for i in alone])
        self._ratios = _pairs(columns, given, "ratio")
        self._products = _pairs(columns, given, "product")
        self._turned = np.array([i for i, term in enumerate(given) if "angle" in term], dtype=np.intp)
        angles = [math.radians(given[i]["angle"]) for i in self._turned]
        self._axes = np.array([[math.cos(angle) for angle in angles], [math.sin(angle) for angle in angles]])
        bounds = [term.get("clip", (-math.inf, math.inf)) for term in given]
        self._low, self._high = np.array(bounds, dtype=np.float64).reshape(-1, 2).T
        self._plus = np.array([term.get("plus", 0.0) for term in given], dtype=np.float64)
        self._logarithms = np.array([i for i, term in enumerate(given) if term.get("log")], dtype=np.intp)
        # What a column must be greater than, or a term is no number.
        self.above = {term["ratio"][1]: 0.0 for term in given if "ratio" in term} | {
            names[i]: -term.get("plus", 0.0) for i in alone if (term := given[i]).get("log") and "clip" not in term
        }
        self._plain = not any(term.keys() & {"clip", "plus", "log"} for term in given)

    def __call__(self, X: Matrix, places: Matrix | None = None) -> Matrix:
        """Return the terms of rows that lie at places of shape (n, 2): (n, columns) to (n, terms)."""
        out = np.empty((len(X), self._count))
        results, columns = self._alone
        if len(results):
            out[:, results] = X.take(columns, axis=1)
        for (results, first, second), operation in ((self._ratios, np.divide), (self._products, np.multiply)):
            if len(results):
                out[:, results] = operation(X.take(first, axis=1), X.take(second, axis=1))
        if places is not None and len(self._turned):
            north, east = places[:, :1], places[:, 1:]
            out[:, self._turned] = north * self._axes[0] + east * self._axes[1]
        if self._plain:
            return out
        np.maximum(out, self._low, out=out)
        np.minimum(out, self._high, out=out)
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
            raise ValueError(f"there is no column {name}; there are {', '.join(columns)}")
    return np.array([columns.index(name) for name in names], dtype=np.intp)


def _pairs(columns: Sequence[str], terms: Sequence[Term], key: str) -> tuple[Indices, Indices, Indices]:
    """Return which results are of this kind, and their first and second columns."""
    found = [i for i, term in enumerate(terms) if key in term]
    first, second = (positions(columns, [terms[i][key][side] for i in found]) for side in (0, 1))
    return np.array(found, dtype=np.intp), first, second
