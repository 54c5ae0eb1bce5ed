"""The service's process when it is killed or stopped, or lacks disk space or its port, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.service.conftest import EXAMPLE, Load, StartService, clean_environment, store_at
from tests.waiting import free_port, wait_for

JSON = {"content-type": "application/json"}


def test_a_200_is_in_the_log_after_sigkill(start_service: StartService, tmp_path: Path, place: Path | str) -> None:
    service = start_service(tmp_path / "state", **store_at(place))
    with Load(service.port) as load:
        wait_for("a few hundred answers", lambda: len(load.answers) > 500)
        service.process.send_signal(signal.SIGKILL)
        service.process.wait()
    answered = [answer["prediction_id"] for status, answer in load.answers if status == 200]
    assert len(answered) > 500
    assert len(set(answered)) == len(answered)
    logged = [row["prediction_id"] for row in service.log_rows("SELECT prediction_id FROM predictions")]
    assert len(set(logged)) == len(logged)
    assert set(answered) <= set(logged)
    # at most the requests in flight are logged without having been answered
    assert len(logged) <= len(answered) + 8
    again = start_service(tmp_path / "state", **store_at(place))
    assert again.predict().status_code == 200
    assert len(again.log_rows()) == len(logged) + 1


def test_a_stop_answers_what_is_in_flight_and_takes_little_time(
    start_service: StartService, place: Path | str
) -> None:
    service = start_service(**store_at(place))
    body = json.dumps([EXAMPLE] * 100).encode()
    head = "POST /predict/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    connections = [socket.create_connection(("127.0.0.1", service.port), timeout=10) for _ in range(5)]
    for connection in connections:
        connection.sendall(head.encode() + body[:500])
    assert service.predict().status_code == 200  # by now the server has read the beginnings
    started = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    for connection in connections:
        connection.sendall(body[500:])
        answer = read_to_the_end(connection)
        connection.close()
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"prediction_id") == 100
    assert service.stop() == 0
    assert time.monotonic() - started < 3
    assert len(service.log_rows()) == 501
    assert len(service.request_lines()) >= 6
    assert service.output().strip().endswith("stopped")


def test_each_request_has_one_line_in_the_log_file(start_service: StartService) -> None:
    service = start_service()
    answer = service.client.post("/predict", json=EXAMPLE, headers={"X-Request-ID": "one-line"}).json()
    service.client.post("/predict", json={}, headers={"X-Request-ID": "refused"})
    service.client.get('/no"where', headers={"X-Request-ID": "nowhere"})
    service.client.post("/predict/batch", json=[EXAMPLE] * 2, headers={"X-Request-ID": "batch"})
    wait_for("the lines", lambda: any('"batch"' in line for line in service.request_lines()))
    lines = {line["request_id"]: line for line in map(json.loads, service.request_lines())}
    assert len(lines) == len(service.request_lines())
    line = lines["one-line"]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/predict", 200)
    assert (line["model_version"], line["prediction_id"]) == ("dummy", answer["prediction_id"])
    assert 0 < line["ms"] < 1000
    assert lines["refused"]["status"] == 422
    assert (lines["nowhere"]["route"], lines["nowhere"]["path"]) == (None, '/no"where')
    assert lines["batch"]["rows"] == 2
    assert "one-line" not in service.output()


def test_a_full_disk_is_a_503_that_names_the_remedy_and_ends_by_itself(
    start_service: StartService, small_disk: Path
) -> None:
    service = start_service(small_disk / "state")
    assert service.predict().status_code == 200
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    answered = [service.client.post("/predict/batch", json=[EXAMPLE] * 200) for _ in range(20)]
    assert {answer.status_code for answer in answered} <= {200, 503}
    answer = answered[-1]
    assert answer.status_code == 503
    assert "predictions.db cannot be written" in answer.json()["detail"]
    assert "free space" in answer.json()["detail"]
    assert "cannot be written" in service.get("/ready").json()["prediction_log"]
    filler.unlink()
    assert "Traceback" not in service.output()
    assert service.predict().status_code == 200
    assert service.get("/ready").json()["prediction_log"] == "on"
    ids = [row["prediction_id"] for row in service.log_rows("SELECT prediction_id FROM predictions")]
    kept = [item["prediction_id"] for answer in answered if answer.status_code == 200 for item in answer.json()]
    assert set(kept) <= set(ids)
    assert len(ids) == len(kept) + 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 4 MB; only root can."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system to fill: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_real_server_refuses_a_body_over_the_limit_without_reading_on(start_service: StartService) -> None:
    service = start_service()
    head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    for length, body in (
        ("Content-Length: 1000000000000", b"{"),
        ("Transfer-Encoding: chunked", chunk),
    ):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(f"{head}{length}\r\n\r\n".encode())
            with suppress(ConnectionError):  # it may hang up before all is sent
                connection.sendall(body)
            answer = read_to_the_end(connection)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"64 KB" in answer
    assert service.predict().status_code == 200
    assert len(service.log_rows()) == 1
    assert "ERROR" not in service.output()


def test_a_busy_port_ends_the_start_with_one_line(start_service: StartService, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = run_to_its_end(tmp_path, STATE_DIR=tmp_path / "state", API_PORT=port)
    assert code != 0
    assert len(output.splitlines()) == 1
    assert f"port {port}" in output
    assert "API_PORT" in output


def test_an_unwritable_log_file_ends_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "state" / "logs" / "app.log").mkdir(parents=True)  # stops even root from writing it
    code, output = run_to_its_end(tmp_path, STATE_DIR=tmp_path / "state", API_PORT=free_port())
    assert code != 0
    assert len(output.splitlines()) == 1
    assert str(tmp_path / "state" / "logs" / "app.log") in output


def read_to_the_end(connection: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while part := connection.recv(65536):
            answer += part
    return answer


def run_to_its_end(directory: Path, **variables: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "app.main"],
        cwd=directory,
        env=clean_environment(TEST_MODE=1, **variables),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_a_copy_that_is_told_to_stop_says_so_and_answers_until_others_are_asked(
    start_service: StartService, processes: int
) -> None:
    service = start_service(DRAIN_SECONDS=1.5, API_PROCESSES=processes)
    told = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    wait_for("a word about it", lambda: service.get("/ready").status_code == 503, 1)
    assert "told to stop" in service.get("/ready").json()["detail"]
    while time.monotonic() < told + 1.2:
        assert service.predict().status_code == 200
    assert service.process.wait(timeout=8) == 0
    assert time.monotonic() > told + 1.4
