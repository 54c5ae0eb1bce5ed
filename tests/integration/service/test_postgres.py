"""The service with its store in PostgreSQL: replicas that share it, and a server that is killed under load."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tableloop.state.database import Store
from tests.integration.service.conftest import EXAMPLE, ROOT, Service, StartService, clean_environment
from tests.postgres import PASSWORD, Postgres
from tests.waiting import wait_for


@pytest.fixture
def server(new_postgres: Callable[..., Postgres]) -> Iterator[Postgres]:
    server = new_postgres()
    yield server
    server.stop()


def shows_no_password(service: Service) -> bool:
    logs = "".join(file.read_text() for file in (service.state_dir / "logs").iterdir())
    arguments = Path(f"/proc/{service.process.pid}/cmdline").read_text()
    return PASSWORD[:6] not in service.output() + logs + arguments


def test_replicas_share_predictions_labels_and_the_drift_report(
    start_service: StartService, server: Postgres
) -> None:
    url = server.new_database()
    one, other = start_service(DATABASE_URL=url), start_service(DATABASE_URL=url)
    made = [one.predict().json()["prediction_id"] for _ in range(3)]
    label = {"prediction_id": made[0], "actual_value": 2.0, "accept_unusual": True}
    assert other.client.post("/feedback", json=label).status_code == 201
    again = one.client.post("/feedback", json=label | {"actual_value": 3.0})
    assert (again.status_code, "labelled 2" in again.json()["detail"]) == (409, True)
    assert not (one.state_dir / "predictions.db").exists()
    assert one.get("/drift").status_code == 404
    checked = subprocess.run(
        [sys.executable, "-m", "monitoring.drift_check", "--retraining", "none"],
        cwd=ROOT, env=clean_environment(STATE_DIR=one.state_dir, DATABASE_URL=url),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(checked.stdout)["start"] is None
    for service in (one, other):
        report = service.get("/drift").json()
        assert (report["window"]["rows"], report["new_labels"]) == (3, 1)
    assert shows_no_password(one)


def test_a_server_that_is_killed_under_load_costs_503s_and_nothing_that_was_answered(
    start_service: StartService, server: Postgres
) -> None:
    url = server.new_database()
    service = start_service(DATABASE_URL=url)
    done = threading.Event()
    answers: list[tuple[int, str, float, str]] = []

    def ask(_: int) -> None:
        with httpx.Client(base_url=str(service.client.base_url), timeout=20) as client:
            while not done.is_set():
                began = time.monotonic()
                answer = client.post("/predict", json=EXAMPLE)
                seconds = time.monotonic() - began
                name = answer.json().get("prediction_id", "")
                answers.append((answer.status_code, name, seconds, answer.headers.get("Retry-After", "")))
                if answer.status_code != 200:
                    time.sleep(0.05)

    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(ask, number) for number in range(8)]
        try:
            wait_for("answers", lambda: len(answers) > 50)
            server.kill()
            wait_for("a word about it", lambda: service.get("/ready").status_code == 503)
            ready = service.get("/ready").json()
            assert "see that PostgreSQL runs" in ready["prediction_log"] == ready["detail"]
            assert service.get("/health").status_code == 200
            server.start()
            wait_for("the end of it", lambda: service.get("/ready").status_code == 200)
            before = len(answers)
            wait_for("answers", lambda: len(answers) > before + 50)
        finally:
            done.set()
        for future in asking:
            future.result()
    refused = [answer for answer in answers if answer[0] == 503]
    assert {answer[0] for answer in answers} == {200, 503}
    assert {retry for *_, retry in refused} == {"5"}
    assert max(seconds for _, _, seconds, _ in answers) < 4  # two on a machine that does nothing else
    stored = [row["prediction_id"] for part in Store(url).predictions_with_labels(None, None) for row in part]
    assert len(stored) == len(set(stored))
    assert {name for status, name, *_ in answers if status == 200} <= set(stored)
    assert shows_no_password(service)


def test_a_server_that_stands_still_halts_no_process_and_none_seems_to_hang(
    start_service: StartService, server: Postgres
) -> None:
    service = start_service(DATABASE_URL=server.new_database(), API_PROCESSES=2)
    wait_for("both processes", lambda: service.get("/ready").json()["processes"] == 2)
    before = psutil.Process(service.process.pid).children()
    until = time.monotonic() + 8  # a process that seems to hang is killed after some five

    def ask(path: str) -> list[float]:
        seconds = []
        while time.monotonic() < until:
            began = time.monotonic()
            assert httpx.get(f"{service.client.base_url}{path}", timeout=10).status_code == 200
            seconds.append(time.monotonic() - began)
            time.sleep(0.1)
        return seconds

    server.freeze(on=True)
    try:
        with ThreadPoolExecutor(7) as threads:
            for_store = [threads.submit(ask, path) for path in ("/metrics", "/overview") * 3]
            health = threads.submit(ask, "/health").result()
            assert all(future.result() for future in for_store)
    finally:
        server.freeze(on=False)
    assert max(health) < 1.5
    assert psutil.Process(service.process.pid).children() == before
    wait_for("the end of it", lambda: service.predict().status_code == 200)
