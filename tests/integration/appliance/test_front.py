"""The one address of all copies of the service: what it is answering when it is told to stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import ROOT
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="NOT RUN: there is no haproxy on PATH")


class Copy(BaseHTTPRequestHandler):
    """A copy of the service that is asked something hard."""

    asked, answer = threading.Event(), threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.asked.set()
            self.answer.wait(30)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@pytest.fixture
def copy() -> Iterator[int]:
    """Return the port of a copy."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Copy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_front_that_is_told_to_stop_answers_what_it_has_begun(
    copy: int, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port = free_port()
    own = {"STATE_DIR": str(tmp_path / "state"), "API_PORT": str(port), "API_HOST": f"127.0.0.1:{copy}"}
    own |= {"ARTIFACTS_URI": "s3://bucket", "BIND_ADDRESS": "127.0.0.1"}  # as in a cluster
    inherited = {name: value for name, value in os.environ.items() if name != "APPLIANCE_ROOT"}
    front = subprocess.Popen([ROOT / "entrypoint.sh", "front"], env=inherited | own)
    answers: list[int] = []
    try:
        wait_for("the front", lambda: httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200)
        slow = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{port}/slow").status_code))
        slow.start()
        assert Copy.asked.wait(20)
        front.terminate()
        wait_for("the end of new ones", lambda: not takes_connections(port))
        assert front.poll() is None
        Copy.answer.set()
        slow.join(20)
        assert answers == [200]
        assert front.wait(20) == 0
    finally:
        Copy.answer.set()
        if front.poll() is None:
            front.terminate()
            front.wait(30)


def takes_connections(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/health")
    except httpx.ConnectError:
        return False
    return True
