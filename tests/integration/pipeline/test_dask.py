"""Trainings on a real Dask cluster: the same digits as on one machine, and what is survived."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest
import yaml

import pipeline.workers
from pipeline.fitting import refit_winner
from pipeline.preprocess import split
from pipeline.stage_runner import StageError, raw_data
from pipeline.train import fit_all
from pipeline.workers import run_on, shared, workers
from tableloop.table import load_table
from tests.dask_cluster import DaskCluster, die, hold
from tests.integration.conftest import ROOT
from tests.integration.pipeline.conftest import Project, write_project
from tests.waiting import wait_for

TABLE = load_table()
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]
BOOSTING = {"max_iter": 10, "features": {}}
# One client, which is then killed: nobody waits for its task any more.
CLIENT = """
import sys
from pathlib import Path
from pipeline.workers import workers
from tests.dask_cluster import hold
with workers(sys.argv[1]) as pool:
    pool.submit(hold, Path(sys.argv[2]), "task").result()
"""


@pytest.fixture(scope="module")
def cluster(free_port: Callable[[], int]) -> Iterator[DaskCluster]:
    """Return a scheduler with two workers."""
    with tempfile.TemporaryDirectory(prefix="dask-", dir="/tmp") as directory:
        made = DaskCluster(Path(directory), free_port())
        made.start_scheduler()
        for _ in range(2):
            made.start_worker()
        wait_for("two workers", lambda: len(made.worker_processes()) == 2, 120)
        yield made
        made.stop()


@pytest.fixture(scope="module")
def parts() -> dict[str, pd.DataFrame]:
    rows = pd.read_csv(ROOT / raw_data(TABLE)).sample(3000, random_state=0)
    return split(rows, TABLE.feature_names, 0.2, 0.2)


def preprocessed(directory: Path) -> Project:
    project = write_project(directory, "http://127.0.0.1:9")
    assert project.run("preprocess")[0] == 0
    return project


def test_a_training_on_dask_has_the_digits_of_one_on_this_machine(cluster: DaskCluster, tmp_path: Path) -> None:
    here = preprocessed(tmp_path / "here")
    there = here.copy(tmp_path / "there")
    code, output = here.run("train")
    assert code == 0, output
    there.dask_scheduler = cluster.address
    code, output = there.run("train")
    assert code == 0, output
    assert "gets no task" not in output
    for report in ("metrics.json", "limits.json"):
        assert (here.root / "reports" / report).read_bytes() == (there.root / "reports" / report).read_bytes()
    plots = sorted(path.relative_to(here.root) for path in (here.root / "reports/plots").rglob("*.png"))
    assert len(plots) == 6
    for plot in plots:
        assert (here.root / plot).read_bytes() == (there.root / plot).read_bytes()


def test_a_winner_with_labels_is_refitted_to_the_same_digits_on_dask(
    cluster: DaskCluster, parts: dict[str, pd.DataFrame]
) -> None:
    spatial = {**PARAMS["candidates"]["spatial"], "budget": "small"}
    spatial["budgets"] = {"small": [{"trees": {"max_iter": 5, "learning_rate": 0.3}}]}
    params = {**PARAMS, "candidates": {"spatial": spatial, "hist_gradient_boosting": BOOSTING}}
    labelled = parts["validation"].assign(batch=1, part="train")
    labelled[TABLE.target_name] *= 1.3
    local = refit_winner("spatial", params, TABLE, parts, labelled)
    with workers(cluster.address) as pool:
        distant = refit_winner("spatial", params, TABLE, parts, labelled, run=run_on(pool))
    for ours, theirs in zip(
        local.predict_interval(parts["test"]), distant.predict_interval(parts["test"]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_worker_that_is_killed_is_survived(cluster: DaskCluster, tmp_path: Path) -> None:
    with workers(cluster.address) as pool:
        tasks = [pool.submit(hold, tmp_path, name) for name in ("one", "two")]
        killed = wait_for("a task", lambda: read_pid(tmp_path / "one"))
        spared = wait_for("the other", lambda: read_pid(tmp_path / "two"))
        psutil.Process(killed).kill()
        wait_for("the task on another process", lambda: read_pid(tmp_path / "one") != killed, 120)
        (tmp_path / "go").touch()
        assert tasks[0].result(120) != killed
        assert tasks[1].result(120) == spared


def test_a_task_that_kills_its_workers_fails_and_no_other(cluster: DaskCluster, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    with workers(cluster.address) as pool:
        broken = pool.submit(die)
        others = [pool.submit(hold, tmp_path, str(number)) for number in range(6)]
        with pytest.raises(BrokenExecutor):
            broken.result(120)
        for other in others:
            assert other.result(120)


def test_a_candidate_for_which_memory_does_not_suffice_is_named(
    cluster: DaskCluster, parts: dict[str, pd.DataFrame]
) -> None:
    params = {**PARAMS, "candidates": {"random_forest": {"n_estimators": 100_000}}}
    done = threading.Event()

    def kill_busy_workers() -> None:
        while not done.wait(0.1):
            for process in cluster.worker_processes():
                if process.cpu_times().user > 4:  # a start takes less
                    process.kill()

    killing = threading.Thread(target=kill_busy_workers)
    killing.start()
    try:
        with (
            workers(cluster.address) as pool,
            pytest.raises(StageError, match="candidate random_forest: its process was killed"),
        ):
            fit_all(pool, params, TABLE, parts, parts["train"].head(0))
    finally:
        done.set()
        killing.join()


def test_a_task_that_nobody_waits_for_is_ended(cluster: DaskCluster, tmp_path: Path) -> None:
    client = subprocess.Popen([sys.executable, "-c", CLIENT, cluster.address, str(tmp_path)], cwd=ROOT)
    pid = wait_for("the task", lambda: read_pid(tmp_path / "task"), 120)
    client.kill()
    client.wait()
    wait_for("the end of its process", lambda: not psutil.pid_exists(pid), 30)


def test_a_worker_of_other_code_gets_no_task_and_is_named(free_port: Callable[[], int], tmp_path: Path) -> None:
    other = checkout_of_other_code(tmp_path / "other")
    (tmp_path / "go").touch()
    alone = DaskCluster(new_directory(tmp_path / "alone"), free_port())
    alone.start_scheduler()
    alone.start_worker(other)
    try:
        wait_for("a worker", lambda: "Registered to" in alone.log, 120)
        other_code = r"no worker that can be used: .*dask-worker.*has code-\w+, not code-\w+"
        with pytest.raises(StageError, match=other_code), workers(alone.address):
            pass
        alone.start_worker()
        wait_for("a second worker", lambda: alone.log.count("Registered to") == 2, 120)
        with workers(alone.address) as pool:
            assert len({pool.submit(hold, tmp_path, "task").result(120) for _ in range(5)}) == 1
    finally:
        alone.stop()


def test_a_scheduler_that_is_killed_and_comes_back_is_survived(cluster: DaskCluster, tmp_path: Path) -> None:
    with workers(cluster.address) as pool:
        value = shared(pool, tmp_path)
        names = ("one", "two", "three")  # for two workers, so one waits, and any of them when they are begun again
        tasks = [pool.submit(hold, value, name) for name in names]
        wait_for("a task", lambda: any(read_pid(tmp_path / name) for name in names))
        cluster.kill_scheduler()
        before = {read_pid(tmp_path / name) for name in names}
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker()
        wait_for("a task again", lambda: any(read_pid(tmp_path / name) not in before for name in names), 120)
        (tmp_path / "go").touch()
        assert before.isdisjoint(task.result(120) for task in tasks)


def test_a_scheduler_that_stays_away_ends_the_training_with_one_line(
    cluster: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.workers, "BACK_SECONDS", 2.0)
    with workers(cluster.address) as pool:
        task = pool.submit(hold, tmp_path, "task")
        wait_for("the task", lambda: read_pid(tmp_path / "task"))
        cluster.kill_scheduler()
        with pytest.raises(StageError, match=r"^DASK_SCHEDULER=tcp://127.0.0.1:\d+: no scheduler answers .*$"):
            task.result(120)


def test_without_a_scheduler_a_training_ends_within_ten_seconds_and_says_so(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    project = preprocessed(tmp_path)
    project.dask_scheduler = f"tcp://127.0.0.1:{free_port()}"
    code, output = project.run("train")
    assert code == 1
    (line,) = output.splitlines()
    assert f"DASK_SCHEDULER={project.dask_scheduler}: no scheduler answers" in line
    assert "dask-scheduler" in line
    start = time.monotonic()
    with pytest.raises(StageError), workers(project.dask_scheduler):
        pass
    assert time.monotonic() - start < 15


def read_pid(file: Path) -> int:
    """Return the process that a task has noted, 0 before."""
    return int(file.read_text() or 0) if file.exists() else 0


def new_directory(directory: Path) -> Path:
    directory.mkdir()
    return directory


def checkout_of_other_code(directory: Path) -> Path:
    """Return a checkout in which one line of the code differs."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("pipeline", "tableloop"):
        shutil.copytree(ROOT / name, directory / name, ignore=ignored)
    for name in ("entrypoint.sh", "data/table.yaml"):
        (directory / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, directory / name)
    (directory / ".venv").symlink_to(ROOT / ".venv")
    with (directory / "pipeline/fitting.py").open("a") as file:
        file.write("\n# one more line\n")
    return directory
