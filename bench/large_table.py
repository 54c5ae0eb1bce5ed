"""Preprocess and train a table that no process holds: ``python -m bench.large_table [--rows N] [--keep DIRECTORY]``.

A made table of nine columns, a directory of Parquet files, goes through both stages with a Dask scheduler and two
workers of 1.5 GB, each with one thread. `lightgbm` trains on all rows, `hist_gradient_boosting` on a sample. All
of it is in a temporary folder. It prints the time of each part, the most memory of each process, and the errors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]
import yaml

ROWS = 10_000_000
FILE_ROWS = 500_000
WORKERS = 2
MEMORY = "1.5GB"
LEVELS = 100
NOISE = 0.5
PARAMS: dict[str, Any] = {
    "preprocess": {"test_fraction": 0.2, "validation_fraction": 0.2, "gate_fraction": 0.3, "gate_rows": 60},
    "train": {
        "seed": 42,
        "coverage": 0.9,
        "importance_rows": 1000,
        "importance_repeats": 1,
        "memory_rows": 500_000,
        "candidates": {
            "hist_gradient_boosting": {"max_iter": 200, "learning_rate": 0.1, "max_leaf_nodes": 63},
            "lightgbm": {"num_iterations": 200, "learning_rate": 0.1, "num_leaves": 63},
        },
    },
}


@dataclass(frozen=True)
class Stage:
    """How long a stage took, and the most memory that one of its processes had, in bytes."""

    seconds: float
    memory: int


def made(rows: int, seed: int) -> pd.DataFrame:
    """Return rows whose value depends on seven numbers and a category of `LEVELS` levels, and some noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(7, rows))
    shop = np.minimum(random.exponential(LEVELS / 4, rows), LEVELS - 1).astype(int)
    of_shop = np.random.default_rng(0).normal(size=LEVELS)
    value = 3 * x[0] + 2 * x[1] * (x[2] > 0) + np.sin(3 * x[3]) + np.abs(x[4]) + x[5] * (x[6] > 0) + of_shop[shop]
    names = np.array([f"shop {number}" for number in range(LEVELS)], dtype=object)
    columns: dict[str, Any] = {f"x{number}": values for number, values in enumerate(x, 1)}
    return pd.DataFrame({**columns, "shop": names[shop], "value": value + random.normal(0, NOISE, rows)})


def write_table(project: Path, rows: int, params: dict[str, Any] = PARAMS) -> None:
    """Write the table, its description and the parameters."""
    numbers = [
        {"name": f"x{number}", "example": 0, "constraints": {"minimum": -100, "maximum": 100}}
        for number in range(1, 8)
    ]
    levels = [f"shop {number}" for number in range(LEVELS)]
    described = {
        "name": "made-large",
        "path": "raw/made",
        "target": "value",
        "fields": [
            *numbers,
            {"name": "shop", "type": "string", "example": "shop 0", "categories": levels},
            {"name": "value", "example": 0, "constraints": {"minimum": -1000, "maximum": 1000}},
        ],
    }
    raw = project / "data/raw/made"
    raw.mkdir(parents=True)
    (project / "data/feedback").mkdir()
    (project / "data/table.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for number, first in enumerate(range(0, rows, FILE_ROWS)):
        made(min(FILE_ROWS, rows - first), number + 1).to_parquet(raw / f"part-{number:04d}.parquet", index=False)


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield the address of a scheduler with its workers, and the logs of the workers; all are ended after."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    own = subprocess.run(
        [sys.executable, "-m", "pipeline.code_identity"], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
    quiet = ["--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), *quiet]
    worker = [
        "distributed.cli.dask_worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--memory-limit", MEMORY,
        "--resources", own, "--local-directory", str(directory), *quiet,
    ]  # fmt: skip
    logs = [directory / f"{name}.log" for name in ("scheduler", *(f"worker{n}" for n in range(WORKERS)))]
    with contextlib.ExitStack() as stack:
        for log, command in zip(logs, [scheduler, *[worker] * WORKERS], strict=True):
            output: IO[bytes] = stack.enter_context(log.open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", *command], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield address, logs[1:]


def run_stage(name: str, project: Path, scheduler: str) -> Stage:
    """Run a stage of the pipeline in a directory, and measure it."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"pipeline.{name}"],
        cwd=project,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TABLE": str(project / "data"), "DASK_SCHEDULER": scheduler},
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"stage {name} failed")
    return Stage(time.perf_counter() - started, used.ru_maxrss * 1024)


def peak_memory(process: psutil.Process) -> int:
    """Return the most memory that a running process has had, in bytes; Linux keeps it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def worker_processes() -> list[psutil.Process]:
    """Return the processes in which the workers of this bench compute, children of the nannies."""
    return [
        child
        for nanny in psutil.Process().children()
        if "distributed.cli.dask_worker" in nanny.cmdline()
        for child in nanny.children()
        if "spawn_main" in " ".join(child.cmdline())
    ]


def main() -> None:
    """Make the table, run the stages, print the figures; exit with 1 when a worker was killed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=ROWS)
    arguments.add_argument("--keep", type=Path, help="a directory for the table and the results, which stay")
    given = arguments.parse_args()
    project = given.keep or Path(tempfile.mkdtemp(prefix="large-table-"))
    try:
        started = time.perf_counter()
        write_table(project, given.rows)
        _say(f"{given.rows:,} rows of 9 columns made in {time.perf_counter() - started:.0f} s")
        with cluster(project) as (scheduler, logs):
            preprocess = run_stage("preprocess", project, scheduler)
            workers = worker_processes()
            train = run_stage("train", project, scheduler)
            memory = [peak_memory(worker) for worker in workers if worker.is_running()]
            killed = len(memory) < WORKERS or any("budget" in log.read_text() for log in logs)
        metrics = json.loads((project / "reports/metrics.json").read_text())
        timings = json.loads((project / "reports/timings.json").read_text())
    finally:
        if given.keep is None:
            shutil.rmtree(project)
    for name, stage in (("preprocess", preprocess), ("train", train)):
        _say(f"{name:<24}{stage.seconds:8.0f} s  {stage.memory / 1e6:8.0f} MB at most")
    for number, used in enumerate(memory, 1):
        _say(f"worker {number:<17}{'':>10}  {used / 1e6:8.0f} MB at most, of {MEMORY}")
    for name, scores in metrics.items():
        _say(
            f"{name:<24}{timings[name]['train_seconds']:8.0f} s  {timings[name]['fitted_rows']:,} rows, test RMSE "
            f"{scores['test_rmse']:.4f} (noise {NOISE}), {scores['test_interval_coverage']:.1%} in 90 % intervals"
        )
    _say("a worker was killed for memory" if killed else "no worker was killed")
    sys.exit(killed)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
