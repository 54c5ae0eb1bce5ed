"""Machines that share PostgreSQL, object storage and a registry: each retraining goes on where the last one ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from appliance.prepare import ROOT, prepare_server_database
from tableloop.credentials import ADMIN, keep_password
from tableloop.mlflow_http import wait_until_healthy
from tableloop.signing import SigningKey
from tableloop.state.label_batches import batch_files, read_batches
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.integration.pipeline.conftest import Project, kill_all, label, wait_for_line, write_project
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
    machines: dict[str, Project] = field(default_factory=dict)

    def machine(self, name: str) -> Project:
        """Return a machine that has the code and the configuration, and nothing else."""
        project = write_project(self.directory / name, self.registry)
        Layout(project.state).signing_key.unlink()
        project.database_url, project.variables = self.variables["DATABASE_URL"], self.variables
        self.machines[name] = project
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
        shared |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}  # as `entrypoint.sh` has it
        made = Cluster(directory, s3, own["ARTIFACTS_URI"], registry, shared)
        made.machine("first").retrain()
        assert made.serves() == "1"
        yield made
    finally:
        server.terminate()
        server.wait(20)


def registration(project: Project) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((project.workspace / "reports/registration.json").read_text())
    return report


def risen(project: Project, count: int) -> pd.DataFrame:
    """Return test rows of which the prices have risen."""
    rows = pd.read_parquet(project.workspace / "data/processed/test.parquet").head(count)
    rows[TARGET.name] *= 1.5
    return rows


def test_machines_with_empty_disks_go_on_where_another_has_ended(cluster: Cluster) -> None:
    """The life of a version: restored, made from labels, taken up after a kill, reproduced, revoked, rolled back."""
    for folder in ("mlflow", "dvc/files/md5", "dvc/runs", "workspace"):
        assert cluster.s3.files(f"{cluster.uri}/{folder}"), folder
    second = cluster.machine("second")
    output = second.retrain()
    assert "Running stage 'train'" not in output  # what is in the remote is not made again
    assert (registration(second)["gate"], registration(second)["version"]) == ("unchanged", "1")
    for file in second.workspace.rglob("config*"):
        assert SECRET_KEY not in file.read_text()

    label(second, risen(second, 400), 1000)
    process = second.start("retrain")
    wait_for_line(process, "Running stage 'train'")
    process.kill()
    kill_all(second.state)
    process.communicate(timeout=20)
    assert cluster.serves() == "1"

    third = cluster.machine("third")
    third.retrain("--trigger", "drift")
    assert (registration(third)["gate"], registration(third)["version"]) == ("promoted", "2")
    assert len(cluster.labels()) == 1
    assert [file.name for file in batch_files(third.workspace / "data/feedback")] == cluster.labels()
    assert third.store.count_unused_labels() == 0
    assert third.store.retrainings(2)[1].outcome == "failed"
    locked = yaml.safe_load((third.workspace / "dvc.lock").read_text())["stages"]
    remote = {file.parent.name + file.name for file in cluster.s3.files(f"{cluster.uri}/dvc/files/md5")}
    assert {out["md5"] for stage in ("preprocess", "train") for out in locked[stage]["outs"]} <= remote

    fourth = cluster.machine("fourth")
    code, output = fourth.run("reproduce", "2")
    assert code == 0, output
    code, output = fourth.run("revoke", "--sender", "administrator", "--reason", "a test")
    assert code == 0, output
    assert output.startswith("revoked 400 labels")
    code, output = fourth.run("rollback", "--reason", "a test")
    assert code == 0, output
    assert cluster.serves() == "1"
    fourth.retrain()
    assert registration(fourth)["version"] in ("1", "3")
    assert cluster.labels()[1:] == ["revoked-0001.json"]
    assert len(read_batches(fourth.workspace / "data/feedback")) == 0


def test_a_client_with_nothing_but_http_loads_the_version(cluster: Cluster, tmp_path: Path) -> None:
    loading = (
        f"import mlflow; mlflow.set_tracking_uri({cluster.registry!r})\n"
        f"print(mlflow.artifacts.download_artifacts('models:/{load_table().model}/1', dst_path={str(tmp_path)!r}))"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}
    done = subprocess.run([sys.executable, "-c", loading], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "MLmodel").is_file()


def test_without_storage_a_retraining_says_so_and_changes_nothing(cluster: Cluster) -> None:
    fifth = cluster.machine("fifth")
    label(fifth, risen(cluster.machines["first"], 10), 5000)
    before, there = cluster.serves(), cluster.labels()
    cluster.s3.kill()
    try:
        code, output = fifth.run("retrain")
        assert (code, output.count("\n")) == (1, 1)
        assert output.startswith(f"training failed before its first stage: {cluster.uri}: ")
        assert "see that the storage runs" in output
        assert fifth.store.retrainings(1)[0].reason == output.strip()
        assert not fifth.workspace.exists()
        assert fifth.store.count_unused_labels() == 10
        assert cluster.serves() == before  # MLflow's own answers come from its database
        code, output = fifth.run("reproduce", "2")
        assert code == 2
    finally:
        cluster.s3.start()
    assert cluster.labels() == there
    fifth.retrain()
    assert fifth.store.count_unused_labels() == 0


def test_storage_that_fails_during_a_training_is_its_failure(cluster: Cluster) -> None:
    sixth = cluster.machine("sixth")
    label(sixth, risen(cluster.machines["first"], 20).tail(10), 6000)
    process = sixth.start("retrain")
    try:
        printed = wait_for_line(process, "Running stage 'train'")
        cluster.s3.kill()
        printed += process.communicate(timeout=300)[0]
    finally:
        cluster.s3.start()
    assert process.returncode == 1
    assert printed.splitlines()[-1].startswith(f"training failed: {cluster.uri}: "), printed
    assert sixth.store.retrainings(1)[0].outcome == "failed"
    output = sixth.retrain()
    assert "Running stage 'train'" not in output  # only what was missing is done
