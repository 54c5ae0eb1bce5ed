"""Times as people write them."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(text: str) -> float:
    """Return a time in unix seconds, UTC where it names no zone.

    Raises
    ------
    ValueError
        It is no time in the form of ISO 8601.
    """
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
