"""The drift monitor as a process: it finds drift, starts one retraining, and is killed in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest

from app.prediction_writer import PredictionLog
from tableloop.drift.reference import REFERENCE_FILE
from tableloop.drift.statistics import Matrix, make_reference
from tableloop.state import prediction_rows
from tableloop.state.database import Retraining, Store, retrainings
from tableloop.state.layout import Layout
from tableloop.state.locks import retraining_lock
from tableloop.state.monitor_report import current_report
from tableloop.table import load_table
from tests.integration.conftest import ROOT, wait_until

FEATURE_NAMES = load_table().feature_names
TARGET = load_table().target


@dataclass
class World:
    """A state directory with a version that serves, a log of predictions, and a monitor."""

    state: Path
    place: Path | str  # of the store
    on: str = "on"
    every: str = ""
    predicted: int = 0
    process: subprocess.Popen[bytes] | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def __post_init__(self) -> None:
        frame = pd.read_csv(ROOT / "data/raw/california_housing.csv")
        self.rows: Matrix = frame[list(FEATURE_NAMES)].to_numpy(np.float64)
        self.values: Matrix = frame[TARGET.name].to_numpy(np.float64)
        directory = self.state / "champion" / "v1"
        directory.mkdir(parents=True)
        reference = make_reference(self.rows, 0.4 * self.rows[:, 0], 0.8, columns=FEATURE_NAMES)
        reference.save(directory / REFERENCE_FILE)
        (self.state / "champion" / "current.json").write_text(json.dumps({"version": "1", "directory": "v1"}))
        # a retraining cannot begin where its workspace would be: it fails at once, as a process
        (self.state / "workspace").write_text("")

    def predict(self, count: int, *, factor: float = 1.0, labels: int = 0) -> None:
        """Log predictions of random rows with their incomes times ``factor``, and label some."""
        chosen = self.rng.choice(len(self.rows), count)
        rows = []
        for row in self.rows[chosen] * np.array([factor, 1, 1, 1, 1, 1, 1, 1]):
            value = 0.4 * row[0]
            self.predicted += 1
            name, features = f"id-{self.predicted}", row.tolist()
            rows.append(prediction_rows.row(name, "r", time.time(), "1", features, value, value - 1, value + 1))

        async def write() -> None:
            await log.write(rows)
            if labels:
                pairs = zip(rows[:labels], self.values[chosen], strict=False)
                await log.label([prediction_rows.Sent(row[0], float(value)) for row, value in pairs], "administrator")

        log = PredictionLog(Store(self.place))
        log.start()
        asyncio.run(write())
        log.stop()

    def start(self) -> None:
        environment = {
            name: os.environ[name] for name in ("PATH", "HOME", "PYTHONDONTWRITEBYTECODE") if name in os.environ
        }
        environment |= {"STATE_DIR": str(self.state), "DRIFT_INTERVAL_SECONDS": "0.2", "RETRAIN_ON_DRIFT": self.on}
        environment |= {"RETRAIN_EVERY": self.every}
        if isinstance(self.place, str):
            environment["DATABASE_URL"] = self.place
        with (self.state / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "monitoring.drift_monitor"],
                cwd=ROOT,
                env=environment | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
                stdout=console,
                stderr=subprocess.STDOUT,
            )

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=10)

    def report(self) -> dict[str, Any]:
        report = current_report(Store(self.place), Layout(self.state))
        return report or {"status": None, "monitor": {}}

    def says(self) -> str:
        return str(self.report()["monitor"].get("says", ""))

    def history(self) -> list[Retraining]:
        """Return the retrainings that have ended, the newest first."""
        store = Store(self.place)
        return [retraining for retraining in store.retrainings(10) if retraining.ended_at is not None]

    def windows(self, count: int) -> None:
        wait_until(lambda: self.report()["monitor"].get("windows") == count, 60, f"{count} windows")

    def drift_lasts(self) -> None:
        """Let three windows in a row show incomes that are far too high."""
        for count in (1, 2, 3):
            self.predict(1000 if count == 1 else 300, factor=1.5, labels=100)
            self.windows(count)


@pytest.fixture
def world(tmp_path: Path, place: Path | str) -> Iterator[World]:
    world = World(tmp_path, place)
    yield world
    if world.process is not None and world.process.poll() is None:
        world.end(signal.SIGKILL)


@pytest.fixture
def check(tmp_path: Path, place: Path | str) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "monitoring.drift_check", *arguments]
        environment = os.environ | {"STATE_DIR": str(tmp_path)}
        if isinstance(place, str):
            environment["DATABASE_URL"] = place
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_check_by_hand_tells_by_its_exit_code(
    world: World, check: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    nothing = check()
    assert nothing.returncode == 2
    assert nothing.stdout.startswith("not enough data: nothing was predicted yet\n")
    world.predict(600)
    calm = check()
    assert calm.returncode == 0
    assert calm.stdout.startswith("no drift: nothing moved\nThe 600 newest predictions")
    world.predict(600, factor=1.5, labels=10)
    drift = check("--json")
    report = json.loads(drift.stdout)
    assert drift.returncode == 1
    assert (report["status"], report["version"], report["new_labels"]) == ("drift", "1", 10)
    assert report["live"]["labels"] == 10


def test_lasting_drift_starts_one_retraining_and_then_it_pauses(world: World) -> None:
    with retraining_lock(Layout(world.state)):  # somebody else retrains
        world.start()
        world.drift_lasts()
        wait_until(lambda: "tries again later" in (world.state / "console").read_text(), 60, "the refusal")
        assert world.history() == []
    wait_until(world.history, 60, "the retraining")
    wait_until(lambda: "pause after the last retraining" in world.says(), 60, "the pause")
    world.end(signal.SIGKILL)
    world.start()
    world.predict(300, factor=1.5)
    world.windows(1)
    assert "pause after the last retraining" in world.says()
    (line,) = world.history()
    assert (line.trigger, line.outcome, line.by) == ("drift", "failed", "the drift monitor")
    assert line.cause.startswith("drift: ")
    assert world.end() == 0


def test_a_restart_goes_on_counting_and_off_only_tells(world: World) -> None:
    world.on = "off"
    world.predict(1000, factor=1.5, labels=250)
    world.start()
    world.windows(1)
    world.predict(300, factor=1.5)
    world.windows(2)
    assert world.says().endswith("it waits for 1 more window like this in a row, RETRAIN_ON_DRIFT=on")
    world.end(signal.SIGKILL)
    world.predict(300, factor=1.5)
    world.start()
    world.windows(3)
    assert world.says().endswith("it waits for RETRAIN_ON_DRIFT=on")
    assert world.history() == []


def test_a_schedule_retrains_without_drift_and_labels(world: World) -> None:
    world.on, world.every = "off", "1m"
    store = Store(world.place)
    store.end_retraining(store.begin_retraining("start", "", "the first start"), "promoted", "1", "the first", {})
    with store.writing() as connection:
        connection.execute(retrainings.update().values(started_at=time.time() - 58, ended_at=time.time() - 57))
    world.start()
    wait_until(lambda: world.history()[0].trigger == "schedule", 60, "the retraining")
    wait_until(lambda: world.history()[0].outcome == "failed", 60, "its end")  # there is no registry
    assert world.history()[0].by == "the schedule"
    assert world.history()[0].cause.startswith("RETRAIN_EVERY=1m: due at ")
    assert len(world.history()) == 2


def test_it_is_small_and_runs_no_check_when_nothing_is_new(world: World) -> None:
    world.start()
    wait_until(lambda: world.report()["status"] == "not enough data", 60, "the first report")
    assert world.process is not None
    process = psutil.Process(world.process.pid)
    if not isinstance(world.place, str):
        wait_until(lambda: not process.children(), 10, "the end of the check")
    used, checked = process.cpu_times().children_user, world.report()["checked_at"]
    time.sleep(2)
    assert world.report()["checked_at"] == checked
    if not isinstance(world.place, str):  # a server is asked by a process of its own
        assert process.cpu_times().children_user == used
    assert process.memory_full_info().pss < 20e6


def test_a_check_that_fails_is_told_and_tried_again(world: World) -> None:
    world.predict(600)
    pointer = world.state / "champion" / "current.json"
    world.start()
    for text, problem in (
        ("[1]", "current.json cannot be read"),
        ('{"version": "2", "directory": "v2"}', "has no drift_ref"),
    ):
        pointer.write_text(text)
        wait_until(lambda problem=problem: problem in world.says(), 60, problem)  # type: ignore[misc]
    pointer.write_text(json.dumps({"version": "1", "directory": "v1"}))
    wait_until(lambda: world.report()["status"] == "no drift", 60, "a report")
