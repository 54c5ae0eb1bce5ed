"""Machines that share PostgreSQL, object storage and a registry: each retraining goes on where the last one ended."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from appliance.prepare import ROOT, prepare_server_database
from tableloop.credentials import ADMIN, keep_password
from tableloop.mlflow_http import wait_until_healthy
from tableloop.signing import SigningKey
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.integration.pipeline.conftest import Project, write_project
from tests.postgres import Postgres
from tests.s3 import SECRET_KEY, S3Server

TARGET = load_table().target
PASSWORD = "of the administrator"


@dataclass
class Cluster:
    """The servers, and machines as directories."""

    directory: Path
    s3: S3Server
    uri: str  # of object storage
    registry: str
    variables: dict[str, str]

    def machine(self, name: str) -> Project:
        """Return a machine that has the code and the configuration, and nothing else."""
        project = write_project(self.directory / name, self.registry)
        Layout(project.state).signing_key.unlink()
        project.database_url, project.variables = self.variables["DATABASE_URL"], self.variables
        return project

    def serves(self) -> str:
        client = MlflowClient(self.registry, self.registry)
        return str(client.get_model_version_by_alias(load_table().model, "Production").version)

    def labels(self) -> list[str]:
        return [file.name for file in self.s3.files(f"{self.uri}/labels")]


@pytest.fixture(scope="module")
def cluster(
    postgres: Postgres,
    new_s3: Callable[[], S3Server],
    free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """Return servers of which one version is registered."""
    directory, url, s3, port = tmp_path_factory.mktemp("cluster"), postgres.new_database(), new_s3(), free_port()
    state = Layout(directory / "mlflow")
    for path in (state.mlflow, state.logs):
        path.mkdir(parents=True)
    keep_password(state.admin_password, PASSWORD)
    SigningKey.new().keep(directory / "signing-key")
    prepare_server_database(url)
    own = {"DATABASE_URL": url, "ARTIFACTS_URI": s3.new_bucket(), **s3.environment}
    environment = os.environ | own | {"STATE_DIR": str(state.root), "MLFLOW_PORT": str(port), "TEST_MODE": "off"}
    with (directory / "mlflow.log").open("w") as log:
        server = subprocess.Popen([ROOT / "entrypoint.sh", "mlflow"], env=environment, stdout=log, stderr=log)
    try:
        registry = f"http://127.0.0.1:{port}"
        assert wait_until_healthy(registry, 90), (directory / "mlflow.log").read_text()
        login = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        shared = own | login | {"SIGNING_KEY_FILE": str(directory / "signing-key")}
        made = Cluster(directory, s3, own["ARTIFACTS_URI"], registry, shared)
        made.machine("first").retrain()
        assert made.serves() == "1"
        yield made
    finally:
        server.terminate()
        server.wait(20)


def risen(project: Project, count: int, factor: float = 1.5) -> pd.DataFrame:
    rows = pd.read_parquet(project.workspace / "data/processed/test.parquet").head(count)
    rows[TARGET.name] *= factor
    return rows


def test_a_machine_with_an_empty_disk_goes_on_where_another_has_ended(cluster: Cluster) -> None:
    for folder in ("mlflow", "dvc/files/md5", "dvc/runs", "workspace"):
        assert cluster.s3.files(f"{cluster.uri}/{folder}"), folder
    second = cluster.machine("second")
    code, output = second.run("retrain")
    assert code == 0, output
    assert "Running stage 'train'" not in output  # what is in the remote is not made again
    report = json.loads((second.workspace / "reports/registration.json").read_text())
    assert (report["gate"], report["version"]) == ("unchanged", "1")
    for file in second.workspace.rglob("config*"):
        assert SECRET_KEY not in file.read_text()
