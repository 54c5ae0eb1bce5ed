"""A backup taken under load, and the appliance that starts from it."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import load_text

from monitoring.health import UnwellError, ask
from tableloop.table import load_table
from tests.integration.conftest import Appliance

FEATURES = load_table().features

ROW = {column.name: column.example for column in FEATURES}


class Load:
    """Predictions from several threads, with the time at which each was answered."""

    def __init__(self, appliance: Appliance, threads: int = 3) -> None:
        self.answered: list[tuple[float, str]] = []
        self.failed: list[str] = []
        self._base = appliance.services.api
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._done.is_set():
            try:
                answer = ask(self._base, "/predict", body=ROW)
            except UnwellError as problem:
                self.failed.append(str(problem))
            else:
                self.answered.append((time.time(), answer["prediction_id"]))


def predictions(state: Path) -> set[str]:
    with closing(sqlite3.connect(state / "predictions.db")) as connection:
        return {row[0] for row in connection.execute("SELECT prediction_id FROM predictions")}


def test_an_appliance_restored_from_a_backup_under_load_is_the_same(
    running: Appliance,
    new_appliance: Callable[..., Appliance],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = ask(running.services.api, "/model")
    file = tmp_path / "backup.tar.gz"
    running.extra["FILE"] = str(file)
    with Load(running) as load:
        time.sleep(1)
        began = time.time()
        saved = running.make("backup")
    assert saved.returncode == 0, saved.stderr
    assert load.failed == []
    before = {prediction for at, prediction in load.answered if at < began}
    assert len(before) > 20
    refused = running.make("restore")
    assert refused.returncode != 0
    assert refused.stderr.startswith(f"nothing restored: an appliance works with {running.state}: stop it first")

    other = new_appliance(FILE=str(file), TRUST="1")  # it has a key of its own
    restored = other.make("restore")
    assert restored.returncode == 0, restored.stderr
    assert before <= predictions(other.state)
    other.start()
    with capsys.disabled():
        sys.stdout.write(f"\n{len(load.answered)} predictions meanwhile; {saved.stdout}{restored.stdout}")
    since = other.console()[len(running.console().partition("ready in")[0]) :]
    assert "HousePriceModel@Production is registered: nothing to train" in since
    assert "Running stage" not in since
    again = ask(other.services.api, "/model")
    assert (again["version"], again["run_id"]) == (version["version"], version["run_id"])
    expected = ask(running.services.api, "/predict", body=ROW)["predicted_median_house_value"]
    assert ask(other.services.api, "/predict", body=ROW)["predicted_median_house_value"] == expected

    # What it takes to trace and to reproduce the version.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other.services.mlflow)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = MlflowClient()
    run = client.get_run(again["run_id"])
    assert run.data.metrics["test_rmse"] == again["scores"]["test_rmse"]
    params = yaml.safe_load(load_text(f"{run.info.artifact_uri}/inputs/params.yaml"))
    assert params["train"]["seed"] == 42
    assert (other.state / "workspace/dvc.lock").read_text() == (running.state / "workspace/dvc.lock").read_text()
    assert list((other.state / "workspace/.dvc/cache/files").rglob("*"))
    assert other.make("down").returncode == 0
