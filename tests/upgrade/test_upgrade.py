"""The code opens a state directory made before there were manifests, a store and a contract."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from appliance.binaries import UNPACKING
from appliance.prepare import prepare_signing_key
from tableloop.settings import Settings
from tableloop.state.database import Store
from tableloop.state.former_files import take_in
from tableloop.state.layout import Layout
from tests.integration.pipeline.conftest import QUIET, Project, write_project
from tests.waiting import free_port, wait_for

ROOT = Path(__file__).parents[2]
OLD = "6471210"  # the last commit before versions were bound to their code
MODEL = "HousePriceModel"
LABELS = 250
SAME_ROWS = 50


@dataclass
class State:
    """The state that the old code left behind, and its answers while it ran."""

    directory: Path
    uri: str
    served: str
    rows: list[dict[str, float]]
    answers: list[dict[str, Any]]


def run_old_code(root: Path, state: Path, uri: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment(state, uri),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def environment(state: Path, uri: str, **more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"STATE_DIR": str(state), "MLFLOW_TRACKING_URI": uri, "MODEL_POLL_SECONDS": "0.3", "PATH": path}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | QUIET | own | more


class Service:
    """The service of one checkout on one state directory."""

    def __init__(self, root: Path, state: Path, uri: str) -> None:
        port = str(free_port())
        self._console = (state.parent / f"service-{port}.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "app.main"],
            cwd=root,
            env=environment(state, uri, API_PORT=port, PYTHONPATH=str(root)),
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def __enter__(self) -> Service:
        wait_for("the service", lambda: self.client.get("/ready").status_code == 200, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)
        self._console.close()

    @property
    def console(self) -> str:
        return Path(self._console.name).read_text()

    def serves(self) -> str:
        version: str = self.client.get("/ready").json()["model_version"]
        return version

    def predict(self, rows: list[dict[str, float]]) -> list[dict[str, Any]]:
        answer = self.client.post("/predict/batch", json=rows)
        assert answer.status_code == 200, answer.text
        answers: list[dict[str, Any]] = answer.json()
        return answers


@pytest.fixture(scope="module")
def old_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the old commit's files, with candidates that are trained in seconds."""
    archive = subprocess.run(["git", "archive", OLD], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"NOT RUN: the history here does not have commit {OLD}")
    root = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(root, **UNPACKING)
    reduce(root / "params.yaml")
    return root


def reduce(file: Path) -> None:
    params = yaml.safe_load(file.read_text())
    train = params["train"]
    spatial = train["candidates"]["spatial"]
    spatial["budgets"]["default"][0]["trees"]["max_iter"] = 40
    train |= {"candidates": {"linear": {}, "spatial": spatial}, "importance_rows": 50, "importance_repeats": 1}
    file.write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Yield a state directory and the address of the MLflow server that keeps its data in it."""
    state = tmp_path_factory.mktemp("upgrade") / "state"
    directory = state / "mlflow"
    directory.mkdir(parents=True)
    port = str(free_port())
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"),
        *("--backend-store-uri", "sqlite:///mlflow.db"),
        *("--serve-artifacts", "--artifacts-destination", "./artifacts"),
    ]
    template = ROOT / ".runtime/mlflow.db"
    if template.exists():  # migrated already, which takes many seconds
        shutil.copyfile(template, directory / "mlflow.db")
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=directory, env=os.environ | QUIET, stdout=log, stderr=log, start_new_session=True
        )
    yield state, f"http://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)


@pytest.fixture(scope="module")
def state(old_root: Path, server: tuple[Path, str]) -> State:
    """Return a state directory that was trained, asked, told labels and trained again by the old code."""
    directory, uri = server
    run_old_code(old_root, directory, uri, "-m", "pipeline.retrain", "--unless-registered")
    sample = pd.read_csv(ROOT / "data/raw/california_housing.csv").sample(LABELS, random_state=1)
    target = sample.columns[-1]
    features = sample.drop(columns=target)
    rows = [dict(zip(features.columns, row, strict=True)) for row in features.to_numpy().tolist()]
    with Service(old_root, directory, uri) as service:
        assert service.serves() == "1"
        for answer, value in zip(service.predict(rows), sample[target].tolist(), strict=True):
            label = {"prediction_id": answer["prediction_id"], "actual_value": 1.4 * value}
            assert service.client.post("/feedback", json=label).is_success
        run_old_code(old_root, directory, uri, "-m", "pipeline.retrain", "--reason", "values rose")
        wait_for("version 2", lambda: service.serves() == "2", 60)
        answers = service.predict(rows[:SAME_ROWS])
    return State(directory, uri, "2", rows, answers)


@pytest.fixture(scope="module")
def project(state: State, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return the code here, with the same candidates, working for the old state."""
    project = write_project(tmp_path_factory.mktemp("new"), state.uri)
    shutil.copyfile(ROOT / "params.yaml", project.root / "params.yaml")
    reduce(project.root / "params.yaml")
    prepare_signing_key(Settings(state_dir=state.directory))  # as every start does
    return Project(project.root, state.directory, state.uri)


def counts(state: State) -> tuple[int, int]:
    with closing(sqlite3.connect(state.directory / "predictions.db")) as connection:
        predictions, labels = (
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("predictions", "feedback")
        )
    return predictions, labels


def values(answers: list[dict[str, Any]]) -> list[float]:
    return [
        value
        for answer in answers
        for value in (
            answer["predicted_median_house_value"],
            answer["interval"]["low"],
            answer["interval"]["high"],
        )
    ]


def test_the_same_version_gives_the_same_answers_and_nothing_is_lost(state: State) -> None:
    before = counts(state)
    assert before == (LABELS + SAME_ROWS, LABELS)
    layout = Layout(state.directory)
    store = Store(layout.database)
    take_in(layout, store, MODEL)  # as every start does
    prepare_signing_key(Settings(state_dir=state.directory))
    history = [(entry.trigger, entry.outcome, entry.version, entry.cause) for entry in store.retrainings(5)]
    assert history == [("user", "promoted", "2", "values rose"), ("start", "promoted", "1", "")]
    champion = store.serving_champion(MODEL)
    assert champion is not None
    assert champion.version == state.served
    with Service(ROOT, state.directory, state.uri) as service:
        assert service.serves() == state.served
        answers = service.predict(state.rows[:SAME_ROWS])
        assert values(answers) == pytest.approx(values(state.answers), abs=1e-6)
        assert service.client.get("/model").json()["version"] == state.served
    assert counts(state) == (before[0] + SAME_ROWS, before[1])


def test_the_next_retraining_is_gated_against_the_old_champion(state: State, project: Project) -> None:
    project.retrain()
    client = MlflowClient(state.uri, state.uri)
    champion = client.get_model_version(MODEL, state.served)
    recorded = client.get_run(champion.run_id).data.metrics["test_rmse"]
    challenger = client.get_model_version(MODEL, "3")
    found = re.search(r"test RMSE [\d.]+ against ([\d.]+) of version 2", challenger.tags["gate_reason"])
    assert found, challenger.tags
    assert float(found[1]) == pytest.approx(recorded, abs=1e-4)


def test_an_old_version_is_run_by_its_own_code_where_it_cannot_be_built_again(project: Project) -> None:
    code, output = project.run("reproduce", "2")
    assert code == 2, output
    assert "the code here is another" in output
    assert output.strip().endswith("Its own code still gives its test metrics")
