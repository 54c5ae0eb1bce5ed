"""What a version in the shadow costs those who ask: ``python -m bench.shadow``, some four minutes.

Two services with their drift monitors take turns, round after round: one has a version in the shadow, which scores
what was asked at each look of the monitor, the other has none. The service has one core, the load (wrk) another, the
monitors have both. The model is the version that serves in STATE_DIR, in the shadow too. The table is written to
bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Final

import pandas as pd
import psutil  # type: ignore[import-untyped]

from bench.scorer import varied
from bench.serving import (
    ROOT,
    ROWS,
    WARM_UP_SECONDS,
    Load,
    Running,
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
from tableloop.settings import load_settings
from tableloop.signing import SigningKey
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.table import load_table

BEGIN, END = "<!-- bench/shadow.py writes from here -->", "<!-- to here, with a shadow -->"
CONNECTIONS: Final = (1, 16, 64)
WITH, WITHOUT = "with a shadow", "without"
LEAST: Final = 0.95  # of the requests/s without


def main() -> None:
    """Measure, print the table and write it to bench/README.md."""
    parser = argparse.ArgumentParser(prog="python -m bench.shadow")
    parser.add_argument("--model", type=Path, help="directory of an MLflow model with its scorer")
    parser.add_argument("--seconds", type=int, default=20, help="of each run of wrk (20: at least one look)")
    parser.add_argument("--rounds", type=int, default=2, help="in which the services take turns (2)")
    parser.add_argument("--dry", action="store_true", help="print only, leave bench/README.md alone")
    options = parser.parse_args()
    model, wrk, table = model_directory(options.model), find_wrk(), load_table()
    service = servers()[0]
    rows = varied(as_matrix(pd.read_csv(raw_data(table)), table.feature_names), ROWS)
    bodies = "".join(json.dumps(service.one_body(row)) + "\n" for row in rows[:, None])
    cores = sorted(os.sched_getaffinity(0))
    loads: defaultdict[tuple[str, int], list[Load]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, ExitStack() as stack:
        running: dict[str, Running] = {}
        monitors: dict[str, list[float]] = {}
        for name in (WITHOUT, WITH):
            scratch = Path(directory) / name.replace(" ", "-")
            one = stack.enter_context(started(replace(service, name=name), model, scratch, {cores[0]}))
            (scratch / "bodies").write_text(bodies)
            if name == WITH:
                _put_in_shadow(Layout(scratch / "state"), model)
            monitors[name] = stack.enter_context(_monitor(scratch))
            running[name] = one
        os.sched_setaffinity(0, {cores[-1]})
        for one in running.values():
            wrk_run(wrk, one, 16, WARM_UP_SECONDS)
        for count in CONNECTIONS:
            for _ in range(options.rounds):
                for name, one in running.items():
                    loads[name, count].append(wrk_run(wrk, one, count, options.seconds))
                    load = loads[name, count][-1]
                    sys.stdout.write(f"{name}: {load.rate:,.0f}/s, p99 {load.p99:.2f} ms at {count}\n")
        memory = {name: memory_of(one.process) for name, one in running.items()}
        store = Store(Layout(running[WITH].scratch / "state").database)
        shadow = shadows.current(store, load_settings().model_name)
        scored = 0 if shadow is None else shadow.scored
    best = {case: sorted(found, key=attrgetter("rate"))[len(found) // 2] for case, found in loads.items()}
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {len(cores)} cores, load average {os.getloadavg()[1]:.1f}. "
        f"Single rows; latencies in milliseconds. {scored:,} rows were scored by the shadow.",
        "",
        *as_table(
            ["connections", "requests/s without", "with a shadow", "of it", "p99 without", "p99 with"],
            [
                [
                    *(count, f"{best[WITHOUT, count].rate:,.0f}", f"{best[WITH, count].rate:,.0f}"),
                    f"{best[WITH, count].rate / best[WITHOUT, count].rate:.3f}",
                    *(f"{best[WITHOUT, count].p99:.2f}", f"{best[WITH, count].p99:.2f}"),
                ]
                for count in CONNECTIONS
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


def _put_in_shadow(layout: Layout, model: Path) -> None:
    """Have the store say that a version is in the shadow, and its files lie where the monitor looks for them."""
    store = Store(layout.database)
    shadow = shadows.begin(store, load_settings().model_name, "2", "bench-shadow")
    store.record_serving(load_settings().model_name, "1", "bench", "serves")
    files = layout.shadow / f"v{shadow.version}-{shadow.run_id}"
    shutil.copytree(model, files)
    SigningKey.load(load_settings().model_copy(update={"state_dir": layout.root})).sign(files, shadow.run_id)


@contextmanager
def _monitor(scratch: Path) -> Iterator[list[float]]:
    """Run the drift monitor of a service; yield samples of the MiB of memory of it and of what it starts."""
    settings = {
        "STATE_DIR": scratch / "state",
        "DRIFT_INTERVAL_SECONDS": 15,
        "RETRAIN_ON_DRIFT": "off",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # what the store says of the shadow holds
        "PYTHONPATH": ROOT,
        "OMP_NUM_THREADS": 1,
    }
    Layout(scratch / "state").run.mkdir(parents=True, exist_ok=True)
    with (scratch / "monitor.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "monitoring.drift_monitor"],
            cwd=scratch,
            env=os.environ | {name: str(value) for name, value in settings.items()},
            stdout=log,
            stderr=log,
        )
    samples, over = [0.0], Event()

    def sample() -> None:
        while not over.wait(0.2):
            with suppress(psutil.Error):
                samples.append(memory_of(psutil.Process(process.pid)))

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        process.terminate()
        process.wait(20)


if __name__ == "__main__":
    main()
