"""The first minutes of a user: empty volume, second start, published ports, odd users, odd values."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tableloop.settings import Settings
from tableloop.table import load_table
from tests.image.conftest import FirstStart
from tests.image.docker import HARDENED, Container, docker, moment
from tests.integration.conftest import copy_checkout

FEATURES = load_table().features

SERVICES = ("api", "mlflow", "prometheus", "grafana", "bootstrap", "drift-monitor", "appliance")


def test_ready_within_25_seconds_without_any_network_on_a_read_only_root(
    first_start: FirstStart, report: Callable[[str], None]
) -> None:
    line = next(line for line in first_start.console.splitlines() if "ready in" in line)
    report(f"first start {first_start.seconds:.1f} s: {line}")
    assert first_start.seconds <= 25
    for phase in ("prepare", "register", "mlflow", "api", "prometheus"):
        assert re.search(rf"\b{phase} \d", line)
    # What is shipped was trained when the image was built.
    assert "Stage 'train' is cached - skipping run" in first_start.console


def test_what_differs_from_the_build_is_trained(
    run: Callable[..., Container], volumes: Callable[..., str], small_params: Path
) -> None:
    changed = run([*HARDENED, "--volume", f"{volumes()}:/data", "--volume", f"{small_params}:/app/params.yaml:ro"])
    from_scratch = run([*HARDENED, "--volume", f"{volumes()}:/data", "--env", "RETRAIN_FROM_SCRATCH=1"])
    for container in (changed, from_scratch):
        container.wait_ready(120)
        assert "Running stage 'train'" in container.logs()


def test_everything_that_was_written_lies_on_the_volume(first_start: FirstStart) -> None:
    assert first_start.changes == ""


def test_every_line_names_its_service_and_none_is_an_error(first_start: FirstStart) -> None:
    lines = first_start.console.splitlines()
    assert len(lines) > 10
    strays = [line for line in lines if line.partition("|")[0].strip() not in SERVICES]
    assert strays == []
    bad = [line for line in lines if re.search(r"\b(WARN|WARNING|ERROR|CRIT|CRITICAL|Traceback)\b", line)]
    assert bad == []


def test_idle_memory_without_grafana_is_at_most_900_mb(
    first_start: FirstStart, report: Callable[[str], None]
) -> None:
    report(f"idle memory without Grafana {first_start.memory / 1e6:.0f} MB")
    assert first_start.memory <= 900e6


def test_the_image_without_grafana_is_at_most_1300_mb(image: str, report: Callable[[str], None]) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout)
    parts = {
        "Python packages": "/opt/venv",
        "Prometheus": "/usr/local/bin/prometheus",
        "Grafana": "/usr/share/grafana",
        "the appliance": "/app",
    }
    told = docker("run", "--rm", "--entrypoint", "du", image, "-sb", *parts.values()).stdout.splitlines()
    sizes = dict(zip(parts, (int(line.split()[0]) for line in told), strict=True))
    rest = size - sum(sizes.values())
    weights = ", ".join(f"{name} {of / 1e6:.0f}" for name, of in sizes.items())
    report(f"image {size / 1e6:.0f} MB: {weights}, Debian with Python and HAProxy {rest / 1e6:.0f}")
    assert size - sizes["Grafana"] <= 1.3e9


def test_a_second_start_is_quick_and_trains_nothing(
    trained: Container, first_start: FirstStart, report: Callable[[str], None]
) -> None:
    console = trained.logs()
    report(next(line for line in console.splitlines() if "ready in" in line))
    assert trained.ready_after <= 20
    assert "nothing to train" in console
    assert "Running stage" not in console
    assert trained.exec("cat", "/data/champion/current.json") == first_start.model
    assert trained.health() == (0, "healthy")


def test_runs_as_any_user_of_group_0(
    run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart
) -> None:
    assert docker("run", "--rm", "--entrypoint", "id", first_start.image, "-u").stdout.strip() == "10001"
    container = run([*HARDENED, "--user", "12345:0", "--env", "TEST_MODE=1", "--volume", f"{volumes()}:/data"])
    container.wait_ready(60)
    assert container.exec("stat", "-c", "%u:%g", "/data/predictions.db") == "12345:0"


def test_no_program_gives_rights_and_no_code_can_be_written(image: str) -> None:
    def find(*what: str) -> str:
        return docker("run", "--rm", "--user", "0", "--entrypoint", "find", image, *what).stdout

    assert find("/", "-xdev", "-type", "f", "-perm", "/6000") == ""
    assert (
        find("/app", "/opt/venv", "-not", "-type", "l", "(", "-perm", "/022", "-or", "-not", "-user", "0", ")") == ""
    )


def test_make_image_lists_what_is_in_it(image: str, tmp_path: Path) -> None:
    """As a copy, because it writes its list beside the Makefile; the layers are those of the image under test."""
    checkout = tmp_path / "checkout"
    copy_checkout(checkout)
    try:
        done = subprocess.run(
            ["make", "image"], cwd=checkout, check=False, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = {each["purl"] for each in json.loads((checkout / "tableloop.cdx.json").read_text())["components"]}
    finally:
        docker("image", "rm", "tableloop", check=False)
    inside = docker("run", "--rm", "--entrypoint", "dpkg-query", image, "--show", "libc6").stdout.split()[1]
    assert any(purl.startswith(f"pkg:deb/debian/libc6@{quote(inside)}?") for purl in found)
    for expected in ("pkg:pypi/mlflow@", "pkg:github/prometheus/prometheus@v3."):
        assert any(purl.startswith(expected) for purl in found), expected


@pytest.mark.parametrize("user", ["12345:6789", "12345:0"])
def test_a_volume_that_cannot_be_written_is_refused_in_one_line(
    run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart, user: str
) -> None:
    # Group 0 may write into a new volume, not into what another user has left in one.
    volume = volumes(first_start.volume if user.endswith(":0") else "")
    container = run([*HARDENED, "--user", user, "--volume", f"{volume}:/data"])
    assert container.wait_exit(10) == 1
    line = container.logs().strip()
    assert "\n" not in line
    for part in ("12345", "/data", "chown"):
        assert part in line


def test_odd_values_are_taken_as_they_are(
    run: Callable[..., Container], volumes: Callable[..., str], small_params: Path
) -> None:
    odd = {
        "STATE_DIR": '/data/it\'s 50% "odd" dir',
        "MODEL_NAME": 'it\'s the "best" 100% house model?',
        "MODEL_ALIAS": "In_production-2",
        "ALLOWED_HOSTS": 'a.example.com, 50%s-"b"',
        "MODEL_POLL_SECONDS": "0.5",
        "LOG_LEVEL": "info",
        "ADMIN_PASSWORD": 'it\'s 50% "odd" $HOME',
    }
    options = [part for name, value in (every_variable("") | odd).items() for part in ("--env", f"{name}={value}")]
    mount = f"{small_params}:/app/params.yaml:ro"
    container = run([*HARDENED, *options, "--volume", f"{volumes()}:/data", "--volume", mount])
    container.wait_log("ready in", 120)
    assert container.health() == (0, "healthy")
    # Another model meets the one that serves, under this name.
    small_params.write_text(small_params.read_text().replace("max_iter: 20", "max_iter: 30"))
    assert "Version 2 serves" in container.exec("make", "retrain")


def test_nothing_as_a_value_means_the_default(run: Callable[..., Container], volumes: Callable[..., str]) -> None:
    nothing = [part for name in every_variable("") for part in ("--env", f"{name}=")]
    container = run([*HARDENED, *nothing, "--env", "TEST_MODE=1", "--volume", f"{volumes()}:/data"])
    container.wait_ready(30)
    assert container.health() == (0, "healthy")
    assert "http://0.0.0.0:8000" in container.logs()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_PORT", "eight thousand"),
        ("GRAFANA_PORT", "70000"),
        ("MODEL_ALIAS", "50% 'off'"),
        ("MODEL_ALIAS", "latest"),
        ("MODEL_NAME", "a/b"),
        ("MODEL_NAME", ".."),
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
    assert (moment(state["FinishedAt"]) - moment(state["StartedAt"])).total_seconds() <= 2


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


def every_variable(value: str) -> dict[str, str]:
    return {name.upper(): value for name in Settings.model_fields}


def _example() -> dict[str, float]:
    return {column.name: column.example for column in FEATURES}
