"""A small project with a real MLflow server: few trees, the real rows."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest
import yaml

from appliance import mlflow_postgres
from appliance.prepare import revision
from tableloop.signing import SigningKey
from tableloop.state import prediction_rows
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.postgres import Postgres

ROOT = Path(__file__).parents[3]
CHECKOUT = (
    "dvc.yaml",
    "params.yaml",
    "requirements.lock",
    ".dvc",
    ".dvcignore",
    "data/raw",
    "data/table.yaml",
    "pipeline",
    "tableloop",
)
SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
PARTS = ("train", "validation", "test")
QUIET = {
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_MODEL_CATALOG_URI": "",
}
SMALL = {"linear": {}, "hist_gradient_boosting": {"max_iter": 20, "features": {}}}


@dataclass
class Project:
    """A checkout, its state directory, and the registry it trains for."""

    root: Path
    state: Path
    uri: str
    model: str = "HousePriceModel"
    database_url: str = ""  # of the store, empty for a file in the state directory
    postgres: Postgres | None = None  # where it is
    promote: str = "auto"
    dask_scheduler: str = ""
    variables: dict[str, str] = field(default_factory=dict)  # more of them

    @property
    def store(self) -> Store:
        return Store(self.database_url or Layout(self.state).database)

    @property
    def workspace(self) -> Path:
        return self.state / "workspace"

    @property
    def environment(self) -> dict[str, str]:
        own = {"STATE_DIR": str(self.state), "MLFLOW_TRACKING_URI": self.uri, "MODEL_NAME": self.model}
        own |= {"DATABASE_URL": self.database_url, "PROMOTE": self.promote, "DASK_SCHEDULER": self.dask_scheduler}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return os.environ | QUIET | own | {"PATH": path} | self.variables

    def change(self, section: str, **values: Any) -> None:
        """Change a section of the checkout's params.yaml."""
        file = self.root / "params.yaml"
        params = yaml.safe_load(file.read_text())
        params[section] |= values
        file.write_text(yaml.safe_dump(params, sort_keys=False))

    def copy(self, directory: Path) -> Project:
        """Return the same project, trained as far as this one, somewhere else."""
        shutil.copytree(self.root, directory / "root")
        shutil.copytree(self.state, directory / "state")
        copied = replace(self, root=directory / "root", state=directory / "state", variables={**self.variables})
        if self.postgres is not None:
            copied.database_url = self.postgres.new_database(like=self.database_url)
        return copied

    def start(self, module: str, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", f"pipeline.{module}", *arguments],
            cwd=cwd or self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, module: str, *arguments: str, cwd: Path | None = None) -> tuple[int, str]:
        """Return the exit code and what was printed."""
        process = self.start(module, *arguments, cwd=cwd)
        output, _ = process.communicate(timeout=600)
        return process.returncode, output

    def retrain(self, *arguments: str) -> str:
        """Retrain, and return what was printed."""
        code, output = self.run("retrain", *arguments)
        assert code == 0, output
        return output


def write_project(directory: Path, uri: str) -> Project:
    """Return an untrained project."""
    root = directory / "root"
    for name in CHECKOUT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "tmp", "cache", "site", "config.local")
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, root / name)
    project = Project(root, directory / "state", uri)
    SigningKey.new().keep(Layout(project.state).signing_key)
    project.change("train", candidates=SMALL, importance_rows=50, importance_repeats=1)
    return project


@pytest.fixture(scope="session")
def empty_databases(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return a function that makes an empty MLflow database in SQLite or PostgreSQL, and returns its URI.

    Migrating one takes many seconds: it is done once, and copied.
    """
    template = tmp_path_factory.mktemp("database") / "mlflow.db"

    @cache
    def migrated(database: str) -> str:
        if database == POSTGRESQL:
            url = server().new_database()
            mlflow_postgres.migrate(url, revision(Path(migrated(SQLITE))), ())
            return url
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{template}"]
        subprocess.run(command, env=os.environ | QUIET, check=True, capture_output=True)
        with closing(sqlite3.connect(template)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        return str(template)

    def server() -> Postgres:
        found: Postgres = request.getfixturevalue("postgres")
        return found

    def make(database: str) -> str:
        if database == POSTGRESQL:
            return mlflow_postgres.mlflow_uri(server().new_database(like=migrated(database)))
        own = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
        shutil.copyfile(migrated(database), own)
        return f"sqlite:///{own}"

    return make


@pytest.fixture(scope="session")
def new_server(
    empty_databases: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Callable[[str], str]]:
    """Return a function that starts an empty MLflow server on either database and returns its address at once."""
    servers: list[subprocess.Popen[bytes]] = []

    def start(database: str = SQLITE) -> str:
        directory = tmp_path_factory.mktemp("mlflow")
        port = str(free_port())
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"),
            *("--serve-artifacts", "--artifacts-destination", str(directory / "artifacts")),
        ]
        environment = os.environ | QUIET | {"MLFLOW_BACKEND_STORE_URI": empty_databases(database)}
        with (directory / "server.log").open("wb") as log:
            servers.append(
                subprocess.Popen(
                    command, env=environment, cwd=directory, stdout=log, stderr=log, start_new_session=True
                )
            )
        return f"http://127.0.0.1:{port}"

    yield start
    for server in servers:
        server.terminate()
    for server in servers:
        server.wait(20)


@pytest.fixture(scope="session")
def trained_on(
    new_server: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[str], Project]:
    """Return a function that gives the project that was trained and registered once with a database."""

    @cache
    def train(database: str) -> Project:
        project = write_project(tmp_path_factory.mktemp("project"), new_server(database))
        if database == POSTGRESQL:
            project.postgres = request.getfixturevalue("postgres")
            project.database_url = project.postgres.new_database()
        # The server is still starting: the training does not wait for it, only its last stage does.
        project.retrain("--unless-registered")
        return project

    return train


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def trained(request: pytest.FixtureRequest, trained_on: Callable[[str], Project]) -> Project:
    """Return a project that was trained and registered once, with its store and MLflow's tables in either database.

    A test that changes it takes a copy.
    """
    return trained_on(request.param)


@pytest.fixture
def untrained(tmp_path: Path) -> Project:
    """Return a project without a server."""
    return write_project(tmp_path, "http://127.0.0.1:9")


def wait_for_line(process: subprocess.Popen[str], part: str) -> str:
    """Return what the process printed up to the line with this part."""
    assert process.stdout
    printed = ""
    deadline = time.monotonic() + 300
    for line in process.stdout:
        printed += line
        if part in line:
            return printed
        assert time.monotonic() < deadline, printed
    raise AssertionError(f"{part!r} never came:\n{printed}")


def label(project: Project, values: pd.DataFrame, start: int, sender: str = "administrator") -> None:
    """Store rows as predictions with labels, one a second from ``start``."""
    store = project.store
    with closing(store.writer()) as writer:
        rows = values[[*load_table().feature_names, load_table().target_name]].to_numpy().tolist()
        made = [
            prediction_rows.row(f"p{n:06d}", "r", float(n), "1", features, 2.0, 1.0, 3.0)
            for n, (*features, _) in enumerate(rows, start)
        ]
        writer.insert(made)
        writer.insert_labels(
            [
                prediction_rows.Sent(name, value, sure=True)
                for (name, *_), (*_, value) in zip(made, rows, strict=True)
            ],
            sender,
            load_table(),
        )
    with store.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE feedback SET received_at = requested_at + 10 FROM predictions"
            " WHERE predictions.prediction_id = feedback.prediction_id"
        )


def kill_all(state: Path) -> None:
    """Kill every process that works for this state, those included that are only just starting."""
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("STATE_DIR") == str(state):
                    process.kill()
                    found.append(process)
            except psutil.Error:
                continue
        if not found:
            return
        psutil.wait_procs(found, timeout=10)
