"""Whether a server can be the registry, as the start asks it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tableloop.credentials import basic
from tableloop.mlflow_http import UnusableServerError, check_server

LOGIN = basic("secret", "me")
Answers = dict[str, tuple[int, object]]
HERE = (200, {"experiment": {"artifact_location": "mlflow-artifacts:/1"}})
ELSEWHERE = (200, {"experiment": {"artifact_location": "s3://bucket/1"}})
NONE = (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})
FILES = (200, {"files": ["one"]})


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Return a function that starts a server with fixed answers by a part of the path, and returns its address."""
    servers = []

    def start(answers: Answers, login: str = "") -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = (answer for part, answer in answers.items() if part in self.path)
                status, answer = next(found, (404, "no such page"))
                if login and self.headers.get("Authorization") != login:
                    status, answer = 401, "who are you?"
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("own", [HERE, NONE])
def test_a_server_that_hands_artifacts_through_can_be_the_registry(serve: Callable[..., str], own: object) -> None:
    answers = {"get-by-name": own, "experiments/get": HERE, "mlflow-artifacts": FILES}
    check_server(serve(answers), "prices")
    check_server(serve(answers, LOGIN), "prices", LOGIN)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"get-by-name": ELSEWHERE}, "keeps artifacts at s3://bucket/1 .*--serve-artifacts"),
        ({"get-by-name": NONE, "experiments/get": ELSEWHERE}, "s3://bucket/1"),
        ({"get-by-name": HERE, "mlflow-artifacts": (503, {})}, "--serve-artifacts"),
        ({}, "no MLflow server .404"),
        ({"get-by-name": (200, {"some": "JSON"})}, "no MLflow server"),
    ],
)
def test_another_server_is_refused_with_the_reason(serve: Callable[..., str], answers: Answers, reason: str) -> None:
    with pytest.raises(UnusableServerError, match=reason):
        check_server(serve(answers), "prices")


def test_a_server_that_wants_a_login_names_the_variables(serve: Callable[..., str]) -> None:
    address = serve({"get-by-name": HERE, "mlflow-artifacts": FILES}, LOGIN)
    with pytest.raises(UnusableServerError, match="wants a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TR"):
        check_server(address, "prices")
    with pytest.raises(UnusableServerError, match="does not take the login") as refused:
        check_server(address, "prices", basic("wrong-secret", "me"))
    assert "wrong-secret" not in str(refused.value)


def test_no_server_is_no_answer() -> None:
    with pytest.raises(OSError, match="refused"):
        check_server("http://127.0.0.1:9", "prices")
