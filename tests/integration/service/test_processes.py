"""Several processes behind one port: killed, halted and stopped ones, and what all of them say together."""

from __future__ import annotations

import json
import signal
import socket
import time
from functools import partial
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.integration.service.conftest import EXAMPLE, Load, Registry, Service, StartService, store_at
from tests.integration.service.test_process import read_to_the_end
from tests.waiting import wait_for

COUNT = 3


def children(service: Service) -> list[psutil.Process]:
    return list(psutil.Process(service.process.pid).children())


def fresh(service: Service, path: str) -> httpx.Response:
    """Ask over a connection of its own, which any process may take."""
    with httpx.Client(base_url=service.client.base_url, headers=service.client.headers, timeout=10) as client:
        return client.get(path)


def wait_for_all(service: Service) -> None:
    wait_for("all processes", lambda: fresh(service, "/ready").json()["processes"] == COUNT)


def metric(service: Service, name: str) -> float:
    """Return the sum of a metric over its labels, as whichever process is asked says it."""
    lines = fresh(service, "/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


@pytest.fixture
def service(start_service: StartService) -> Service:
    service = start_service(API_PROCESSES=COUNT)
    wait_for_all(service)
    return service


@pytest.fixture
def service_of_each_store(start_service: StartService, place: Path | str) -> Service:
    service = start_service(API_PROCESSES=COUNT, **store_at(place))
    wait_for_all(service)
    return service


def test_a_killed_process_loses_what_it_was_answering_and_nothing_else(
    service_of_each_store: Service,
) -> None:
    service = service_of_each_store
    threads = 8
    with Load(service.port, threads) as load:
        for number in range(COUNT):
            enough = len(load.answers) + 200
            wait_for("answers", partial(more_than, load, enough))
            children(service)[number].kill()
        wait_for_all(service)
    assert {status for status, _ in load.answers} == {200}
    assert load.lost <= COUNT * threads  # each connection had one request at a time
    answered = {answer["prediction_id"] for _, answer in load.answers}
    logged = [row["prediction_id"] for row in service.log_rows("SELECT prediction_id FROM predictions")]
    assert len(set(logged)) == len(logged)
    assert answered <= set(logged)
    assert len(logged) <= len(answered) + load.lost
    for name in ("predictions_total", "predicted_house_value_count"):
        assert len(answered) <= metric(service, name) <= len(answered) + load.lost
    assert service.output().count("was ended by SIGKILL and is started again") == COUNT


def test_what_is_counted_is_the_sum_over_the_processes_whichever_is_asked(service: Service) -> None:
    with Load(service.port) as load:
        wait_for("answers", lambda: len(load.answers) > 500)
    assert load.lost == 0
    total = len(load.answers)
    asked = metric(service, "http_requests_total")
    for _ in range(10):
        assert metric(service, "predictions_total") == metric(service, "predicted_house_value_count") == total
        assert fresh(service, "/overview").json()["live"]["per_minute"][-1] == total
        asked += 4
        assert metric(service, "http_request_duration_highr_seconds_count") == asked
    assert metric(service, "process_open_fds") >= (COUNT + 1) * 5
    started = psutil.Process(service.process.pid).create_time()
    assert metric(service, "process_start_time_seconds") == pytest.approx(started, abs=2)
    seen = {process.pid: sum(process.cpu_times()[:2]) for process in children(service)}
    assert len(seen) == COUNT
    assert len([used for used in seen.values() if used > 0.05]) > 1, seen
    wait_for("the lines", lambda: len(service.request_lines()) >= total)
    assert all(json.loads(line)["route"] for line in service.request_lines())


def test_labels_that_one_process_takes_are_known_to_all(service_of_each_store: Service) -> None:
    service = service_of_each_store
    ids = [service.predict(Population=float(number)).json()["prediction_id"] for number in range(1, 21)]
    labels = [{"prediction_id": name, "actual_value": 4.0} for name in ids]
    assert service.client.post("/feedback", json=labels[:10]).json()["stored"] == 10
    for label in labels[10:]:
        with httpx.Client(base_url=service.client.base_url, headers=service.client.headers) as client:
            assert client.post("/feedback", json=label).status_code == 201
            assert client.post("/feedback", json=label).status_code == 409
    for _ in range(10):
        assert metric(service, "live_labels") == metric(service, "feedback_total") == 20
        assert fresh(service, "/overview").json()["live"]["labels"] == 20


def test_all_processes_swap_after_a_promotion_and_a_new_one_begins_with_its_model(
    registry: Registry, start_service: StartService
) -> None:
    # Each loads the version in a process of its own, which takes its time on a busy machine.
    service = start_service(API_PROCESSES=COUNT, MLFLOW_TRACKING_URI=registry.uri, ready=False)
    wait_for("a model in all", lambda: fresh(service, "/ready").status_code == 200, 90)
    wait_for_all(service)
    before = fresh(service, "/ready").json()["model_version"]
    promoted = registry.publish()
    with Load(service.port, threads=4) as load:
        registry.promote(promoted)
        wait_for("all swaps", lambda: service.output().count(f"serving version {promoted} ") == COUNT, 90)
        assert {fresh(service, "/ready").json()["model_version"] for _ in range(20)} == {promoted}
        children(service)[0].kill()
        wait_for("its end", lambda: "was ended by SIGKILL" in service.output())
        wait_for("the new one", lambda: fresh(service, "/ready").json()["processes"] == COUNT, 90)
    assert {status for status, _ in load.answers} == {200}
    assert {answer["model_version"] for _, answer in load.answers} == {before, promoted}
    events = service.log_rows("SELECT version FROM serving WHERE event = 'serves'")
    assert [row["version"] for row in events] == [before, promoted]


def test_a_process_that_hangs_is_replaced_and_the_others_answer_meanwhile(service: Service) -> None:
    hung = children(service)[1]
    with Load(service.port, threads=4) as load:
        wait_for("answers", lambda: len(load.answers) > 50)
        hung.suspend()
        wait_for("its end", lambda: not hung.is_running(), 30)
        wait_for_all(service)
    assert {status for status, _ in load.answers} == {200}
    assert load.lost <= 4
    assert "process 2 of the service hangs and is killed" in service.output()
    assert len(children(service)) == COUNT


def test_a_halt_of_all_of_them_kills_none(service: Service) -> None:
    before = children(service)
    for process in (psutil.Process(service.process.pid), *before):
        process.suspend()
    time.sleep(8)
    for process in (*before, psutil.Process(service.process.pid)):
        process.resume()
    time.sleep(2)
    assert children(service) == before
    assert service.predict().status_code == 200


def test_a_stop_of_the_parent_answers_what_is_in_flight_in_all_of_them(service: Service) -> None:
    body = json.dumps([EXAMPLE] * 100).encode()
    head = "POST /predict/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", service.port), timeout=10) for _ in range(12)]
    for connection in connections:
        connection.sendall(head.encode() + body[:500])
    time.sleep(0.5)
    all_of_them = children(service)
    started = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    for connection in connections:
        connection.sendall(body[500:])
        assert read_to_the_end(connection).startswith(b"HTTP/1.1 200")
        connection.close()
    assert service.stop() == 0
    assert time.monotonic() - started < 5
    assert not any(process.is_running() for process in all_of_them)
    assert len(service.log_rows()) == 1200
    assert service.output().strip().endswith("stopped")
    assert "ended" not in service.output()


def test_a_stop_ends_a_process_that_hangs(service: Service) -> None:
    all_of_them = children(service)
    all_of_them[0].suspend()
    assert service.stop() == 0
    assert not any(process.is_running() for process in all_of_them)


def test_processes_end_with_their_parent_and_give_the_port_back(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "state", API_PROCESSES=COUNT)
    wait_for_all(service)
    all_of_them = children(service)
    service.stop(signal.SIGKILL)
    wait_for("their end", lambda: not any(process.is_running() for process in all_of_them), 10)
    again = Service(service.state_dir, service.variables, port=service.port).start()
    assert again.predict().status_code == 200
    again.stop()


def test_what_one_address_may_hold_it_holds_in_all_processes_together(start_service: StartService) -> None:
    service = start_service(API_PROCESSES=COUNT, CLIENT_CONNECTIONS=20)
    wait_for_all(service)
    held = [dial(service) for _ in range(20)]
    assert [answer_of(connection) for connection in held] == [b"200"] * 20
    with dial(service) as refused:
        assert answer_of(refused) == b"503"
    victim = max(children(service), key=lambda process: len(process.net_connections()))
    victim.kill()
    wait_for("its end", lambda: not victim.is_running())
    wait_for_all(service)
    more = dial(service)  # what the killed one held is free
    assert answer_of(more) == b"200"
    for connection in (*held, more):
        connection.close()


def more_than(load: Load, answers: int) -> bool:
    return len(load.answers) > answers


def dial(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=10, source_address=("127.0.0.2", 0))


def answer_of(connection: socket.socket) -> bytes:
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection.recv(65536)[9:12]


def test_processes_that_end_again_and_again_end_the_service(service: Service) -> None:
    def killed() -> bool:
        for process in children(service):
            process.kill()
        return service.process.poll() is not None

    wait_for("the end of the service", killed)
    assert service.process.returncode == 1
    assert "processes of the service have ended in" in service.output()
