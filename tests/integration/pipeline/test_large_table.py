"""A table that no process holds: preprocessed in batches, trained on a real Dask cluster, scored on all rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from skops import io as skops_io

from bench.large_table import FILE_ROWS, PARAMS, write_table
from tableloop.evaluation.scores import scores
from tableloop.model.conformal import ConformalRegressor
from tableloop.model.onnx_export import compile_model
from tableloop.model.onnx_scorer import Scorer
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import load_table
from tests.dask_cluster import DaskCluster
from tests.waiting import free_port, wait_for

ROWS, MEMORY_ROWS = 100_000, 4_000  # two batches, so that both workers train


@pytest.fixture
def dask_cluster(tmp_path: Path) -> Iterator[DaskCluster]:
    """Return a scheduler with two workers."""
    made = DaskCluster(tmp_path, free_port())
    made.start_scheduler()
    for _ in range(2):
        made.start_worker()
    wait_for("two workers", lambda: made.log.count("Registered to:") == 2, 120)
    yield made
    made.stop()


def few_rounds(rounds: int) -> dict[str, Any]:
    """Return the bench's parameters with so many trees, and little memory."""
    candidates = {
        "hist_gradient_boosting": {"max_iter": rounds},
        "lightgbm": {"num_iterations": rounds},
    }
    return {**PARAMS, "train": {**PARAMS["train"], "memory_rows": MEMORY_ROWS, "candidates": candidates}}


def start(stage: str, project: Path, scheduler: str = "") -> subprocess.Popen[bytes]:
    environment = {"OMP_NUM_THREADS": "1", "TABLE": str(project / "data"), "DASK_SCHEDULER": scheduler}
    with (project / f"{stage}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"pipeline.{stage}"], cwd=project, env=os.environ | environment, stderr=log
        )


def run(stage: str, project: Path, scheduler: str = "") -> str:
    process = start(stage, project, scheduler)
    code, log = process.wait(300), (project / f"{stage}.log").read_text()
    assert code == 0, log
    return log


def model_of(project: Path, name: str) -> ConformalRegressor:
    model: ConformalRegressor = skops_io.load(project / f"models/{name}.skops", trusted=list(TRUSTED_TYPES))
    return model


def test_lightgbm_trains_on_all_rows_the_others_on_a_sample_and_all_are_scored_on_all(
    dask_cluster: DaskCluster, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    write_table(project, ROWS, few_rounds(60))
    run("preprocess", project)
    run("train", project, dask_cluster.address)
    table = load_table(project / "data")
    parts = {name: pd.read_parquet(project / f"data/processed/{name}.parquet") for name in ("validation", "test")}
    rows = {name: part["rows"] for name, part in json.loads((project / "reports/data.json").read_text()).items()
            if name != "feedback"}  # fmt: skip
    fitted = {
        name: timing["fitted_rows"]
        for name, timing in json.loads((project / "reports/timings.json").read_text()).items()
    }
    assert fitted["hist_gradient_boosting"] == MEMORY_ROWS
    assert rows["train"] + 0.8 * rows["validation"] <= fitted["lightgbm"] < rows["train"] + rows["validation"]
    metrics = json.loads((project / "reports/metrics.json").read_text())
    models = {name: model_of(project, name) for name in metrics}
    loser = scores(models["hist_gradient_boosting"], parts["validation"], parts["test"], table.target_name)
    assert loser == pytest.approx(metrics["hist_gradient_boosting"], abs=2e-6)
    winner = scores(models["lightgbm"], parts["validation"], parts["test"], table.target_name)
    for name in ("test_rmse", "test_r2", "test_mae", "test_interval_coverage", "test_interval_width"):
        assert winner[name] == pytest.approx(metrics["lightgbm"][name], abs=2e-6)
    assert metrics["lightgbm"]["test_rmse"] < metrics["hist_gradient_boosting"]["test_rmse"]
    assert metrics["lightgbm"]["test_interval_coverage"] == pytest.approx(0.9, abs=0.02)
    asked = models["lightgbm"]._coded(parts["test"].head(500))
    scorer = Scorer(*compile_model(models["lightgbm"], asked[:5]))
    expected = np.stack(models["lightgbm"].predict_interval(asked), axis=1)
    assert scorer.difference(asked, expected) < 1e-6


def test_a_worker_that_is_killed_while_trees_grow_is_survived(dask_cluster: DaskCluster, tmp_path: Path) -> None:
    project = tmp_path / "project"
    write_table(project, ROWS, few_rounds(400))
    run("preprocess", project)
    training = start("train", project, dask_cluster.address)
    log, deadline = project / "train.log", time.monotonic() + 200
    while "LightGBM trains on" not in log.read_text():
        assert training.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    os.kill(dask_cluster.worker_processes()[0].pid, signal.SIGKILL)
    assert training.wait(300) == 0, log.read_text()
    assert "attempt 1 of 3" in log.read_text()
    assert (project / "models/lightgbm.skops").exists()


def test_without_a_cluster_all_are_fitted_on_the_sample(tmp_path: Path) -> None:
    write_table(tmp_path / "project", ROWS, few_rounds(5))
    run("preprocess", tmp_path / "project")
    run("train", tmp_path / "project")
    timings = json.loads((tmp_path / "project/reports/timings.json").read_text())
    assert min(timing["fitted_rows"] for timing in timings.values()) == MEMORY_ROWS
    assert ROWS < FILE_ROWS
