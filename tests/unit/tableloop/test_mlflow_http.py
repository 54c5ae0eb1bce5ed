"""What is asked of an MLflow server: whether it can be the registry, and what it knows of versions."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tableloop.credentials import basic
from tableloop.mlflow_http import UnusableServerError, check_server, find_aliases, run_metrics, search_versions

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


def test_versions_of_other_models_with_names_that_are_alike_are_passed_over(serve: Callable[..., str]) -> None:
    ours, other = {"name": "it's", "version": "1"}, {"name": "it_s", "version": "2"}
    pages: Answers = {
        "page_token=more": (200, {"model_versions": [ours]}),
        "filter=name+LIKE+%27it_s%27": (200, {"model_versions": [other], "next_page_token": "more"}),
        "filter=name+%3D+%27it_s%27": (200, {"model_versions": [other]}),
    }
    address = serve(pages)
    assert search_versions(address, "it's", 5) == [ours]
    assert search_versions(address, "it_s", 5) == [other]


def test_a_search_that_never_ends_is_ended(serve: Callable[..., str]) -> None:
    endless = {"model_versions": [], "next_page_token": "more"}
    assert search_versions(serve({"search": (200, endless)}), "prices", 5) == []


def test_without_the_model_or_the_run_there_is_nothing(serve: Callable[..., str]) -> None:
    address = serve({"registered-models/get": NONE, "runs/get": NONE, "search": (200, {})})
    assert find_aliases(address, "prices") == {}
    assert run_metrics(address, "run") == {}
    assert search_versions(address, "prices", 5) == []


def test_a_version_may_have_several_aliases(serve: Callable[..., str]) -> None:
    aliases = [{"alias": "Production", "version": "2"}, {"alias": "Best", "version": 2}]
    address = serve({"registered-models/get": (200, {"registered_model": {"aliases": aliases}})})
    assert find_aliases(address, "prices") == {"2": ["Production", "Best"]}
