"""How much faster two workers score files than one: ``python -m bench.scoring``, some six minutes and 1.5 GB of disk.

The shipped spatial model scores rows like California's, in Parquet files of a temporary directory, on a Dask cluster
of this machine: by one worker, then by two, each a process with one thread. The time is that from the first order to
the last output, with loading the model. One row is unlike the next, as in `bench.scorer`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import pandas as pd
import yaml
from distributed import LocalCluster

from bench.scorer import varied
from pipeline.code_identity import identity
from pipeline.file_places import Directory
from pipeline.fitting import fit_candidate
from pipeline.scored_version import ScoredVersion, read_version
from pipeline.scoring import Order
from pipeline.scoring_workers import carry_out_all
from pipeline.stage_runner import load_params
from scenarios.market import split_rows
from tableloop.model import manifest
from tableloop.model.conformal import as_matrix
from tableloop.model.onnx_export import write_scorer
from tableloop.settings import RegistrySettings
from tableloop.signing import SigningKey, key_file
from tableloop.table import load_table
from tableloop.version_files import SCORER

FILES: Final = 20
WORKERS: Final = (1, 2)


def main() -> None:
    """Print rows/s of one worker and of two, and the ratio."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring")
    parser.add_argument("--rows", type=int, default=10_000_000, help="in all files together (10 million)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        folder = Path(directory)
        version, archive = _new_version(folder)
        _write_rows(folder / "in", options.rows)
        speeds = {count: options.rows / _seconds(count, folder, version, archive) for count in WORKERS}
    sys.stdout.write(f"{options.rows:,} rows in {FILES} files, load average {os.getloadavg()[0]:.1f}\n")
    for count, speed in speeds.items():
        sys.stdout.write(f"{count} worker{'s'[: count - 1]} {speed:10,.0f} rows/s {speed / speeds[1]:6.2f}\n")


def _new_version(folder: Path) -> tuple[ScoredVersion, bytes]:
    """Return as much of a version as scoring looks at: the compiled scorer of the model that wins on California."""
    table = load_table()
    parts = split_rows(table)
    model = fit_candidate("spatial", load_params()["train"], table, parts)
    directory = folder / "version"
    write_scorer(model, as_matrix(parts["train"], table.feature_names)[:5], directory / SCORER)
    inputs = json.dumps([{"name": name} for name in table.feature_names])
    (directory / "MLmodel").write_text(yaml.safe_dump({"signature": {"inputs": inputs}}))
    manifest.write(directory, {})
    settings = RegistrySettings(state_dir=folder / "state")
    SigningKey.new().keep(key_file(settings))
    SigningKey.load(settings).sign(directory, "")
    return read_version(directory, "1", "", settings)


def _write_rows(folder: Path, rows: int) -> None:
    table = load_table()
    known = as_matrix(split_rows(table)["test"], table.feature_names)
    folder.mkdir()
    frame = pd.DataFrame(varied(known, rows // FILES), columns=list(table.feature_names))
    for number in range(FILES):
        frame.assign(row=range(number * len(frame), (number + 1) * len(frame))).to_parquet(
            folder / f"part-{number:02d}.parquet", index=False
        )


def _seconds(count: int, folder: Path, version: ScoredVersion, archive: bytes) -> float:
    source = Directory(folder / "in")
    with (
        LocalCluster(
            n_workers=count, threads_per_worker=1, dashboard_address=None, resources=dict.fromkeys(identity(), 1)
        ) as cluster,
        Directory(folder / f"out-{count}").claimed() as target,
    ):
        orders = [Order(source, name, target, name, version, load_table(), "bench") for name in source.names()]
        start = time.perf_counter()
        for _, outcome in carry_out_all(orders, archive, cluster.scheduler_address):
            if outcome.state != "scored":
                sys.exit(outcome.reason)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
