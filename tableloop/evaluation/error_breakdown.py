"""Where a model errs: its error and coverage by region, by band and by tenth of the values."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tableloop.table import Display, Table

Vector = npt.NDArray[np.float64]
DECILES = 10


@dataclass(frozen=True)
class Answered:
    """Rows that a model has not seen, shape (n, columns), with their values and what it says of them, shape (n,)."""

    rows: Vector
    actual: Vector
    predicted: Vector
    low: Vector
    high: Vector


@dataclass(frozen=True)
class Group:
    """Some of the rows: RMSE, mean of predicted minus actual, and the share inside the intervals."""

    name: str
    rows: int
    rmse: float
    bias: float
    coverage: float


def by_region(answered: Answered, table: Table) -> list[Group]:
    """Return a group for each of the table's regions that has rows; none without a place."""
    if table.place is None:
        return []
    where = (table.feature_names.index(name) for name in (table.place.latitude, table.place.longitude))
    north, east = (answered.rows[:, column] for column in where)
    left = np.ones(len(north), dtype=bool)
    groups = []
    for name, (low, high, west, right) in table.regions.items():
        inside = left & (low <= north) & (north <= high) & (west <= east) & (east <= right)
        left &= ~inside
        groups.append(_group(name, answered, inside))
    return [group for group in groups if group.rows]


def by_band(answered: Answered, table: Table) -> list[Group]:
    """Return a group for each of the table's bands of the actual value that has rows."""
    band = np.digitize(answered.actual, table.bands)
    ends = (-np.inf, *table.bands, np.inf)
    groups = [
        _group(_band_name(low, high, table.display), answered, band == number)
        for number, (low, high) in enumerate(pairwise(ends))
    ]
    return [group for group in groups if group.rows]


def by_quantile(answered: Answered, count: int) -> list[Group]:
    """Return groups of the same size, the lowest actual values first."""
    rank = np.argsort(np.argsort(answered.actual, kind="stable"), kind="stable")
    part = rank * count // len(rank)
    return [_group(f"{number + 1} of {count}", answered, part == number) for number in range(count)]


def _group(name: str, answered: Answered, chosen: npt.NDArray[np.bool_]) -> Group:
    actual = answered.actual[chosen]
    if not len(actual):
        return Group(name, 0, 0.0, 0.0, 0.0)
    errors = answered.predicted[chosen] - actual
    inside = (answered.low[chosen] <= actual) & (actual <= answered.high[chosen])
    return Group(name, len(actual), float(np.sqrt(np.mean(errors**2))), float(errors.mean()), float(inside.mean()))


def _band_name(low: float, high: float, display: Display) -> str:
    low, high = low * display.factor, high * display.factor
    if np.isinf(high):
        return f"{low:,.0f} and more"
    return f"below {high:,.0f}" if np.isinf(low) else f"{low:,.0f} to {high:,.0f}"
