"""The labels that judge a version in the shadow, and when they do."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Final

from tableloop.senders import bounded
from tableloop.state.database import Store
from tableloop.state.shadows import Compared, Shadow, compared

MOST: Final = 20_000  # newest labels that are looked at
MOST_FAILURES: Final = 3  # in a row: what cannot score then will not


class Due(Enum):
    """Why a version in the shadow is to be judged now."""

    LOOK = "enough labels for the next look"
    TIME = "its time is over"
    FAILED = "it cannot score"


def evidence(store: Store, shadow: Shadow, champion: str, share: float) -> list[Compared]:
    """Return the labels that judge it, the newest first; one sender has at most a share of them."""
    found = compared(store, shadow, champion, MOST)
    left = bounded(Counter(row.sender for row in found), share)
    kept = []
    for row in found:
        if left[row.sender]:
            left[row.sender] -= 1
            kept.append(row)
    return kept


def verdict_due(shadow: Shadow, labels: int, least: int, days: float, now: float) -> Due | None:
    """Return why a verdict is due, None while it is not.

    With PROMOTE=shadow labels are looked at when there are ``least`` of them, and each time that they have doubled;
    for at most so many ``days``. ``now`` in unix seconds.
    """
    if shadow.failures >= MOST_FAILURES:
        return Due.FAILED
    if now >= shadow.began_at + days * 86_400:
        return Due.TIME
    return Due.LOOK if labels >= least << shadow.looks else None
