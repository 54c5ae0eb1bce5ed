"""A web page that would read the metrics, or hold Prometheus busy."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from monitoring.prometheus_front import MOST_CONNECTIONS
from tests.waiting import free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A real Prometheus behind its front."""

    address: str
    port: int
    process: subprocess.Popen[bytes]


@contextmanager
def started(state: Path) -> Iterator[Running]:
    (state / "run").mkdir()
    port = free_port()
    variables = {"STATE_DIR": str(state), "PROMETHEUS_PORT": str(port), "BIND_ADDRESS": "127.0.0.1"}
    process = subprocess.Popen([ROOT / "entrypoint.sh", "prometheus"], env=os.environ | variables, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"

    try:
        wait_for("Prometheus", lambda: httpx.get(f"{address}/-/ready").status_code == httpx.codes.OK, 30)
        yield Running(address, port, process)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("prometheus")) as running:
        yield running


@pytest.mark.parametrize("host", ["rebound.example.org", "printer.local", "127.0.0.1.nip.io"])
def test_a_foreign_name_reads_nothing(prometheus: Running, host: str) -> None:
    answer = httpx.get(f"{prometheus.address}/api/v1/query?query=up", headers={"host": f"{host}:{prometheus.port}"})
    assert answer.status_code == httpx.codes.FORBIDDEN
    assert host in answer.text
    assert "ALLOWED_HOSTS" in answer.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "192.0.2.7", "my-laptop"])
def test_names_of_ours_read(prometheus: Running, host: str) -> None:
    answer = httpx.get(f"{prometheus.address}/api/v1/query?query=up", headers={"host": f"{host}:{prometheus.port}"})
    assert answer.json()["status"] == "success"


def test_a_page_of_another_server_reads_nothing(prometheus: Running) -> None:
    headers = {"origin": "https://evil.example.org"}
    answer = httpx.get(f"{prometheus.address}/api/v1/query?query=up", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    answer = httpx.post(f"{prometheus.address}/api/v1/query", data={"query": "up"}, headers=headers)
    assert answer.status_code == httpx.codes.FORBIDDEN


def test_prometheus_itself_listens_where_no_page_looks(prometheus: Running) -> None:
    (child,) = psutil.Process(prometheus.process.pid).children()
    (hidden,) = [at.laddr for at in child.net_connections("tcp") if at.status == psutil.CONN_LISTEN]
    assert hidden.ip.startswith("127.")
    assert not hidden.ip.startswith("127.0.0.")


def test_connections_that_say_nothing_keep_nobody_of_this_machine_out(prometheus: Running) -> None:
    silent = [socket.create_connection(("127.0.0.1", prometheus.port)) for _ in range(MOST_CONNECTIONS + 50)]
    try:
        assert httpx.get(f"{prometheus.address}/-/healthy", timeout=5).status_code == httpx.codes.OK
    finally:
        for connection in silent:
            connection.close()


def test_neither_outlives_the_other(tmp_path: Path) -> None:
    with started(tmp_path) as running:
        (child,) = psutil.Process(running.process.pid).children()
        running.process.kill()
        child.wait(10)
    (tmp_path / "again").mkdir()
    with started(tmp_path / "again") as running:
        (child,) = psutil.Process(running.process.pid).children()
        child.kill()
        assert running.process.wait(10) != 0
