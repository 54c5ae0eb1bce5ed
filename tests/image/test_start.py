"""The first minutes of a user: empty volume, second start, published ports, odd users, odd values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httpx
import pytest

from app.settings import Settings
from pipeline.schema import FEATURES
from tests.image.conftest import FirstStart
from tests.image.docker import HARDENED, Container, docker

SERVICES = ("api", "mlflow", "prometheus", "grafana", "bootstrap", "drift-monitor", "appliance")


def test_ready_within_a_minute_without_any_network_on_a_read_only_root(first_start: FirstStart) -> None:
    print_line = next(line for line in first_start.console.splitlines() if "ready in" in line)
    assert first_start.seconds <= 60, print_line
    for phase in ("prepare", "preprocess", "train", "register", "mlflow", "api", "prometheus"):
        assert re.search(rf"\b{phase} \d", print_line)


def test_everything_that_was_written_lies_on_the_volume(first_start: FirstStart) -> None:
    assert first_start.changes == ""


def test_every_line_names_its_service_and_none_is_an_error(first_start: FirstStart) -> None:
    lines = first_start.console.splitlines()
    assert len(lines) > 10
    strays = [line for line in lines if line.partition("|")[0].strip() not in SERVICES]
    assert strays == []
    bad = [line for line in lines if re.search(r"\b(ERROR|CRITICAL|CRIT|Traceback)\b", line)]
    assert bad == []


def test_idle_memory_without_grafana_is_at_most_900_mb(first_start: FirstStart) -> None:
    assert first_start.memory <= 900e6, f"{first_start.memory / 1e6:.0f} MB"


def test_the_image_without_grafana_is_at_most_1300_mb(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout)
    grafana = int(docker("run", "--rm", "--entrypoint", "du", image, "-sb", "/usr/share/grafana").stdout.split()[0])
    with capsys.disabled():
        report = f"image {size / 1e6:.0f} MB, of which Grafana {grafana / 1e6:.0f} MB"
        _say(report)
    assert size - grafana <= 1.3e9


def test_a_second_start_is_quick_and_trains_nothing(trained: Container, first_start: FirstStart) -> None:
    seconds = trained.wait_ready(20)
    _say(f"second start: {seconds:.1f} s")
    console = trained.logs()
    assert "nothing to train" in console
    assert "Running stage" not in console
    assert trained.exec("cat", "/data/champion/current.json") == first_start.model
    assert trained.health() == (0, "healthy")


def test_the_published_addresses_answer_under_localhost_an_address_and_a_name(
    run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart
) -> None:
    ports = [part for port in (8000, 5002, 9090) for part in ("--publish", f"127.0.0.1::{port}")]
    container = run([*ports, "--volume", f"{volumes(first_start.volume)}:/data"])
    container.wait_ready(60)

    def address(port: int) -> str:
        return docker("port", container.name, str(port)).stdout.split()[0]

    features = {column.name: column.example for column in FEATURES}
    base = f"http://{address(8000)}"
    for path in ("/", "/docs", "/health", "/ready", "/model", "/metrics"):
        assert httpx.get(base + path).status_code == HTTPStatus.OK
    answer = httpx.post(f"{base}/predict", json=features).json()
    assert answer["model_version"] == "1"
    assert httpx.get(f"http://{address(9090)}/-/ready").status_code == HTTPStatus.OK

    port = address(5002).rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"192.0.2.7:{port}", f"my-laptop:{port}", "box.local"):
        own = {"host": host, "origin": f"http://{host}"}
        page = httpx.get(f"http://127.0.0.1:{port}/", headers=own)
        assert page.status_code == HTTPStatus.OK
        assert "MLflow" in page.text
        search = httpx.post(
            f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/runs/search", headers=own, json={"experiment_ids": ["1"]}
        )
        assert len(search.json()["runs"]) == len(_candidates(container))
    foreign = {"host": f"localhost:{port}", "origin": "http://evil.example.com"}
    refused = httpx.post(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/create", headers=foreign, json={"name": "stolen"}
    )
    assert refused.status_code == HTTPStatus.FORBIDDEN


def test_runs_as_any_user_of_group_0(
    run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart
) -> None:
    assert _user(first_start) == "10001"
    container = run([*HARDENED, "--user", "12345:0", "--env", "TEST_MODE=1", "--volume", f"{volumes()}:/data"])
    container.wait_ready(60)
    assert container.exec("stat", "-c", "%u:%g", "/data/predictions.db") == "12345:0"


def test_a_volume_that_cannot_be_written_is_refused_in_one_line(
    run: Callable[..., Container], volumes: Callable[..., str]
) -> None:
    container = run([*HARDENED, "--user", "12345:6789", "--volume", f"{volumes()}:/data"])
    assert container.wait_exit(10) == 1
    line = container.logs().strip()
    assert "\n" not in line
    for part in ("12345", "/data", "chown"):
        assert part in line


def test_odd_values_are_taken_as_they_are(run: Callable[..., Container], volumes: Callable[..., str]) -> None:
    odd = {
        "STATE_DIR": '/data/it\'s 50% "odd" dir',
        "MODEL_NAME": "the best 100% house model",
        "MODEL_ALIAS": "In_production-2",
        "ALLOWED_HOSTS": "a.example.com, '%s' \"b\"",
        "MODEL_POLL_SECONDS": "0.5",
        "LOG_LEVEL": "info",
        "PREDICTION_LOG": "off",
    }
    environment = odd | {name.upper(): "" for name in Settings.model_fields if name.upper() not in odd}
    # The container's own default, not part of what a user sets.
    environment["BIND_ADDRESS"] = "0.0.0.0"
    options = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    container = run([*HARDENED, *options, "--volume", f"{volumes()}:/data"])
    container.wait_log("ready in", 120)
    assert container.health() == (0, "healthy")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_PORT", "eight thousand"),
        ("GRAFANA_PORT", "70000"),
        ("MODEL_ALIAS", "50% 'off'"),
        ("MODEL_NAME", "a/b"),
        ("LOG_LEVEL", "loud"),
        ("TEST_MODE", "perhaps"),
        ("MODEL_POLL_SECONDS", "-1"),
        ("BIND_ADDRESS", "everywhere"),
        ("MLFLOW_TRACKING_URI", "the server"),
    ],
)
def test_an_invalid_value_is_refused_at_once_with_its_name(
    run: Callable[..., Container], name: str, value: str
) -> None:
    container = run(["--env", f"{name}={value}", "--env", "MY_TOKEN=s3cr3t", *HARDENED])
    assert container.wait_exit(10) != 0
    state = container.state()
    console = container.logs()
    assert name in console
    assert value.lower() in console.lower()
    assert "s3cr3t" not in console
    assert _seconds(state) <= 2


def test_test_mode_needs_neither_training_nor_monitoring(image: str, run: Callable[..., Container]) -> None:
    docker("build", "--target", "ci", "--tag", f"{image}-ci", ".")
    container = Container(f"{image}-ci", [*HARDENED, "--env", "TEST_MODE=1", "--tmpfs", "/data:mode=777"])
    try:
        assert container.wait_ready(30) < 30
        script = (
            "import json, urllib.request as u\n"
            f"r = u.Request('http://127.0.0.1:8000/predict', {json.dumps(_example()).encode()!r}, "
            "{'content-type': 'application/json'})\n"
            "print(u.urlopen(r).read().decode())"
        )
        assert json.loads(container.exec("python", "-c", script))["model_version"] == "dummy"
        assert docker("exec", container.name, "which", "prometheus", check=False).stdout == ""
    finally:
        container.remove()


def _example() -> dict[str, float]:
    return {column.name: column.example for column in FEATURES}


def _candidates(container: Container) -> list[str]:
    return container.exec("sh", "-c", "ls /data/workspace/models").split()


def _user(first_start: FirstStart) -> str:
    return docker("run", "--rm", "--entrypoint", "id", "house-prices:test", "-u").stdout.strip()


def _seconds(state: dict[str, Any]) -> float:
    from datetime import datetime

    def parsed(text: str) -> datetime:
        return datetime.fromisoformat(re.sub(r"\.(\d{6})\d*", r".\1", text))

    return (parsed(state["FinishedAt"]) - parsed(state["StartedAt"])).total_seconds()


def _say(text: str) -> None:
    import sys

    sys.stdout.write(f"\n{text}\n")
