"""What each program of the appliance uses, read from `/proc`; nothing where there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

PROC = Path("/proc")
# Of a line in `/proc/<pid>/stat`, behind the name in brackets, which may hold anything; proc_pid_stat(5).
GROUP, CPU_TICKS, START_TICKS, PAGES = 2, slice(11, 15), 19, 21  # CPU: own and of children that have ended


def usage(groups: Mapping[str, int], proc: Path = PROC) -> dict[str, dict[str, float]]:
    """Return memory (resident), CPU time and age of each process group, by the name it has in `groups`.

    The age is the oldest process's. Groups without a process are left out.
    """
    try:
        uptime = float((proc / "uptime").read_text().split()[0])
    except OSError:
        return {}
    names = {group: name for name, group in groups.items()}
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found: dict[str, dict[str, float]] = {}
    for file in proc.glob("[0-9]*/stat"):
        try:
            fields = file.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        name = names.get(int(fields[GROUP]))
        if name is None:
            continue
        used = found.setdefault(name, {"memory_bytes": 0, "cpu_seconds": 0.0, "uptime_seconds": 0.0})
        used["memory_bytes"] += int(fields[PAGES]) * page
        used["cpu_seconds"] += sum(map(int, fields[CPU_TICKS])) / ticks
        used["uptime_seconds"] = max(used["uptime_seconds"], uptime - int(fields[START_TICKS]) / ticks)
    return found
