"""Whoever reaches the MLflow port tries to change the registry, and to reach what MLflow has beside it."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from appliance.prepare import prepare_database, prepare_password
from tableloop.state.layout import Layout
from tests.integration.service.conftest import ROOT, clean_environment
from tests.waiting import free_port, wait_for

PASSWORD = 'it\'s "secret" 100%'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The appliance's MLflow server with an experiment, a run and a model."""
    layout = Layout(tmp_path_factory.mktemp("state"))
    for directory in (layout.mlflow_artifacts, layout.logs):
        directory.mkdir(parents=True)
    prepare_database(layout.mlflow_database)
    prepare_password(layout, PASSWORD)
    port = free_port()
    environment = clean_environment(
        STATE_DIR=layout.root,
        MLFLOW_PORT=port,
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_MODEL_CATALOG_URI="",
    )
    process = subprocess.Popen([sys.executable, "-m", "appliance.mlflow_server"], cwd=ROOT, env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_for("the MLflow server", lambda: client.get("/health").status_code == 200, 60)
            client.headers["state"] = str(layout.root)
            yield client
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def client(server: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    uri = str(server.base_url).rstrip("/")
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri, uri)


def log_in(monkeypatch: pytest.MonkeyPatch, password: str = PASSWORD) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def test_without_the_login_nothing_is_changed_and_the_client_says_how(client: MlflowClient) -> None:
    changes: tuple[Callable[[], object], ...] = (
        lambda: client.create_experiment("mine"),
        lambda: client.create_run("0"),
        lambda: client.create_registered_model("mine"),
        lambda: client.set_experiment_tag("0", "mine", "yes"),
        lambda: client.delete_experiment("0"),
    )
    for change in changes:
        with pytest.raises(MlflowException, match="MLFLOW_TRACKING_USERNAME"):
            change()
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]


def test_with_the_login_a_remote_client_works_as_ever_and_everyone_can_read_it(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        log_in(patch)
        mlflow.set_experiment("shared")
        with mlflow.start_run() as run:
            mlflow.log_metric("rmse", 1.0)
            mlflow.log_text("a text", "text.txt")
        client.create_registered_model("shared")
        version = client.create_model_version("shared", run.info.artifact_uri, run.info.run_id)
        client.set_registered_model_alias("shared", "Production", version.version)
    found = client.get_model_version_by_alias("shared", "Production")
    assert client.get_run(found.run_id).data.metrics == {"rmse": 1.0}
    assert Path(client.download_artifacts(found.run_id, "text.txt", str(tmp_path))).read_text() == "a text"


def test_a_wrong_password_is_refused(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(monkeypatch, "wrong")
    with pytest.raises(MlflowException, match="administrator"):
        client.create_experiment("mine")


def test_an_artifact_is_neither_replaced_nor_deleted(server: httpx.Client) -> None:
    path = "/api/2.0/mlflow-artifacts/artifacts/1/models/m-1/artifacts/MLmodel"
    for spelling in (path, path.replace("/1/", "/%31/"), path.replace("mlflow-", "mlflow%2D")):
        assert server.put(spelling, content=b"evil").status_code == 401
        assert server.delete(spelling).status_code == 401
    override = {"x-http-method-override": "PUT"}
    assert server.post(path, content=b"evil", headers=override).status_code == 401


@pytest.mark.parametrize("place", ["file:///etc", "/etc", "s3://bucket", "http://127.0.0.1:9/", "../../etc"])
def test_artifacts_are_kept_nowhere_else(server: httpx.Client, place: str) -> None:
    body = {"name": f"elsewhere {place}", "artifact_location": place}
    answer = server.post("/api/2.0/mlflow/experiments/create", json=body, auth=("admin", PASSWORD))
    assert answer.status_code == 400
    assert "artifacts are kept on this server" in answer.json()["message"]


def test_what_nobody_needs_is_not_there(server: httpx.Client) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    headers = {"content-encoding": "gzip", "content-type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
    for auth in (httpx.Auth(), httpx.BasicAuth("admin", PASSWORD)):
        assert server.post("/v1/traces", content=bomb, headers=headers, auth=auth).status_code == 404
        for path in (
            "/gateway/any/mlflow/invocations",
            "/ajax-api/2.0/mlflow/gateway-proxy",
            "/ajax-api/3.0/mlflow/assistant/message",
            "/ajax-api/3.0/mlflow/jobs/1",
            "/ajax-api/3.0/jobs",
        ):
            assert server.get(path, auth=auth).status_code == 404
            assert server.post(path, json={}, auth=auth).status_code == 404


def test_a_page_under_another_name_reaches_nothing(server: httpx.Client) -> None:
    for name in ("evil.example.com", "127.0.0.1.nip.io", "printer.local"):
        assert (
            server.get("/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"host": name}).status_code == 403
        )


def test_the_password_is_in_no_log_and_its_uses_are(server: httpx.Client) -> None:
    logs = Layout(Path(server.headers["state"])).logs
    server.post("/api/2.0/mlflow/experiments/create", json={"name": "noted\nline"}, auth=("admin", PASSWORD))
    line = "admin from 127.0.0.1: POST /api/2.0/mlflow/experiments/create name=noted\\nline -> "
    wait_for("the line", lambda: line in Layout(logs.parent).registry_log.read_text())
    assert "secret" not in "".join(file.read_text() for file in logs.iterdir())
