from __future__ import annotations

import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from monitoring import health
from monitoring.health import Check, Services, UnwellError, ask, check_all, check_scheduler
from tableloop.state.layout import Layout
from tableloop.state.monitor_report import beat


@contextmanager
def server(answers: dict[str, tuple[int, object]]) -> Iterator[str]:
    """Serve fixed answers by path, without the query."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path.partition("?")[0], (404, {}))
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def services_at(url: str, test_mode: bool = False) -> Services:
    return Services(url, url, url, url, "Model", "Alias", test_mode, Path("nowhere"))


READY = (200, {"status": "ready", "model_version": "3", "source": "registry"})
ALIAS = "/api/2.0/mlflow/registered-models/alias"


def test_what_answers_rightly_is_up() -> None:
    with server({"/ready": READY, ALIAS: (200, {"model_version": {"version": "3"}})}) as url:
        checks = check_all(services_at(url))
    assert checks["api"] == health.Check(up=True, detail="model version 3, registry")
    assert checks["mlflow"] == health.Check(up=True, detail="Model@Alias is version 3")


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ((500, {}), "/ready answered 500"),
        ((503, {"status": "starting"}), "/ready answered 503"),
        ((200, "<html>"), "/ready answered no JSON"),
        ((200, {}), "an answer of another shape"),
        ((200, ["a list"]), "an answer of another shape"),
    ],
)
def test_what_answers_wrongly_is_down_and_says_how(answer: tuple[int, object], detail: str) -> None:
    with server({"/ready": answer}) as url:
        check = check_all(services_at(url))["api"]
    assert not check.up
    assert check.detail.startswith(detail)


def test_a_registry_without_a_model_is_well() -> None:
    with server({}) as url:
        check = check_all(services_at(url))["mlflow"]
    assert check == health.Check(up=True, detail="no Model@Alias yet")


def test_nobody_listening_is_down(free_port: object) -> None:
    assert callable(free_port)
    check = check_all(services_at(f"http://127.0.0.1:{free_port()}"))["api"]
    assert check == health.Check(up=False, detail="Connection refused")


def test_a_frozen_service_is_down_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT", 0.3)
    with socket.socket() as frozen:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen()
        started = time.monotonic()
        with pytest.raises(UnwellError, match="no answer in"):
            ask(f"http://127.0.0.1:{frozen.getsockname()[1]}", "/ready")
        assert time.monotonic() - started < 2


def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:1")
    with server({"/ready": READY}) as url:
        assert ask(url, "/ready")["model_version"] == "3"


def test_a_drift_monitor_without_a_heartbeat_is_down(tmp_path: Path) -> None:
    heartbeat = Layout(tmp_path).heartbeat
    assert not health.check_drift_monitor(heartbeat, interval=15).up
    beat(Layout(tmp_path))
    assert health.check_drift_monitor(heartbeat, interval=15).up
    long_ago = time.time() - 15 - health.LONGEST_LOOK - 1
    os.utime(heartbeat, (long_ago, long_ago))
    assert not health.check_drift_monitor(heartbeat, interval=15).up


def test_without_grafana_on_the_path_it_is_missing_not_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    services = services_at("http://127.0.0.1:1", test_mode=True)
    assert set(services.missing()) == {"prometheus", "grafana", "mlflow"}
    assert set(check_all(services)) == {"api"}


def test_a_server_for_the_whole_network_is_asked_on_this_machine() -> None:
    environment = {
        "BIND_ADDRESS": "0.0.0.0",
        "API_PORT": "1",
        "PROMETHEUS_PORT": "2",
        "GRAFANA_PORT": "3",
        "MLFLOW_TRACKING_URI": "http://mlflow:5002/",
        "MODEL_NAME": "Model",
        "MODEL_ALIAS": "Alias",
        "TEST_MODE": "off",
        "STATE_DIR": "/data",
    }
    assert Services.from_environment(environment).addresses() == {
        "api": "http://localhost:1",
        "mlflow": "http://mlflow:5002",
        "prometheus": "http://localhost:2",
        "grafana": "http://localhost:3",
    }


def test_a_scheduler_of_dask_that_only_listens_is_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TIMEOUT", 0.3)
    assert check_scheduler("tcp://127.0.0.1:1") == Check(up=False, detail="tcp://127.0.0.1:1: Connection refused")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert not check_scheduler(f"tcp://127.0.0.1:{mute.getsockname()[1]}").up
