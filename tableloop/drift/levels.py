"""Drift of counts: levels of a category, and values that are missing or not. Pure functions of counts by level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2_contingency, fisher_exact

from tableloop.model.coding import Coding, Kinds

Matrix = npt.NDArray[np.float64]

UNKNOWN = "unknown"  # a level that the version does not know
MISSING = "missing"
LEAST_EXPECTED = 5.0  # rows of a level in the smaller sample, as usual for the chi-squared distribution to hold
NAMED = 2  # levels in a sentence


def level_names(name: str, kinds: Kinds) -> list[str]:
    """Return the levels of a column that has no order, as they are coded; none of one that is ordered."""
    kind = kinds.get(name, {})
    if kind.get("type") == "boolean":
        return ["false", "true"]
    return [*kind["categories"], UNKNOWN] if kind.get("type") == "string" else []


def with_unknown(rows: Matrix, given: npt.NDArray[np.bool_], coding: Coding) -> Matrix:
    """Return coded rows in which levels that are not known are one more level.

    For a model they are missing. Here they are not, where ``given``, of the shape of the rows, says that there was a
    value.
    """
    rows = rows.copy()
    for place, name in enumerate(coding.names):
        if categories := coding.kinds.get(name, {}).get("categories"):
            rows[np.isnan(rows[:, place]) & given[:, place], place] = len(categories)
    return rows


def homogeneity(before: Matrix, now: Matrix) -> float:
    """Return the p-value of both counts by level, (levels,), being of one distribution.

    It is the chi-squared test of homogeneity. Rare levels are taken together until enough are expected; if that
    cannot be, Fisher's exact test compares them with all others, and the smaller of both p-values counts twice.
    What is together depends on the sums of both samples alone, so that the p-values stay what they are.
    """
    common, rest = _grouped(np.rint(np.stack([before, now])))
    if not rest.any():
        return _p_value(common)
    return min(1.0, 2 * min(_p_value(common), _p_value(np.column_stack([common.sum(axis=1), rest]))))


def stability_of_levels(before: Matrix, now: Matrix, apart: int) -> float:
    """Return the population stability index over levels. Rare ones are one, but for the last ``apart``.

    Half a row is added to every level, so that an empty one counts much, but not infinitely.
    """
    known, others = np.split(np.stack([before, now]), [len(before) - apart], axis=1)
    counts = np.column_stack([*_grouped(known), others])
    return stability(*counts[:, counts.any(axis=0)])


def stability(before: Matrix, now: Matrix) -> float:
    """Return the population stability index of two counts by bin, each with half a row more."""
    shares = [(rows + 0.5) / (rows + 0.5).sum() for rows in (before, now)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def change_of_levels(names: Sequence[str], before: Matrix, now: Matrix) -> str:
    """Return in words which shares of levels changed most; of two equal changes the one that grew comes first."""
    changes = np.round(now - before, 6)
    order = sorted(range(len(names)), key=lambda level: (-abs(changes[level]), -changes[level]))
    largest = abs(changes[order[0]])
    seen = int(((before > 0) | (now > 0)).sum())  # of two levels one says it all
    named = [level for level in order[: NAMED if seen > 2 else 1] if 2 * abs(changes[level]) >= largest]
    return ", ".join(share_change(names[level], before[level], now[level]) for level in named)


def share_change(name: str, before: float, now: float) -> str:
    """Return the change of a share in words."""
    return f"{name} {_percent(before)} → {_percent(now)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 or not share else f"{100 * share:.1g} %"


def _grouped(counts: Matrix) -> tuple[Matrix, Matrix]:
    """Return the counts of groups of levels of which enough are expected, (2, groups), and of what is left, (2,)."""
    rows, total = counts.sum(axis=1), counts.sum(axis=0)
    expected = total * rows.min() / max(rows.sum(), 1.0)
    groups, number, so_far = np.zeros(len(total), dtype=np.intp), 0, 0.0
    for level in np.argsort(-total, kind="stable"):
        groups[level] = number
        so_far += expected[level]
        if so_far >= LEAST_EXPECTED:
            number, so_far = number + 1, 0.0
    together = np.array([np.bincount(groups, row, minlength=number + 1) for row in counts], dtype=np.float64)
    return together[:, :number], together[:, number]


def _p_value(counts: Matrix) -> float:
    counts = counts[:, counts.any(axis=0)]
    if counts.shape[1] < 2:
        return 1.0
    if counts.shape[1] == 2:
        return float(fisher_exact(counts.astype(np.int64)).pvalue)
    return float(chi2_contingency(counts, correction=False).pvalue)
