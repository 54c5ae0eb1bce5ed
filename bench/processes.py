"""How fast several processes of the service are on this machine: ``python -m bench.processes``, some two minutes.

The service with one process, two and four takes turns, round after round, each with 64 connections; it and the load
generator (wrk) share all cores. The model is the version that serves in STATE_DIR. The table is written to
bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import pandas as pd

from bench.scorer import varied
from bench.serving import (
    ROWS,
    WARM_UP_SECONDS,
    Load,
    as_table,
    find_wrk,
    memory_of,
    model_directory,
    processor,
    servers,
    started,
    write,
    wrk_run,
)
from pipeline.stage_runner import raw_data
from tableloop.model.conformal import as_matrix
from tableloop.table import load_table

BEGIN, END = "<!-- bench/processes.py writes from here -->", "<!-- to here, too -->"
PROCESSES = (1, 2, 4)
CONNECTIONS = 64


def main() -> None:
    """Measure, print the table and write it to bench/README.md."""
    parser = argparse.ArgumentParser(prog="python -m bench.processes")
    parser.add_argument("--model", type=Path, help="directory of an MLflow model with its scorer")
    parser.add_argument("--seconds", type=int, default=5, help="of each run of wrk (5)")
    parser.add_argument("--rounds", type=int, default=5, help="in which the services take turns (5)")
    parser.add_argument("--dry", action="store_true", help="print only, leave bench/README.md alone")
    options = parser.parse_args()
    model, wrk, table = model_directory(options.model), find_wrk(), load_table()
    service = servers()[0]
    rows = varied(as_matrix(pd.read_csv(raw_data(table)), table.feature_names), ROWS)
    bodies = "".join(json.dumps(service.one_body(row)) + "\n" for row in rows[:, None])
    cores = os.sched_getaffinity(0)
    loads: defaultdict[int, list[Load]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as stack:
        running = {}
        for count in PROCESSES:
            one = replace(service, name=f"{count} processes", command=partial(command, count))
            running[count] = stack.enter_context(started(one, model, Path(directory) / str(count), cores))
            (running[count].scratch / "bodies").write_text(bodies)
            wrk_run(wrk, running[count], CONNECTIONS, WARM_UP_SECONDS)
        for _ in range(options.rounds):
            for count in PROCESSES:
                loads[count].append(wrk_run(wrk, running[count], CONNECTIONS, options.seconds))
                sys.stdout.write(f"{count} processes: {loads[count][-1].rate:,.0f}/s\n")
        memory = {count: memory_of(running[count].process) for count in PROCESSES}
    medians = {count: sorted(loads[count], key=attrgetter("rate"))[options.rounds // 2] for count in PROCESSES}
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {len(cores)} cores for the service and wrk together, Python "
        f"{platform.python_version()}, load average {os.getloadavg()[1]:.1f}. Single rows, {CONNECTIONS} "
        "connections. Latencies in milliseconds; processor time of all processes for a request in microseconds; "
        "their memory (PSS) in MiB.",
        "",
        *as_table(
            ["processes", "requests/s", "by one process", "p50", "p99", "processor", "memory"],
            [
                [
                    *(count, f"{load.rate:,.0f}", f"{load.rate / medians[1].rate:.2f}"),
                    *(f"{load.p50:.2f}", f"{load.p99:.2f}", f"{load.processor:,.0f}", f"{memory[count]:.0f}"),
                ]
                for count, load in medians.items()
            ],
        ),
    ]
    text = "\n".join(lines)
    sys.stdout.write(f"\n{text}\n")
    if not options.dry:
        write(text, BEGIN, END)


def command(count: int, _port: int) -> list[str]:
    """Return the command that starts so many processes of the service; their port is in the environment."""
    return ["env", f"API_PROCESSES={count}", sys.executable, "-m", "app.main"]


if __name__ == "__main__":
    main()
