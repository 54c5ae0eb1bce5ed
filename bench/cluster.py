"""One, two and four processes of the service on SQLite and on PostgreSQL: ``python -m bench.cluster``, three minutes.

All six take turns, round after round, each with 64 connections; they, PostgreSQL and the load generator (wrk) share
all cores. PostgreSQL is the one of the tests, or that at DATABASE_URL. The model is the version that serves in
STATE_DIR. The table is written to bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Final

from bench.serving import (
    WARM_UP_SECONDS,
    Load,
    as_table,
    find_wrk,
    memory_of,
    model_directory,
    processor,
    servers,
    single_rows,
    started,
    write,
    wrk_run,
)
from tests.postgres import Postgres, installed
from tests.waiting import free_port

BEGIN, END = "<!-- bench/cluster.py writes from here -->", "<!-- to here, as the others -->"
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
PROCESSES: Final = (1, 2, 4)
CONNECTIONS: Final = 64
LEAST_OF_TWO: Final = 1.5  # requests/s of two processes by those of one, where wrk has cores to itself
LEAST_OF_POSTGRESQL: Final = 0.6  # requests/s by SQLite's, for each number of processes

Case = tuple[str, int]


def main() -> None:
    """Measure, print the table and write it to bench/README.md."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster")
    parser.add_argument("--model", type=Path, help="directory of an MLflow model with its scorer")
    parser.add_argument("--seconds", type=int, default=5, help="of each run of wrk (5)")
    parser.add_argument("--rounds", type=int, default=5, help="in which the services take turns (5)")
    parser.add_argument("--dry", action="store_true", help="print only, leave bench/README.md alone")
    options = parser.parse_args()
    rates, memory = _measure(options)
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {cores} cores for the service, PostgreSQL and wrk together, "
        f"load average {os.getloadavg()[1]:.1f}. Single rows, {CONNECTIONS} connections. Latencies in milliseconds; "
        "memory (PSS) of all processes of the service in MiB.",
        "",
        *as_table(
            ["store", "processes", "requests/s", "by one process", "by SQLite", "p99", "memory"],
            [
                [
                    *(store, count, f"{load.rate:,.0f}", f"{load.rate / rates[store, 1].rate:.2f}"),
                    *(
                        f"{load.rate / rates[SQLITE, count].rate:.2f}",
                        f"{load.p99:.2f}",
                        f"{memory[store, count]:.0f}",
                    ),
                ]
                for (store, count), load in rates.items()
            ],
        ),
        "",
        f"Wanted: two processes at least {LEAST_OF_TWO} of one where wrk does not take their cores; PostgreSQL at "
        f"least {LEAST_OF_POSTGRESQL} of SQLite.",
    ]
    text = "\n".join(lines)
    sys.stdout.write(f"\n{text}\n")
    if not options.dry:
        write(text, BEGIN, END)


def _measure(options: argparse.Namespace) -> tuple[dict[Case, Load], dict[Case, float]]:
    """Return the median round of each store and number of processes, and the MiB of memory of its processes."""
    model, wrk, service = model_directory(options.model), find_wrk(), servers()[0]
    bodies = single_rows(service)
    cores = os.sched_getaffinity(0)
    cases: list[Case] = [(store, count) for count in PROCESSES for store in (SQLITE, POSTGRESQL)]
    loads: defaultdict[Case, list[Load]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as stack:
        new_database = stack.enter_context(_postgres())
        running = {}
        for number, (store, count) in enumerate(cases):
            one = replace(
                service,
                name=f"{store}, {count} processes",
                command=partial(_command, count),
                database_url=new_database() if store == POSTGRESQL else "",
            )
            started_one = stack.enter_context(started(one, model, Path(directory) / str(number), cores))
            (started_one.scratch / "bodies").write_text(bodies)
            wrk_run(wrk, started_one, CONNECTIONS, WARM_UP_SECONDS)
            running[store, count] = started_one
        for _ in range(options.rounds):
            for case in cases:
                loads[case].append(wrk_run(wrk, running[case], CONNECTIONS, options.seconds))
                sys.stdout.write(f"{running[case].server.name}: {loads[case][-1].rate:,.0f}/s\n")
        memory = {case: memory_of(running[case].process) for case in cases}
    return {case: sorted(loads[case], key=attrgetter("rate"))[options.rounds // 2] for case in cases}, memory


def _command(count: int, _port: int) -> list[str]:
    """Return the command that starts so many processes of the service; their port is in the environment."""
    return ["env", f"API_PROCESSES={count}", sys.executable, "-m", "app.main"]


@contextmanager
def _postgres() -> Iterator[Callable[[], str]]:
    """Give a function that returns the address of a database, an empty one where the server is ours."""
    if url := os.environ.get("DATABASE_URL"):
        yield lambda: url
        return
    with tempfile.TemporaryDirectory(prefix="bench-pg-") as directory:
        own = Path(directory) / "server"
        programs = installed(Path(directory))
        own.mkdir()
        server = Postgres(programs, own, free_port())
        server.start()
        try:
            yield server.new_database
        finally:
            server.stop()


if __name__ == "__main__":
    main()
