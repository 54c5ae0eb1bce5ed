"""What HTTP clients and proxies of the field send: offers of other protocols, compressed bodies, HEAD, HTTP/1.0."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from app.connections import KEEP_ALIVE_SECONDS
from tests.integration.service.conftest import EXAMPLE, Service, StartService
from tests.waiting import wait_for

JSON = {"content-type": "application/json"}
ROW = json.dumps(EXAMPLE).encode()
FILE = "\n".join([",".join(EXAMPLE), ",".join(map(str, EXAMPLE.values())), ""]).encode()
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
PAGES = (
    *(
        "/",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/health",
        "/ready",
        "/model",
        "/retrainings",
        "/versions",
        "/metrics",
    ),
    "/versions?format=html",
)


@pytest.fixture
def service(start_service: StartService) -> Service:
    return start_service()


def answers(service: Service, *parts: bytes) -> bytes:
    """Send the parts, one packet each, and return what is answered until the service hangs up."""
    with closing(socket.create_connection(("127.0.0.1", service.port), timeout=10)) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while more := connection.recv(65_536):
            received += more
        return received


def packets(length: str, body: bytes) -> Iterator[tuple[bytes, ...]]:
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" + OFFER
    head += length.encode() + b"\r\n\r\n"
    yield (head + body,)
    yield (head, body)
    yield tuple(bytes([byte]) for byte in head + body)


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (f"content-length: {len(ROW)}", ROW),
        ("transfer-encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(ROW), ROW)),
    ],
)
def test_an_offer_of_http_2_is_ignored_and_the_body_is_read(service: Service, length: str, body: bytes) -> None:
    last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    for sent in packets(length, body):
        answer = answers(service, *sent, *sent, last)
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.count(b'"prediction_id"') == 2
    assert len(service.log_rows()) == 6


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.0, h2c"])
def test_an_offer_of_any_protocol_is_ignored(service: Service, protocol: bytes) -> None:
    head = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: %s\r\n\r\n" % protocol
    assert answers(service, head).startswith(b"HTTP/1.1 200 OK")
    assert "upgrade" not in service.output()


def test_what_is_no_http_is_refused_in_json(service: Service) -> None:
    for sent in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
    ):
        head, _, body = answers(service, sent).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert "HTTP/1.1" in json.loads(body)["detail"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/explain", "/feedback"])
@pytest.mark.parametrize("media_type", ["application/json", "text/csv", "text/plain"])
def test_a_client_that_leaves_is_no_failure_of_the_service(service: Service, path: str, media_type: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {media_type}\r\ncontent-length: 500\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(head.encode() + ROW[:10])
    wait_for("the line about it", lambda: 'status="499"' in service.get("/metrics").text)
    assert 'status="500"' not in service.get("/metrics").text
    assert "Traceback" not in service.output()


def test_the_first_content_type_counts(service: Service) -> None:
    second = "content-type: text/plain\r\ncontent-type: application/json\r\nconnection: close"
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\n{second}\r\ncontent-length: {len(ROW)}\r\n\r\n"
    assert answers(service, head.encode() + ROW).startswith(b"HTTP/1.1 415")


def test_every_page_that_has_get_has_head(service: Service) -> None:
    for page in PAGES:
        asked, got = service.client.head(page), service.client.get(page)
        assert (asked.status_code, asked.content) == (200, b""), page
        assert asked.headers["content-type"] == got.headers["content-type"]
        assert int(asked.headers["content-length"]) > 0
    refused = service.client.head("/predict")
    assert refused.status_code == 405
    assert service.client.post("/health").headers["allow"] == "GET, HEAD"
    assert 'method="HEAD"' in service.get("/metrics").text


def test_http_1_0_is_answered_without_chunks(service: Service) -> None:
    head = b"POST /predict/batch HTTP/1.0\r\ncontent-type: text/csv\r\ncontent-length: %d\r\n\r\n" % len(FILE)
    head, _, body = answers(service, head, FILE).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"chunked" not in head
    assert b"connection: close" in head
    assert [len(line.split(b",")) for line in body.splitlines()] == [len(EXAMPLE) + 5] * 2
    short = answers(service, b"GET /health HTTP/1.0\r\n\r\n")
    assert b"content-length: " in short
    assert short.endswith(b"}")


def test_an_idle_connection_is_kept_longer_than_proxies_keep_theirs() -> None:
    assert KEEP_ALIVE_SECONDS > 90


def raw_deflate(body: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(body) + packing.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(ROW)),
        ("GZip", gzip.compress(ROW)),
        ("x-gzip", gzip.compress(ROW)),
        ("gzip", gzip.compress(ROW[:30]) + gzip.compress(ROW[30:])),
        ("deflate", zlib.compress(ROW)),
        ("deflate", raw_deflate(ROW)),
        ("identity", ROW),
        ("", ROW),
    ],
)
def test_a_compressed_body_is_unpacked(service: Service, encoding: str, packed: bytes) -> None:
    headers = JSON | {"content-encoding": encoding}
    byte_by_byte = (bytes([byte]) for byte in packed)
    for content in (packed, byte_by_byte):
        answer = service.client.post("/predict", content=content, headers=headers)
        assert answer.status_code == 200, answer.text


def test_compressed_lists_labels_and_files(service: Service) -> None:
    def send(path: str, body: bytes, media_type: str) -> httpx.Response:
        headers = {"content-type": media_type, "content-encoding": "gzip"}
        return service.client.post(path, content=gzip.compress(body), headers=headers)

    listed = send("/predict/batch", b"[" + b",".join([ROW] * 1000) + b"]", JSON["content-type"])
    assert len(listed.json()) == 1000
    label = {"prediction_id": listed.json()[0]["prediction_id"], "actual_value": 8.0}
    assert send("/feedback", json.dumps(label).encode(), JSON["content-type"]).status_code == 201
    rows = FILE.splitlines()
    many = b"\n".join([rows[0], *[rows[1]] * 30_000, b""])
    assert send("/predict/batch", many, "text/csv").text.count("\n") == 30_001


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip"])
def test_another_encoding_is_refused_by_name(service: Service, encoding: str) -> None:
    for path in ("/predict", "/predict/batch", "/feedback"):
        answer = service.client.post(path, content=ROW, headers=JSON | {"content-encoding": encoding})
        assert answer.status_code == 415
        assert f"the Content-Encoding {encoding} is not read" in answer.json()["detail"]
        assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("body", "why"), [(ROW, "the body is not gzip"), (gzip.compress(ROW)[:-9], "the gzip of the body ends too early")]
)
def test_a_body_that_is_not_what_its_encoding_says(service: Service, body: bytes, why: str) -> None:
    for path in ("/predict", "/predict/batch", "/feedback"):
        answer = service.client.post(path, content=body, headers=JSON | {"content-encoding": "gzip"})
        assert answer.status_code == 422
        assert why in answer.json()["detail"][0]["msg"]
