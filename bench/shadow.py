"""What a version in the shadow costs those who ask: ``python -m bench.shadow``, a quarter of an hour.

Two services take turns, round after round, each with a drift monitor while it is asked: one has a version in the
shadow, which scores what was asked at each look of the monitor, the other has none. The service has one core, the
load (wrk) another, the monitor has both, and looks twice in a run. The ratios are of runs that follow each other. The
model is the version that serves in STATE_DIR, in the shadow too. The table is written to bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Final

import psutil  # type: ignore[import-untyped]

from bench.serving import (
    ROOT,
    WARM_UP_SECONDS,
    Load,
    Running,
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
from tableloop.settings import load_settings
from tableloop.signing import SigningKey
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.layout import Layout

BEGIN, END = "<!-- bench/shadow.py writes from here -->", "<!-- to here, with a shadow -->"
CONNECTIONS: Final = (1, 16, 64)
LOOK_SECONDS: Final = 15  # of the drift monitor, its default
WITH, WITHOUT = "with a shadow", "without"
LEAST: Final = 0.95  # of the requests/s without


def main() -> None:
    """Measure, print the table and write it to bench/README.md."""
    parser = argparse.ArgumentParser(prog="python -m bench.shadow")
    parser.add_argument("--model", type=Path, help="directory of an MLflow model with its scorer")
    parser.add_argument("--seconds", type=int, default=2 * LOOK_SECONDS, help="of each run of wrk (30: two looks)")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS, help="at once (1 16 64)")
    parser.add_argument("--rounds", type=int, default=5, help="in which the services take turns (5)")
    parser.add_argument("--dry", action="store_true", help="print only, leave bench/README.md alone")
    options = parser.parse_args()
    model, wrk, service = model_directory(options.model), find_wrk(), servers()[0]
    bodies = single_rows(service)
    cores = sorted(os.sched_getaffinity(0))
    loads: defaultdict[tuple[str, int], list[Load]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as stack:
        running: dict[str, Running] = {}
        monitors: dict[str, list[float]] = {WITHOUT: [], WITH: []}
        for name in (WITHOUT, WITH):
            scratch = Path(directory) / name.replace(" ", "-")
            one = stack.enter_context(started(replace(service, name=name), model, scratch, {cores[0]}))
            (scratch / "bodies").write_text(bodies)
            if name == WITH:
                _put_in_shadow(Layout(scratch / "state"), model)
            running[name] = one
        os.sched_setaffinity(0, {cores[-1]})
        for one in running.values():
            wrk_run(wrk, one, 16, WARM_UP_SECONDS)
        for count in options.connections:
            for number in range(options.rounds):
                for name in (WITHOUT, WITH)[:: (1, -1)[number % 2]]:
                    with _monitor(running[name].scratch, cores, monitors[name]):
                        loads[name, count].append(wrk_run(wrk, running[name], count, options.seconds))
                    load = loads[name, count][-1]
                    sys.stdout.write(f"{name}: {load.rate:,.0f}/s, p99 {load.p99:.2f} ms at {count}\n")
        memory = {name: memory_of(one.process) for name, one in running.items()}
        store = Store(Layout(running[WITH].scratch / "state").database)
        shadow = shadows.current(store, load_settings().model_name)
        scored = 0 if shadow is None else shadow.scored
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {len(cores)} cores, load average {os.getloadavg()[1]:.1f}. "
        f"Single rows; latencies in milliseconds. {scored:,} rows were scored by the shadow.",
        "",
        *as_table(
            ["connections", "requests/s without", "with a shadow", "of it", "p99 without", "with a shadow", "of it"],
            [
                [
                    count,
                    *_compared([load.rate for load in without], [load.rate for load in with_one], ",.0f"),
                    *_compared([load.p99 for load in without], [load.p99 for load in with_one], ".2f"),
                ]
                for count in options.connections
                for without, with_one in [(loads[WITHOUT, count], loads[WITH, count])]
            ],
        ),
        "",
        f"Memory (PSS) of the service in MiB: {memory[WITHOUT]:.0f} without, {memory[WITH]:.0f} with a shadow. Of "
        "the drift monitor with what it starts: "
        f"median {median(monitors[WITHOUT]):.0f} and {median(monitors[WITH]):.0f}, "
        f"at most {max(monitors[WITHOUT]):.0f} and {max(monitors[WITH]):.0f} for a moment. Wanted: at least "
        f"{LEAST} of the requests/s.",
    ]
    text = "\n".join(lines)
    sys.stdout.write(f"\n{text}\n")
    if not options.dry:
        write(text, BEGIN, END)


def _compared(without: Sequence[float], with_one: Sequence[float], form: str) -> list[str]:
    """Return both medians, and the median of the ratios of runs that followed each other with the least and most."""
    ratios = [other / one for one, other in zip(without, with_one, strict=True)]
    spread = f"{median(ratios):.3f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [format(median(without), form), format(median(with_one), form), spread]


def _put_in_shadow(layout: Layout, model: Path) -> None:
    """Have the store say that a version is in the shadow, and its files lie where the monitor looks for them."""
    store = Store(layout.database)
    shadow = shadows.begin(store, load_settings().model_name, "2", "bench-shadow")
    store.record_serving(load_settings().model_name, "1", "bench", "serves")
    files = layout.shadow / f"v{shadow.version}-{shadow.run_id}"
    shutil.copytree(model, files)
    SigningKey.load(load_settings().model_copy(update={"state_dir": layout.root})).sign(files, shadow.run_id)


@contextmanager
def _monitor(scratch: Path, cores: list[int], samples: list[float]) -> Iterator[None]:
    """Run the drift monitor of a service on cores; add samples of the MiB of memory of it and of what it starts."""
    settings = {
        "STATE_DIR": scratch / "state",
        "DRIFT_INTERVAL_SECONDS": LOOK_SECONDS,
        "RETRAIN_ON_DRIFT": "off",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # what the store says of the shadow holds
        "PYTHONPATH": ROOT,
        "OMP_NUM_THREADS": 1,
    }
    Layout(scratch / "state").run.mkdir(parents=True, exist_ok=True)
    with (scratch / "monitor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "monitoring.drift_monitor"],
            cwd=scratch,
            env=os.environ | {name: str(value) for name, value in settings.items()},
            stdout=log,
            stderr=log,
        )
    psutil.Process(process.pid).cpu_affinity(cores)
    over = Event()

    def sample() -> None:
        while not over.wait(0.2):
            with suppress(psutil.Error):
                samples.append(memory_of(psutil.Process(process.pid)))

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main()
