"""When something is due by a schedule."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tableloop.schedule import next_time

MONDAY = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [("30m", 0.5), ("12h", 12), ("7d", 168), ("2w", 336), ("0 3 * * 1", 6 * 24 + 15)],
)
def test_a_period_or_a_cron_line_says_when(schedule: str, hours: float) -> None:
    assert next_time(schedule, MONDAY) == MONDAY + 3600 * hours


@pytest.mark.parametrize("schedule", ["7", "0m", "1 day", "* * * *", "61 * * * *", "0 0 30 2 *", "7 d"])
def test_what_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"needed|a minute"):
        next_time(schedule, MONDAY)
