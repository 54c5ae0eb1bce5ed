"""What a model sees of coded rows: the one formula of the design matrix, in training and in serving; only numpy.

Its columns are, in this order: the table's own, without the categories that `levels` stand for; the parts of each
date; what stands for the levels of each category; the terms; where a value was missing.

`learn` finds what it needs of a table's rows; `tableloop.model.row_features` is its form for scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tableloop.model.coding import DATES, Matrix
from tableloop.model.terms import Places, Terms

Arrays = dict[str, npt.NDArray[Any]]

PARTS = ("year", "month", "weekday", "day_of_year", "hour")  # of a date; the last one of a datetime only
MOST_INDICATED = 12  # levels of a category with a column each; with more, the mean of the target stands for a level
PRIOR_ROWS = 10  # the mean of all rows counts as so many rows of each level
FOLDS = 5


class Design:
    """The design matrix of rows.

    Parameters
    ----------
    specification
        ``columns``, ``place``, ``kinds`` as `tableloop.model.coding.Coding` takes them, ``terms`` as
        `tableloop.model.terms` explains them, ``middle_latitude``, and ``codes``: so many levels of a category stay
        the codes that they are, for trees that take them as sets; 0 if none do.
    arrays
        What `learn` has found: ``levels_NAME`` (levels + 1, k), what stands for each level of a category, in the last
        row for a missing one. Where nothing may be missing in the matrix, ``medians`` of its columns, and
        ``indicated``, the numbers of those whose missing values have a column of their own.

    Attributes
    ----------
    names
        Of the columns of the matrix.
    codes
        Of those that are codes of levels, how many levels there are, by their number.
    own
        How many are the table's own: the first ones.
    means
        The numbers of the columns of `learn`'s means, by category.
    """

    def __init__(self, specification: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        columns, place, kinds = (list(specification["columns"]), specification["place"], specification["kinds"])
        codes, terms = specification["codes"], specification["terms"]
        types = {name: kinds.get(name, {}).get("type") for name in columns}
        own = [name for name in columns if codes or types[name] != "string"]
        self.own = len(own)
        levels = {
            number: len(kinds[name]["categories"]) for number, name in enumerate(own) if types[name] == "string"
        }
        self.codes = {number: min(count, codes) for number, count in levels.items()}
        self._own = np.array([columns.index(name) for name in own], dtype=np.intp)
        # The most frequent levels have the lowest codes; the others share the last one.
        self._caps = np.array([codes - 1.0 if types[name] == "string" else np.inf for name in own])
        self._capped = levels != self.codes
        self.names, self.means = own, {}
        self._dates, self._levels = [], []
        for column, name in enumerate(columns):
            if types[name] in DATES:
                parts = PARTS if types[name] == "datetime" else PARTS[:-1]
                self._dates.append((column, len(parts)))
                self.names = [*self.names, *(f"{name}_{part}" for part in parts)]
        for column, name in enumerate(columns):
            if (table := arrays.get(f"levels_{name}")) is not None:
                self._levels.append((column, table))
                if table.shape[1] == 1:
                    self.means[name] = len(self.names)
                self.names = [*self.names, *(f"{name}_{number}" for number in range(table.shape[1]))]
        self._terms = Terms(columns, [*terms.items()]) if terms else None
        self._places = Places(columns, place, specification["middle_latitude"]) if place and terms else None
        self._medians, self._indicated = arrays.get("medians"), arrays.get("indicated")
        self.names += terms
        if self._indicated is not None:
            self.names += [f"{self.names[number]}_missing" for number in self._indicated]
        # Nothing is to be done for a table of numbers alone.
        self._plain = self.names == columns and not self._capped and self._medians is None

    def __call__(self, X: Matrix) -> Matrix:
        """Return the design matrix of rows, (n, columns) to (n, its columns)."""
        if self._plain:
            return X
        own = X if self.own == X.shape[1] else X.take(self._own, axis=1)
        blocks = [np.minimum(own, self._caps) if self._capped else own]
        blocks += [date_parts(X[:, column])[:, :count] for column, count in self._dates]
        blocks += [table[level_rows(X[:, column])] for column, table in self._levels]
        if self._terms is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = self._terms(X, None if self._places is None else self._places(X))
            blocks.append(np.where(np.isfinite(terms), terms, np.nan))
        made = np.concatenate(blocks, axis=1)
        if self._medians is None:
            return made
        missing = np.isnan(made)
        return np.concatenate([np.where(missing, self._medians, made), missing[:, self._indicated]], axis=1)


def learn(specification: Mapping[str, Any], X: Matrix, y: Matrix, *, impute: bool) -> tuple[Arrays, Arrays]:
    """Return the arrays of `Design` learnt from rows (n, columns) and targets (n,), and means for the same rows.

    Those means, (n,) by category, are of other rows of the level: in folds, each without its own rows. One that holds
    the row's own target would look better in training than it is.
    """
    arrays: Arrays = {}
    left_out: Arrays = {}
    fold = np.random.default_rng(0).permutation(len(X)) % FOLDS
    middle = y.mean()
    for column, name in enumerate(specification["columns"]):
        if not (count := len(specification["kinds"].get(name, {}).get("categories", ()))):
            continue
        if count <= (specification["codes"] or MOST_INDICATED):
            if not specification["codes"]:
                arrays[f"levels_{name}"] = np.eye(count + 1)
            continue
        rows = level_rows(X[:, column]) % (count + 1)
        cells, shape = fold * (count + 1) + rows, (FOLDS, count + 1)
        counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
        sums = np.bincount(cells, y - middle, minlength=shape[0] * shape[1]).reshape(shape)
        arrays[f"levels_{name}"] = (middle + sums.sum(axis=0) / (counts.sum(axis=0) + PRIOR_ROWS))[:, None]
        others = middle + (sums.sum(axis=0) - sums) / (counts.sum(axis=0) - counts + PRIOR_ROWS)
        left_out[name] = others[fold, rows]
    if impute:
        design = Design(specification, arrays)
        made = design(X)
        missing = np.isnan(made)
        arrays["indicated"] = np.flatnonzero(missing[:, : design.own].any(axis=0))
        arrays["medians"] = np.array(
            [
                np.median(values[known]) if known.any() else 0.0
                for values, known in zip(made.T, ~missing.T, strict=True)
            ]
        )
    return arrays, left_out


def level_rows(codes: Matrix) -> npt.NDArray[np.intp]:
    """Return the row of a table of levels for each code: the last one for what is missing."""
    return np.where(np.isnan(codes), -1.0, codes).astype(np.intp)


def date_parts(days: Matrix) -> Matrix:
    """Return `PARTS` of days since 1970-01-01, (n,) to (n, 5); Monday is 0, the hour has minutes as its fraction."""
    missing = np.isnan(days)
    # To the second, or a full hour could come out as a little less.
    seconds = np.round(np.where(missing, 0.0, days) * 86_400.0)
    day = np.floor(seconds / 86_400.0)
    date = day.astype("datetime64[D]")
    year, month = date.astype("datetime64[Y]"), date.astype("datetime64[M]")
    parts = np.empty((len(days), len(PARTS)))
    parts[:, 0] = year.astype(np.int64) + 1970
    parts[:, 1] = month.astype(np.int64) % 12 + 1
    parts[:, 2] = (day + 3) % 7  # 1970-01-01 was a Thursday
    parts[:, 3] = (date - year).astype(np.int64) + 1
    parts[:, 4] = seconds / 3600.0 - day * 24.0
    parts[missing] = np.nan
    return parts
