"""The labels that judge a version in the shadow, and when they do."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Final, NamedTuple

from tableloop.senders import bounded
from tableloop.state.database import Store
from tableloop.state.shadows import Compared, Shadow, compared

MOST: Final = 20_000  # newest labels that are looked at
MOST_FAILURES: Final = 20  # in a row: five minutes, where looks are 15 s apart


class Due(Enum):
    """Why a version in the shadow is to be judged now."""

    LOOK = "enough labels for the next look"
    TIME = "its time is over"
    FAILED = "it cannot score"


class Evidence(NamedTuple):
    """The labels that judge it, the newest first, of so many that have come."""

    rows: list[Compared]
    came: int

    def __str__(self) -> str:
        """Return in words how many labels have come and count."""
        if len(self.rows) == self.came:
            return f"{self.came:,} labels have come"
        return (
            f"{self.came:,} labels have come, of which {len(self.rows):,} count: a row counts once, and one sender "
            "is at most a part of them (gate_share)"
        )


def evidence(store: Store, shadow: Shadow, champion: str, share: float) -> Evidence:
    """Return the labels that judge it.

    A row, as its features, counts once, with its newest label; one sender has at most a share of them.
    """
    found = compared(store, shadow, champion, MOST)
    newest: dict[tuple[object, ...], Compared] = {}
    for row in found:
        newest.setdefault(row.row, row)
    left = bounded(Counter(row.sender for row in newest.values()), share)
    kept = []
    for row in newest.values():
        if left[row.sender]:
            left[row.sender] -= 1
            kept.append(row)
    return Evidence(kept, len(found))


def verdict_due(shadow: Shadow, labels: int, least: int, days: float, now: float) -> Due | None:
    """Return why a verdict is due, None while it is not.

    With PROMOTE=shadow labels are looked at when there are ``least`` of them, and each time that they have doubled;
    for at most so many ``days``. ``now`` in unix seconds.
    """
    if shadow.failures >= MOST_FAILURES:
        return Due.FAILED
    if now >= shadow.began_at + days * 86_400:
        return Due.TIME
    return Due.LOOK if labels >= max(least, 2 * shadow.looked_at) else None
