"""Where a model errs: its error and coverage by region, by price and by tenth of the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tableloop.table import FEATURE_NAMES

Vector = npt.NDArray[np.float64]
LATITUDE, LONGITUDE = FEATURE_NAMES.index("Latitude"), FEATURE_NAMES.index("Longitude")
# Degrees from south to north and from west to east; a place belongs to the first that holds it.
REGIONS: Mapping[str, tuple[float, float, float, float]] = {
    "San Francisco Bay": (36.9, 38.4, -123.2, -121.6),
    "Los Angeles, Orange": (33.35, 34.85, -119.0, -117.4),
    "San Diego": (32.4, 33.35, -117.7, -116.0),
    "Central Valley": (35.0, 40.8, -122.6, -118.6),
    "elsewhere": (-90.0, 90.0, -180.0, 180.0),
}
BANDS = (0.0, 1.0, 2.0, 3.0, 5.0, np.inf)  # 100,000 US dollars; the source caps values at 5.00001
DECILES = 10


@dataclass(frozen=True)
class Answered:
    """Rows that a model has not seen, shape (n, 8), with their values and what it says of them, shape (n,)."""

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


def by_region(answered: Answered) -> list[Group]:
    """Return a group for each of `REGIONS` that has rows."""
    north, east = answered.rows[:, LATITUDE], answered.rows[:, LONGITUDE]
    left = np.ones(len(north), dtype=bool)
    groups = []
    for name, (low, high, west, right) in REGIONS.items():
        inside = left & (low <= north) & (north <= high) & (west <= east) & (east <= right)
        left &= ~inside
        groups.append(_group(name, answered, inside))
    return [group for group in groups if group.rows]


def by_price(answered: Answered) -> list[Group]:
    """Return a group for each of `BANDS` of the actual value that has rows."""
    band = np.digitize(answered.actual, BANDS) - 1
    groups = [_group(_band_name(number), answered, band == number) for number in range(len(BANDS) - 1)]
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


def _band_name(number: int) -> str:
    low, high = BANDS[number] * 100_000, BANDS[number + 1] * 100_000
    if np.isinf(high):
        return f"{low:,.0f} and more"
    return f"{low:,.0f} to {high:,.0f}" if low else f"below {high:,.0f}"
