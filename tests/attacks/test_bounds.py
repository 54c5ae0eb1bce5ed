"""Whoever reaches the service's port tries to take it down; others are answered within a second meanwhile."""

from __future__ import annotations

import gzip
import io
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet
import pytest

from tableloop.table import load_table
from tests.integration.service.conftest import EXAMPLE, Service, StartService
from tests.waiting import wait_for

NAMES = load_table().feature_names
PARQUET = {"content-type": "application/vnd.apache.parquet"}
CSV = {"content-type": "text/csv"}


@pytest.fixture
def service(start_service: StartService) -> Service:
    return start_service(CLIENT_CONNECTIONS=20)


@contextmanager
def others(service: Service, seconds: float = 1.0) -> Iterator[None]:
    """Somebody else predicts all the time: each answer comes within the seconds."""
    slowest, failed, stop = [0.0], [0], threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=30) as client:
            while not stop.is_set():
                began = time.monotonic()
                failed[0] += client.post("/predict", json=EXAMPLE).status_code != 200
                slowest[0] = max(slowest[0], time.monotonic() - began)
                stop.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failed[0] == 0
    assert slowest[0] < seconds


def memory(service: Service) -> int:
    return int(psutil.Process(service.process.pid).memory_info().rss)


def dial(service: Service, client: str = "127.0.0.2") -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=30, source_address=(client, 0))


def table_with(**columns: pa.Array) -> bytes:
    """Return a Parquet file of as many valid rows as the columns have, with these beside the features."""
    count = len(next(iter(columns.values())))
    rows = {name: np.full(count, EXAMPLE[name]) for name in NAMES}
    file = io.BytesIO()
    pa.parquet.write_table(pa.table(rows | columns), file, compression="zstd")
    return file.getvalue()


def test_a_million_unknown_keys_are_refused_at_once(service: Service) -> None:
    bodies = {count: json.dumps([EXAMPLE | {f"k{n}": 0 for n in range(count)}]) for count in (50_000, 1_000_000)}
    headers = {"content-type": "application/json"}
    before = memory(service)
    with others(service):
        for path in ("/predict", "/feedback", "/predict/batch"):
            assert service.client.post(path, content=bodies[1_000_000], headers=headers).status_code == 413
        assert service.client.post("/predict/batch", content=bodies[50_000], headers=headers).status_code == 422
    assert memory(service) - before < 150 << 20


@pytest.mark.parametrize(
    "text", ["[" * 60_000, '{"a":' * 10_000, '"' + "\\u0000" * 9000 + '"', "9" * 60_000, "\xff" * 100]
)
def test_odd_json_is_refused_at_once(service: Service, text: str) -> None:
    with others(service):
        for path in ("/predict", "/predict/batch", "/feedback"):
            answer = service.client.post(
                path, content=text.encode("latin-1"), headers={"content-type": "application/json"}
            )
            assert answer.status_code == 422


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8"])
@pytest.mark.parametrize("piece", ["{},", "[[", '[{"a":', "1,"])
def test_more_values_than_a_list_can_have_are_refused_at_once(service: Service, piece: str, kind: str) -> None:
    body = "[" + piece * (9_000_000 // len(piece))
    before = memory(service)
    with others(service, seconds=0.5):
        answer = service.client.post("/predict/batch", content=body, headers={"content-type": kind})
    assert answer.status_code == 413
    assert "send at most 10,000 rows at a time" in answer.json()["detail"]
    assert memory(service) - before < 50 << 20


def test_a_compressed_body_is_unpacked_no_further_than_to_its_limit(service: Service) -> None:
    body = gzip.compress(b"[" + b" " * 1_000_000_000)
    before = memory(service)
    for kind, why in (
        ("application/json", "the body is larger than 10 MB"),
        (CSV["content-type"], "the body unpacks to more than 100 times its size"),
        (PARQUET["content-type"], "the body unpacks to more than 100 times its size"),
    ):
        headers = {"content-type": kind, "content-encoding": "gzip"}
        with others(service):
            answer = service.client.post("/predict/batch", content=body, headers=headers)
        assert answer.status_code == 413
        assert why in answer.json()["detail"]
    assert memory(service) - before < 100 << 20


def test_a_file_of_many_columns_is_refused_at_once(service: Service) -> None:
    header = ",".join([*NAMES, *(f"c{number}" for number in range(20_000))])
    row = ",".join([*(str(EXAMPLE[name]) for name in NAMES), *["1"] * 20_000])
    with others(service):
        answer = service.client.post("/predict/batch", content=f"{header}\n{row}\n", headers=CSV)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"] == "it has 20,008 columns; files of at most 1,000 are read"
    wide = table_with(**{f"c{number}": pa.array([1.0]) for number in range(1_500)})
    answer = service.client.post("/predict/batch", content=wide, headers=PARQUET)
    assert "it has 1,508 columns" in answer.json()["detail"][0]["msg"]
    endless = service.client.post("/predict/batch", content="a" * 2_000_000, headers=CSV)
    assert "its first line is longer than" in endless.json()["detail"][0]["msg"]


@pytest.mark.parametrize("kind", ["one value a thousand times", "a compressed page", "a list in a list"])
def test_a_small_parquet_file_takes_no_gigabytes(service: Service, kind: str) -> None:
    large = "x" * 2_000_000
    column = {
        "one value a thousand times": lambda: pa.array([large] * 1000),
        "a compressed page": lambda: pa.array(["x" * 500_000_000]),
        "a list in a list": lambda: pa.array([[[1.0] * 200_000] * 100] * 10),
    }[kind]()
    file = table_with(column=column)
    assert len(file) < 1_000_000
    before = memory(service)
    with others(service):
        answer = service.client.post("/predict/batch", content=file, headers=PARQUET, timeout=60)
    assert answer.status_code == 422
    assert "of memory" in answer.json()["detail"][0]["msg"]
    assert memory(service) - before < 100 << 20


def test_many_small_files_of_large_content_take_no_gigabytes_together(service: Service) -> None:
    one_text = pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int32), ["x" * 20_000])
    file = io.BytesIO()
    rows = {name: np.full(20_000, EXAMPLE[name]) for name in NAMES}
    # Without its schema a dictionary is read as what it stands for.
    pa.parquet.write_table(pa.table(rows | {"more": one_text}), file, store_schema=False)
    answers: list[httpx.Response] = []

    def send() -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
            answers.append(client.post("/predict/batch", content=file.getvalue(), headers=PARQUET))

    senders = [threading.Thread(target=send) for _ in range(8)]
    most = 0
    with others(service):
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            process = psutil.Process(service.process.pid)
            with suppress(psutil.NoSuchProcess):
                most = max(most, sum(one.memory_info().rss for one in (process, *process.children())))
            time.sleep(0.05)
    assert {answer.status_code for answer in answers} == {422, 503}
    assert "4,096 of its rows take more than 8 MB of memory" in next(
        answer.text for answer in answers if answer.status_code == 422
    )
    assert most < 500 << 20


def test_connections_of_one_address_are_bounded_and_others_come_through(service: Service) -> None:
    held: list[socket.socket] = []
    refused = 0
    with others(service):
        for _ in range(60):
            connection = dial(service)
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\n")
            held.append(connection)
        time.sleep(0.5)
        for connection in held:
            connection.settimeout(0.05)
            with suppress(OSError):
                refused += connection.recv(100).startswith(b"HTTP/1.1 503")
    assert refused == 40
    for connection in held:
        connection.close()


def test_requests_that_never_end_are_hung_up_on(service: Service) -> None:
    """A header that comes a letter at a time; `tests/unit/app/test_connections.py` has the other bounds."""
    began = time.monotonic()
    with dial(service) as slow, others(service):
        slow.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ")
        while time.monotonic() - began < 20:
            try:
                slow.sendall(b"a")
                slow.settimeout(0.5)
                if slow.recv(10) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    assert 9 < time.monotonic() - began < 14


def test_requests_sent_without_waiting_for_answers_hold_nobody_up(service: Service) -> None:
    flood = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 7_000
    held = [dial(service, f"127.0.0.{number}") for number in range(10, 20) for _ in range(15)]
    with others(service):
        for connection in held:
            connection.setblocking(False)
            with suppress(OSError):
                connection.send(flood)
        time.sleep(1)
    for connection in held:
        connection.close()
    few = dial(service)
    few.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 10)
    answers = b""
    while answers.count(b"HTTP/1.1 200 OK") < 10:
        answers += few.recv(65_536)
    few.close()


def test_a_header_without_an_end_is_refused(service: Service) -> None:
    answer = b""
    with dial(service) as connection, suppress(OSError):
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        for _ in range(100):
            connection.sendall(b"x-more: " + b"a" * 8000 + b"\r\n")
        answer = connection.recv(100)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    assert service.predict().status_code == 200


def test_unknown_methods_are_no_new_time_series(service: Service) -> None:
    for number in range(20):
        with dial(service) as connection:
            connection.sendall(b"PROPFIND /%d HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % number)
            connection.recv(100)
    lines = [line for line in service.get("/metrics").text.splitlines() if "PROPFIND" in line]
    assert lines == []
    assert 'method="other"' in service.get("/metrics").text


def test_what_is_sent_writes_no_line_of_its_own_into_the_log(service: Service) -> None:
    forged = '/x\n{"message":"request","status":200,"forged":true}'
    service.client.get("/" + "a" * 5000)
    service.client.get(httpx.URL(str(service.client.base_url)).copy_with(raw_path=b"/x%0A%1b[31mforged"))
    service.client.get("/health", headers={"x-request-id": "a" * 500})
    wait_for("the lines", lambda: len(service.request_lines()) >= 4)
    assert forged not in "".join(service.request_lines())
    assert all(len(line) < 1000 and "\x1b" not in line for line in service.request_lines())


def test_more_files_than_can_be_taken_are_refused_with_when_to_try_again(service: Service) -> None:
    head = b"POST /predict/batch HTTP/1.1\r\nhost: x\r\ncontent-type: text/csv\r\ncontent-length: 1000000\r\n\r\na,b"
    uploads = [dial(service) for _ in range(4)]
    for upload in uploads:
        upload.sendall(head)
    time.sleep(0.5)
    fifth = dial(service)
    fifth.sendall(head)
    answer = b""
    while b"}" not in answer:
        answer += fifth.recv(2000)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"4 files are being received or answered from this address" in answer
    content = ",".join(NAMES) + "\n" + ",".join(str(EXAMPLE[name]) for name in NAMES) + "\n"
    assert service.client.post("/predict/batch", content=content, headers=CSV).status_code == 200
    for upload in [*uploads, fifth]:
        upload.close()


def test_answers_that_nobody_reads_keep_their_place_until_the_client_leaves(service: Service) -> None:
    header, row = ",".join(NAMES), ",".join(str(EXAMPLE[name]) for name in NAMES)
    content = "\n".join([header, *[row] * 60_000, ""]).encode()
    head = b"POST /predict/batch HTTP/1.1\r\nhost: x\r\ncontent-type: text/csv\r\n"
    head += b"content-length: %d\r\n\r\n" % len(content)
    unread = [dial(service) for _ in range(4)]
    with others(service):
        for connection in unread:
            connection.sendall(head + content)
        for connection in unread:
            assert connection.recv(12) == b"HTTP/1.1 200"

    def status() -> bytes:
        fifth = dial(service)
        fifth.sendall(head + content)
        answer = fifth.recv(12)
        fifth.close()
        return answer

    assert status() == b"HTTP/1.1 503"
    for connection in unread:
        connection.close()
    wait_for("a place", lambda: status() == b"HTTP/1.1 200")


def test_more_explanations_than_can_wait_are_refused_with_when_to_try_again(service: Service) -> None:
    statuses: Counter[int] = Counter()

    def ask(number: int) -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
            for income in range(20):
                answer = client.post("/explain", json=EXAMPLE | {"MedInc": income + number / 100})
                statuses[answer.status_code] += 1
                assert answer.status_code != 503 or answer.headers["retry-after"] == "5"

    with others(service):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(15)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200, 503}
