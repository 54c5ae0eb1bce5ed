"""What of the caller's environment our processes see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tableloop import environment
from tableloop.settings import Settings
from tableloop.state.layout import Layout
from tests.documents import ROOT


def seen(given: dict[str, str], **settings: object) -> dict[str, str]:
    """Return what a process sees that is started with these variables."""
    changed = environment.changes(given, Settings.model_validate(settings))
    return {name: value for name, value in (given | changed).items() if value is not None}


@pytest.mark.parametrize(
    "name",
    [
        "PYTHONPATH",
        "PYTHONOPTIMIZE",
        "MLFLOW_REGISTRY_URI",
        "MLFLOW_RUN_ID",
        "MLFLOW_TRACKING_TOKEN",
        "_MLFLOW_SERVER_FILE_STORE",
        "DVC_ROOT",
        "GF_DATABASE_URL",
        "PROMETHEUS_MULTIPROC_DIR",
        "WEB_CONCURRENCY",
        "GIT_DIR",
        "BASH_ENV",
        "RETRAIN_FORCED",
        "PREPARED",
    ],
)
def test_what_was_meant_for_other_programs_is_dropped(name: str) -> None:
    assert name not in seen({name: "x"})


@pytest.mark.parametrize("name", ["PATH", "HOME", "SSL_CERT_FILE", "HTTPS_PROXY", "AWS_PROFILE", "PROMETHEUS_URL"])
def test_the_rest_is_kept(name: str) -> None:
    assert seen({name: "x"})[name] == "x"


def test_an_endpoint_of_s3_is_known_to_every_client_and_gets_no_checksums_that_it_may_refuse() -> None:
    given = {"AWS_ENDPOINT_URL": "http://storage.example:9000", "AWS_REGION": "eu-west-1"}
    found = seen(given)
    assert found["MLFLOW_S3_ENDPOINT_URL"] == given["AWS_ENDPOINT_URL"]
    assert found["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert {found[name] for name in environment.CHECKSUMS} == {"when_required"}
    own = given | dict.fromkeys(environment.CHECKSUMS, "when_supported") | {"AWS_DEFAULT_REGION": "us-east-2"}
    assert seen(own).items() >= own.items()
    assert seen(given | {"AWS_ENDPOINT_URL_S3": "http://s3.example"})["MLFLOW_S3_ENDPOINT_URL"] == "http://s3.example"
    assert not [name for name in seen({"AWS_ACCESS_KEY_ID": "x"}) if name.startswith(("AWS_R", "AWS_D", "MLFLOW_S3"))]


def test_a_login_that_was_meant_for_another_registry_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow's client sets it in its own process
    given = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "secret"}
    login = {name.lower(): value for name, value in given.items()}
    assert seen(given, **login)["MLFLOW_TRACKING_PASSWORD"] == ""
    kept = seen(given, **login, mlflow_tracking_uri="http://mlflow.example")
    assert kept["MLFLOW_TRACKING_PASSWORD"] == "secret"


def test_no_proxy_is_between_our_programs() -> None:
    given = {"no_proxy": "a.example, b.example", "API_HOST": "api", "PROMETHEUS_URL": "http://prometheus:9090"}
    own = seen(given, bind_address="::1", mlflow_host="mlflow", mlflow_tracking_uri="http://c.example:5000")
    hosts = own["NO_PROXY"].split(",")
    assert own["no_proxy"] == own["NO_PROXY"]
    wanted = {"localhost", "127.0.0.1", "::1", "mlflow", "api", "prometheus", "a.example", "b.example", "c.example"}
    assert set(hosts) == wanted
    assert seen({"NO_PROXY": "*"})["no_proxy"] == "*"


def test_lines_for_the_shell_hold_whatever_is_in_a_value(tmp_path: Path) -> None:
    name = "a 'quote' $HOME `x` \\ ünï"
    script = 'eval "$("$0" -E -m tableloop.environment)"; printf %s "$MODEL_NAME"; printf %s "${PYTHONPATH-unset}"'
    printed = subprocess.run(
        ["bash", "-c", script, sys.executable],
        cwd=ROOT,
        env=os.environ | {"MODEL_NAME": name, "STATE_DIR": str(tmp_path), "PYTHONPATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == f"{name}unset"


def test_root_leaves_no_files_in_the_state_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    retrain = ["python", "-m", "appliance.control", "retrain", "--reason", ""]
    assert environment.refusal(retrain, tmp_path) is None
    Layout(tmp_path).marker.touch()
    if Layout(tmp_path).marker.stat().st_uid == 0:
        assert environment.refusal(retrain, tmp_path) is None
        os.chown(Layout(tmp_path).marker, 12345, -1)
    owner = Layout(tmp_path).marker.stat().st_uid
    assert f"sudo -u '#{owner}'" in str(environment.refusal(retrain, tmp_path))
    assert "belongs to uid" in str(environment.refusal([], tmp_path))
    assert environment.refusal(["python", "-m", "appliance.control", "down"], tmp_path) is None


def test_a_python_without_the_packages_says_so_in_one_line(tmp_path: Path) -> None:
    bare = subprocess.run(
        [sys.executable, "-ES", "-m", "tableloop.environment"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = bare.stderr.splitlines()
    assert bare.returncode
    assert "run make setup" in line
