"""How long a drift check takes on a long log: ``python -m bench.drift_check``, a few minutes for ten million rows.

A store is filled with predictions of the last 90 days, one in a hundred of them labelled, in a SQLite file and in the
PostgreSQL that comes with the development tools. Both lie in a temporary directory, some 2.5 GB each for ten million
rows. Then the check of the drift monitor runs: by itself, and as the process that it is, with its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd

from monitoring.drift_check import check, load_policy
from pipeline.stage_runner import raw_data
from tableloop.drift.reference import REFERENCE_FILE
from tableloop.drift.statistics import Matrix, make_reference
from tableloop.model.conformal import as_matrix
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.postgres_rows import WEEK, PostgresWriter
from tableloop.state.prediction_rows import Row, Sent, row
from tableloop.table import load_table
from tests.postgres import Postgres, installed
from tests.waiting import free_port

PREDICTIONS = 10_000_000
DAYS = 90
LABELLED = 100  # one prediction in so many
WAITING = 1_000  # labels that are in no batch yet
AT_ONCE = 50_000
CHECKS = 5
SEED = 7


def fill(store: Store, rows: Matrix, count: int) -> float:
    """Write so many predictions and their labels, and return the seconds."""
    began = time.monotonic()
    table = load_table()
    with closing(store.writer()) as writer:
        if isinstance(writer, PostgresWriter):
            for week in range(int((time.time() - DAYS * 86_400) // WEEK), int(time.time() // WEEK) + 1):
                writer.make_partition(float(week * WEEK))
        for part in _predictions(rows, count):
            writer.insert(part)
            labels = [Sent(made[0], float(made[-3]), sure=True) for made in part[::LABELLED]]
            writer.insert_labels(labels, "bench", table)
            if int(part[-1][0], 16) < count - WAITING * LABELLED:  # the newest wait for a retraining
                store.mark_labels({label.prediction_id: "20260101T000000Z-0001.parquet" for label in labels})
    return time.monotonic() - began


def _predictions(rows: Matrix, count: int) -> Iterator[list[Row]]:
    random = np.random.default_rng(SEED)
    first, step = time.time() - DAYS * 86_400, DAYS * 86_400 / count
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        chosen = rows[random.integers(0, len(rows), len(numbers))]
        yield [
            row(f"{n:032x}", "request", first + n * step, "1", features, 0.4 * features[0], 0.0, 9.0)
            for n, features in zip(numbers, chosen.tolist(), strict=True)
        ]


def measure(store: Store, state: Path, environment: dict[str, str]) -> str:
    """Return a line with the seconds of a first check, of later ones, and of a whole process."""
    seconds = []
    for _ in range(CHECKS):
        began = time.perf_counter()
        report = check(store, Layout(state), load_policy())
        seconds.append(time.perf_counter() - began)
        assert report["status"] != "not enough data", report["summary"]
    began = time.perf_counter()
    command = [sys.executable, "-m", "monitoring.drift_check", "--json"]
    subprocess.run(command, env=os.environ | environment, stdout=subprocess.DEVNULL, check=False)
    process = time.perf_counter() - began
    return f"first {seconds[0]:.2f} s, median {statistics.median(seconds):.2f} s, as a process {process:.2f} s"


def main() -> None:
    """Fill both stores and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.drift_check")
    parser.add_argument("--predictions", type=int, default=PREDICTIONS, help=f"in the log ({PREDICTIONS:,})")
    count = parser.parse_args().predictions
    table = load_table()
    rows = as_matrix(pd.read_csv(raw_data(table)), table.feature_names)
    with tempfile.TemporaryDirectory(prefix="drift-", dir="/tmp") as directory:
        state = Path(directory) / "state"
        version = state / "champion" / "v1"
        version.mkdir(parents=True)
        make_reference(rows, 0.4 * rows[:, 0], 0.8, columns=table.feature_names).save(version / REFERENCE_FILE)
        Layout(state).champion_pointer.write_text(json.dumps({"version": "1", "directory": version.name}))
        programs = installed(Path(directory))
        (Path(directory) / "postgres").mkdir()
        server = Postgres(programs, Path(directory) / "postgres", free_port(), "-c", "fsync=off")
        server.start()
        try:
            for name, url in (("SQLite", ""), ("PostgreSQL", server.new_database())):
                environment = {"STATE_DIR": str(state), "DATABASE_URL": url}
                store = Store(url or Layout(state).database)
                filled = fill(store, rows, count)
                line = measure(store, state, environment)
                sys.stdout.write(f"{name}, {count:,} predictions (written in {filled:.0f} s): {line}\n")
                sys.stdout.flush()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
