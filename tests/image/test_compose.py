"""compose.yaml as it stands, with three copies of the service."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from tableloop.table import load_table
from tests.image.conftest import ROOT
from tests.image.docker import DOCKER, docker, moment

FEATURES = load_table().features

COPIES = 3
HEALTHY = ("mlflow", "api", "front", "prometheus", "drift-monitor")
PASSWORD = 'it\'s 50% "odd" $HOME'
ROW = {column.name: column.example for column in FEATURES}


@dataclass
class Project:
    """One start of compose.yaml on ports of its own."""

    image: str
    name: str = field(default_factory=lambda: f"tableloop-test-{uuid.uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        plugin = docker("compose", "version", check=False).returncode == 0
        self._command = [DOCKER, "compose"] if plugin else ["docker-compose"]
        names = ("API_PORT", "MLFLOW_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))

    def compose(self, *arguments: str) -> str:
        environment = {name: str(port) for name, port in self.ports.items()}
        environment |= {"IMAGE": self.image, "ADMIN_PASSWORD": PASSWORD, "MODEL_POLL_SECONDS": "1"}
        done = subprocess.run(
            [*self._command, "--project-name", self.name, *arguments],
            cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def url(self, port: str) -> str:
        return f"http://127.0.0.1:{self.ports[port]}"

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--all", "--quiet", service).split()

    def inspect(self, service: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", *self.containers(service)).stdout)
        return found

    def wait_healthy(self, service: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while any(one["State"]["Health"]["Status"] != "healthy" for one in self.inspect(service)):
            assert time.monotonic() < deadline, self.compose("logs", service)
            time.sleep(0.5)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def project(image: str) -> Iterator[Project]:
    """Everything, from an empty volume; Compose waits for what each part depends on."""
    project = Project(image)
    try:
        project.compose("up", "--detach", "--scale", f"api={COPIES}")
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "10")


def test_every_part_becomes_healthy_in_its_order(project: Project) -> None:
    for service in HEALTHY:
        project.wait_healthy(service, 120)
    assert len(project.containers("api")) == COPIES
    state = {service: project.inspect(service)[0]["State"] for service in (*HEALTHY, "prepare", "trainer")}
    for earlier, later in (("prepare", "mlflow"), ("trainer", "api")):
        assert state[earlier]["ExitCode"] == 0
        assert moment(state[earlier]["FinishedAt"]) <= moment(state[later]["StartedAt"])
    for earlier, later in (("mlflow", "trainer"), ("api", "front"), ("api", "prometheus"), ("api", "drift-monitor")):
        assert moment(state[earlier]["StartedAt"]) < moment(state[later]["StartedAt"])


def test_a_grafana_that_is_not_in_the_image_says_so_once(project: Project) -> None:
    (grafana,) = project.inspect("grafana")
    assert not [value for value in grafana["Config"]["Env"] if PASSWORD in value]
    if docker("run", "--rm", "--entrypoint", "which", project.image, "grafana", check=False).returncode == 0:
        project.wait_healthy("grafana", 60)
        who = httpx.get(f"{project.url('GRAFANA_PORT')}/api/user", auth=("admin", PASSWORD))
        assert who.json()["login"] == "admin"
        return
    assert (grafana["State"]["Running"], grafana["State"]["ExitCode"], grafana["RestartCount"]) == (False, 0, 0)
    assert "Grafana is not here" in project.compose("logs", "grafana")


def test_all_copies_answer_swap_to_a_promoted_version_and_write_one_log(project: Project) -> None:
    answers: list[dict[str, Any]] = []
    wrong: list[str] = []
    done = threading.Event()

    def keep_asking() -> None:
        with httpx.Client(base_url=project.url("API_PORT"), timeout=10) as client:
            while not done.is_set():
                answer = client.post("/predict", json=ROW)
                if answer.status_code == HTTPStatus.OK:
                    answers.append(answer.json())
                else:
                    wrong.append(answer.text)
                time.sleep(0.02)

    asking = [threading.Thread(target=keep_asking) for _ in range(COPIES)]
    for thread in asking:
        thread.start()
    try:
        promote_again(project.url("MLFLOW_PORT"))
        deadline = time.monotonic() + 60
        while served(project) != {"2": COPIES}:
            assert time.monotonic() < deadline, served(project)
            time.sleep(0.5)
    finally:
        done.set()
        for thread in asking:
            thread.join()
    assert wrong == []
    assert {answer["model_version"] for answer in answers} == {"1", "2"}
    ids = [answer["prediction_id"] for answer in answers]
    assert len(set(ids)) == len(ids) > COPIES
    query = (
        "import sqlite3\n"
        "rows = sqlite3.connect('/data/predictions.db').execute('SELECT prediction_id FROM predictions')\n"
        "print(*(row[0] for row in rows))"
    )
    (first, *others) = project.containers("api")
    logged = docker("exec", first, "python", "-c", query).stdout.split()
    assert sorted(logged) == sorted(ids)
    own = [
        asked(container, "/metrics").count('\npredictions_total{model_version="2"}') for container in (first, *others)
    ]
    assert own == [1] * COPIES
    assert docker("exec", first, "ls", "/data/champion").stdout.split() == ["current.json", "v2"]


def test_prometheus_sees_every_copy(project: Project) -> None:
    deadline = time.monotonic() + 60
    while True:
        targets = httpx.get(f"{project.url('PROMETHEUS_PORT')}/api/v1/targets").json()["data"]["activeTargets"]
        up = {one["labels"]["instance"] for one in targets if one["labels"]["job"] == "api" and one["health"] == "up"}
        if len(up) == COPIES:
            return
        assert time.monotonic() < deadline, targets
        time.sleep(0.5)


def test_the_drift_monitor_reports_for_all_of_them(project: Project) -> None:
    report = httpx.get(f"{project.url('API_PORT')}/drift").json()
    assert report["status"] in {"not enough data", "no drift", "drift"}


def test_the_commands_work_beside_the_services(project: Project) -> None:
    assert re.search("Version . serves", project.compose("exec", "-T", "api", "make", "retrain"))


def test_a_copy_that_is_killed_is_not_missed(project: Project) -> None:
    (killed, *_) = project.containers("api")
    docker("kill", killed)
    with httpx.Client(base_url=project.url("API_PORT")) as client:
        for _ in range(10 * COPIES):
            assert client.post("/predict", json=ROW).status_code == HTTPStatus.OK
    docker("start", killed)
    project.wait_healthy("api", 120)


def test_everything_stops_within_the_time_that_docker_gives(project: Project) -> None:
    project.compose("stop")
    codes = {service: project.inspect(service)[0]["State"]["ExitCode"] for service in HEALTHY}
    assert 137 not in codes.values(), codes  # killed


def promote_again(mlflow: str) -> None:
    """Register the files of version 1 as version 2, and give it the alias."""
    with httpx.Client(base_url=f"{mlflow}/api/2.0/mlflow", timeout=30, auth=("admin", PASSWORD)) as client:
        model = {"name": "HousePriceModel"}
        serving = client.get("/registered-models/alias", params=model | {"alias": "Production"}).json()[
            "model_version"
        ]
        source = serving["source"]
        origin = {"source": source, "model_id": source.removeprefix("models:/"), "run_id": serving["run_id"]}
        created = client.post("/model-versions/create", json=model | origin)
        assert created.status_code == HTTPStatus.OK, created.text
        made = created.json()["model_version"]
        alias = model | {"alias": "Production", "version": made["version"]}
        client.post("/registered-models/alias", json=alias).raise_for_status()


def served(project: Project) -> dict[str, int]:
    """Return how many copies serve each version."""
    versions = [json.loads(asked(one, "/ready"))["model_version"] for one in project.containers("api")]
    return {version: versions.count(version) for version in versions}


def asked(container: str, path: str) -> str:
    """Return what one copy answers."""
    ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000{path}').read().decode())"
    return docker("exec", container, "python", "-c", ask).stdout
