"""When something is due by a schedule: every so often, or by a cron line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

UNITS: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
LEAST_SECONDS: Final = 60.0


def next_time(schedule: str, after: float) -> float:
    """Return when it is due next after a moment, both in unix seconds.

    ``schedule`` is a number of minutes, hours, days or weeks (``30m``, ``12h``, ``7d``, ``2w``) from that moment on,
    or the five fields of a cron line, in UTC.

    Raises
    ------
    ValueError
        It is neither, or never due.
    """
    if period := re.fullmatch(r"(\d+)([mhdw])", schedule.strip()):
        seconds = int(period[1]) * UNITS[period[2]]
        if seconds < LEAST_SECONDS:
            raise ValueError("at least a minute has to lie in between")
        return after + seconds
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - only for whoever has such a line

    try:
        return next(CronSim(schedule, datetime.fromtimestamp(after, UTC))).timestamp()
    except (CronSimError, StopIteration):
        raise ValueError(
            "a period such as 12h, 7d or 2w is needed, or a cron line such as '0 3 * * 1' (Mondays at 3:00 UTC)"
        ) from None
