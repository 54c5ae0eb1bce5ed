"""The README's Docker commands, as they stand, and what answers after them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from tests.image.conftest import LONGEST_START, ROOT
from tests.image.docker import DOCKER, Container, docker

BLOCKS: list[str] = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def started() -> Iterator[Container]:
    """The container of the block with `docker run`; at the end the block that removes everything is run too."""
    for kind in ("container", "volume"):
        if exists(kind):
            pytest.fail(f"there is a {kind} tableloop already, and the README's commands would remove it")
    container = Container.named("tableloop")
    try:
        shell(block("docker run"))
        container.wait_ready(LONGEST_START)
        yield container
    finally:
        shell(block("docker rm"))
    assert not any(exists(kind) for kind in ("container", "volume", "image"))


def test_the_question_of_the_readme_is_answered(started: Container) -> None:
    answer = json.loads(shell(block("curl")))
    assert answer["model_version"] == "1"
    assert started.exec("make", "status")


@pytest.mark.usefixtures("started")
def test_the_published_addresses_answer() -> None:
    for path in ("/", "/docs", "/health", "/ready", "/model", "/metrics"):
        assert httpx.get(f"http://localhost:8000{path}").status_code == HTTPStatus.OK
    assert httpx.get("http://localhost:9090/-/ready").status_code == HTTPStatus.OK


def test_mlflow_answers_under_localhost_an_address_and_a_name(started: Container) -> None:
    runs = len(started.exec("sh", "-c", "ls /data/workspace/models").split())
    for host in ("localhost:5002", "127.0.0.1:5002", "192.0.2.7:5002", "my-laptop:5002", "box.internal"):
        own = {"host": host, "origin": f"http://{host}"}
        page = httpx.get("http://127.0.0.1:5002/", headers=own)
        assert page.status_code == HTTPStatus.OK
        assert "MLflow" in page.text
        search = httpx.post(
            "http://127.0.0.1:5002/ajax-api/2.0/mlflow/runs/search", headers=own, json={"experiment_ids": ["1"]}
        )
        assert len(search.json()["runs"]) == runs
    foreign = {"host": "localhost:5002", "origin": "http://evil.example.com"}
    refused = httpx.post(
        "http://127.0.0.1:5002/api/2.0/mlflow/experiments/create", headers=foreign, json={"name": "stolen"}
    )
    assert refused.status_code == HTTPStatus.FORBIDDEN


def exists(kind: str) -> bool:
    return docker(kind, "inspect", "tableloop", check=False).returncode == 0


def block(words: str) -> str:
    """Return the first block of commands that has these words."""
    return next(text for text in BLOCKS if words in text)


def shell(commands: str) -> str:
    """Run a block and return what it printed."""
    prepare = f"export DOCKER_BUILDKIT=1 PATH={Path(DOCKER).parent}:$PATH"
    done = subprocess.run(
        ["bash", "-euc", f"{prepare}\n{commands}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
