"""Which rows a story is about, and the story of a table that tells none.

Rows are not changed: a story asks more often about some of the rows that there are, and the values of these move. So
inputs go together as they always did, and every row has a true value.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from tableloop.drift.levels import level_names
from tableloop.figures import figure
from tableloop.model.coding import days_of
from tableloop.table import Column, Place, Story, Table, Value

EARTH_KM = 6371.0
FACTOR = 1.5  # of the values, or else of their standard deviations what is added
SHARE = 0.7
LEAST_ROWS = 0.2  # of all: fewer would be asked about again and again
LEAST_EXPLAINED = 0.05  # less may be chance
MOST_INPUTS = 2
TENTHS = 10

Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Where = dict[str, tuple[Value, ...]]


def concerned_rows(features: Matrix, story: Story, table: Table) -> Mask:
    """Return which of the coded rows, (n, features), a story is about, (n,)."""
    concerned = _where(features, story.where, table)
    if story.line and table.place is not None:
        concerned &= _near_line(features, table.place, story, table)
    return concerned


def default_story(features: Matrix, values: Matrix, table: Table) -> Story:
    """Return a story made from the data: more questions where the values are high, and there they move.

    High by the inputs that explain most of the values: of numbers and dates the better half, of categories the best
    levels. ``features`` are coded, (n, features), and ``values`` theirs, (n,).
    """
    ranks = rankdata(values)
    columns = dict(enumerate(table.features))
    explained = {place: _explained(features[:, place], column, ranks, table) for place, column in columns.items()}
    where: Where = {}
    for place in sorted(columns, key=lambda place: -explained[place]):
        if explained[place] <= LEAST_EXPLAINED:
            break
        more = where | {columns[place].name: _highest(features[:, place], columns[place], ranks, table)}
        if len(more) <= MOST_INPUTS and _where(features, more, table).mean() >= LEAST_ROWS:
            where = more
    moved = values[_where(features, where, table)]
    factor, plus = 1.0, 0.0
    if table.target.minimum < 0:
        plus = float(f"{FACTOR * np.std(values):.2g}")
    else:
        factor = FACTOR if FACTOR * np.quantile(moved, 0.9) <= table.target.maximum else 1 / FACTOR
    by = f"{figure(plus)} {table.target.unit}".strip() if plus else f"{abs(factor - 1):.0%}".replace("%", " %")
    conditions = " and ".join(_words(table.column(name), limits) for name, limits in where.items())
    whose = (
        f"{100 * SHARE:.0f} % of the questions are about {table.rows} with {conditions}, their" if where else "every"
    )
    title = f"{whose} {table.target.title} {'up' if factor >= 1 else 'down'} by {by}"
    return Story(title=title, where=where, share=SHARE, factor=factor, plus=plus)


def _where(features: Matrix, where: Mapping[str, tuple[Value, ...]], table: Table) -> Mask:
    """Return the rows for which all conditions hold; what is missing fulfils none."""
    fulfilled = np.ones(len(features), dtype=bool)
    for name, values in where.items():
        column = features[:, table.feature_names.index(name)]
        if table.column(name).is_ordered:
            low, high = (days_of(value) if isinstance(value, str) else float(value or 0) for value in values)
            fulfilled &= (low <= column) & (column <= high)
        else:
            levels = level_names(name, table.kinds)
            fulfilled &= np.isin(column, [levels.index(_level(value)) for value in values])
    return fulfilled


def _level(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _explained(column: Matrix, meaning: Column, ranks: Matrix, table: Table) -> float:
    """Return the share of the variance of the values' ranks that a column explains, less what chance would.

    Fisher's correlation ratio of its levels, or of its tenths, adjusted for their number.
    """
    groups = column
    if not level_names(meaning.name, table.kinds):
        known = column[~np.isnan(column)]
        edges = np.unique(np.quantile(known, np.arange(1, TENTHS) / TENTHS)) if len(known) else known
        groups = np.where(np.isnan(column), -1.0, np.searchsorted(edges, column))
    _, group, counts = np.unique(np.nan_to_num(groups, nan=-1.0), return_inverse=True, return_counts=True)
    variance = float(np.var(ranks, ddof=1))
    if len(counts) in (1, len(ranks)) or not variance:
        return 0.0
    means = np.bincount(group, ranks) / counts
    within = float(((ranks - means[group]) ** 2).sum()) / (len(ranks) - len(counts))
    return 1.0 - within / variance


def _highest(column: Matrix, meaning: Column, ranks: Matrix, table: Table) -> tuple[Value, ...]:
    """Return the half of a column, or the levels, where the values are high."""
    known = ~np.isnan(column)
    if levels := level_names(meaning.name, table.kinds):
        codes = column[known].astype(np.intp)
        counts = np.bincount(codes, minlength=len(levels))
        means = np.bincount(codes, ranks[known], len(levels)) / np.maximum(counts, 1)
        order = [level for level in np.argsort(-means) if counts[level]]
        share = np.cumsum(counts[order]) / len(column)
        chosen = order[: max(1, int((share <= 0.5).sum()))]
        return tuple(bool(level) if meaning.type == "boolean" else levels[level] for level in chosen)
    middle = float(np.median(column[known]))
    upper = known & (column >= middle)
    ends = [middle, meaning.maximum] if ranks[upper].mean() >= ranks[known].mean() else [meaning.minimum, middle]
    return tuple(end if meaning.is_number else meaning.written(end) for end in ends)


def _words(column: Column, limits: tuple[Value, ...]) -> str:
    if not column.is_ordered:
        return f"{column.title} {' or '.join(_level(value) for value in limits)}"
    low, high = (value if isinstance(value, str) else figure(float(value or 0)) for value in limits)
    last = figure(column.maximum) if column.is_number else column.written(column.maximum)
    return f"{column.title} from {low} on" if high == last else f"{column.title} up to {high}"


def _near_line(features: Matrix, place: Place, story: Story, table: Table) -> Mask:
    """Return which rows lie within `story.kilometres` of the story's line, (n,)."""
    line = np.concatenate([np.linspace(start, end, 50) for start, end in itertools.pairwise(story.line)])
    places = features[:, [table.feature_names.index(name) for name in (place.latitude, place.longitude)]]
    distances, _ = cKDTree(_on_sphere(line)).query(_on_sphere(places))
    return np.asarray(distances < story.kilometres)


def _on_sphere(degrees: Matrix) -> Matrix:
    """Return latitudes and longitudes, (n, 2), as points in space, (n, 3), in kilometres."""
    north, east = np.radians(degrees).T
    return EARTH_KM * np.column_stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)])
