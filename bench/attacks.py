"""What an attacker sends, all at once, for `bench.attack`: ``python -m bench.attacks PORT SECONDS [NAME]...``.

Everything comes from one address, `ATTACKER`, but for the connections that are held: they come from `HOLDER`, because
a service that bounds the connections of an address would otherwise see little of the rest. What became of each attack
is printed as JSON: how often the service answered with which status, or hung up.
"""

from __future__ import annotations

import gzip
import http.client
import io
import json
import random
import resource
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tableloop.table import load_table

ATTACKER: Final = "127.0.0.2"
HOLDER: Final = "127.0.0.7"
HELD: Final = 3_000  # connections
TIMEOUT: Final = 20.0
JSON: Final = {"content-type": "application/json"}
CSV: Final = {"content-type": "text/csv"}
PARQUET: Final = {"content-type": "application/vnd.apache.parquet"}
_HEAD: Final = b"POST /predict/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/csv\r\n"


class Target:
    """The service, as long as it is attacked."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self._until = time.monotonic() + seconds

    def goes_on(self, pause: float = 0.0) -> bool:
        """Return whether the attack goes on, after a pause."""
        time.sleep(pause)
        return time.monotonic() < self._until

    def dial(self, address: str = ATTACKER) -> socket.socket:
        """Return a connection from an address."""
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT, source_address=(address, 0))

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = "POST") -> str:
        """Send one request; return the status of the answer, which is read, or what became of the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, TIMEOUT, source_address=(ATTACKER, 0))
        try:
            with suppress(ConnectionError):  # a refusal may come before the body has been sent
                connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            answer.read()
            return str(answer.status)
        except TimeoutError:
            return "no answer"
        except (OSError, http.client.HTTPException):
            return "hung up"
        finally:
            connection.close()


Attack = Callable[[Target], Iterator[str]]


def many_keys(target: Target) -> Iterator[str]:
    """Send bodies of many unknown keys: with a length, in chunks, and in a list."""
    keys = json.dumps({f"k{number}": 0 for number in range(1_000_000)}).encode()
    small = json.dumps([dict.fromkeys((f"k{number}" for number in range(190_000)), 0)]).encode()
    while target.goes_on(0.2):
        yield target.ask("/predict", keys, JSON)
        yield target.ask("/feedback", iter((keys,)), JSON)
        yield target.ask("/predict/batch", small, JSON)


def deep_nesting(target: Target) -> Iterator[str]:
    """Send lists in lists, and the most problems that a list can have."""
    bodies = (b"[" * 9_000_000, b'[{"a":' * 1_000_000, b"[" + b"{}," * 3_000_000 + b"{}]")
    with_charset = {"content-type": "application/json; charset=utf-8"}
    while target.goes_on(0.2):
        for body in bodies:
            yield target.ask("/predict/batch", body, JSON)
            yield target.ask("/predict/batch", body, with_charset)
        yield target.ask("/predict", bodies[0][:60_000], JSON)


def compressed_bodies(target: Target) -> Iterator[str]:
    """Send compressed bodies that unpack to a gigabyte, or to as much as is read."""
    body = gzip.compress(b"[" + b" " * 1_000_000_000)
    most = gzip.compress(b"[" + b" " * 99_000_000)
    while target.goes_on(0.2):
        yield target.ask("/predict/batch", body, JSON | {"content-encoding": "gzip"})
        yield target.ask("/predict/batch", body, CSV | {"content-encoding": "gzip"})
        yield target.ask("/predict/batch", most, CSV | {"content-encoding": "gzip"})


def long_lists(target: Target) -> Iterator[str]:
    """Send valid lists, as long as they may be, as fast as they are answered."""
    body = json.dumps([load_table().example] * 10_000).encode()
    while target.goes_on(0.1):
        yield target.ask("/predict/batch", body, JSON)


def wide_csv(target: Target) -> Iterator[str]:
    """Send files of very many columns, and of lines without an end."""
    names, values = zip(*load_table().example.items(), strict=True)
    columns = ",".join([*names, *(f"c{number}" for number in range(20_000))])
    row = ",".join([*map(str, values), *["1"] * 20_000])
    wide = f"{columns}\n{row}\n{row}\n".encode()
    long = f"{','.join(names)},more\n{','.join(map(str, values))},".encode() + b"x" * 5_000_000
    while target.goes_on(0.2):
        for body in (wide, b"a," * 2_500_000, long):
            yield target.ask("/predict/batch", body, CSV)


def long_csv(target: Target) -> Iterator[str]:
    """Send valid files of many rows."""
    names, values = zip(*load_table().example.items(), strict=True)
    body = "\n".join([",".join(names), *[",".join(map(str, values))] * 50_000, ""]).encode()
    while target.goes_on(0.1):
        yield target.ask("/predict/batch", body, CSV)


def parquet_bombs(target: Target) -> Iterator[str]:
    """Send small Parquet files of large content."""
    numbers = pa.array(np.ones(10_000_000))
    lists = pa.ListArray.from_arrays(np.arange(0, 10_000_001, 1_000_000, dtype=np.int32), numbers)
    columns = {
        "one text for all rows": {
            "more": pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), ["x" * 2_000_000])
        },
        "a compressed page": {"more": pa.array(["x" * 100_000_000])},
        "long lists": {"more": lists},
        "many columns": {f"c{number}": pa.array([1.0]) for number in range(2_000)},
    }
    bodies = [parquet_with(more) for more in columns.values()]
    while target.goes_on(0.2):
        for body in bodies:
            yield target.ask("/predict/batch", body, PARQUET)


def held_uploads(target: Target) -> Iterator[str]:
    """Begin files and never end them."""
    while target.goes_on(1.0):
        held = []
        for _ in range(20):
            with suppress(OSError):
                connection = target.dial()
                connection.sendall(_HEAD + b"content-length: 900000000\r\n\r\n" + b"x" * 10_000)
                held.append(connection)
        time.sleep(1.0)
        for connection in held:
            yield answered(connection)


def held_connections(target: Target) -> Iterator[str]:
    """Hold thousands of connections: idle ones, headers and bodies that come byte by byte."""
    starts = (
        b"",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
        _HEAD.replace(b"text/csv", b"application/json") + b"content-length: 60000\r\n\r\n[",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n",
    )
    held: list[socket.socket] = []
    with selectors.DefaultSelector() as selector:
        while target.goes_on(0.01):
            for number in range(min(50, HELD - len(held))):
                with suppress(OSError):
                    connection = target.dial(HOLDER)
                    connection.sendall(starts[number % len(starts)])
                    connection.setblocking(False)
                    selector.register(connection, selectors.EVENT_READ)
                    held.append(connection)
            for key, _ in selector.select(0):
                status = answered(key.fileobj, close=False)  # type: ignore[arg-type]
                if status == "200":
                    continue
                selector.unregister(key.fileobj)
                held.remove(key.fileobj)  # type: ignore[arg-type]
                key.fileobj.close()  # type: ignore[union-attr]
                yield status
            for connection in random.sample(held, min(20, len(held))):
                with suppress(OSError):
                    connection.send(b"a")
        for connection in held:
            connection.close()


def unread_answers(target: Target) -> Iterator[str]:
    """Ask on and on for the longest answers, and read none."""
    request = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 10
    while target.goes_on(0.5):
        held = []
        for _ in range(20):
            with suppress(OSError):
                connection = target.dial()
                connection.setblocking(False)
                connection.send(request)
                held.append(connection)
        for _ in range(10):
            for connection in held:
                with suppress(OSError):
                    connection.send(request)
            time.sleep(0.5)
        for connection in held:
            connection.close()
            yield "not read"


def unread_files(target: Target) -> Iterator[str]:
    """Ask for long answers to files of long texts, and read none."""
    rows = 20_000
    body = parquet_with({"more": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * 1_700])})
    head = _HEAD.replace(b"text/csv", PARQUET["content-type"].encode()) + b"accept: text/csv\r\n"
    while target.goes_on(0.5):
        held = []
        for _ in range(8):
            with suppress(OSError):
                connection = target.dial()
                connection.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
                held.append(connection)
        time.sleep(5.0)
        for connection in held:
            yield answered(connection)


def unending_questions(target: Target) -> Iterator[str]:
    """Send thousands of requests on each of many connections, without waiting for an answer."""
    requests = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 7_000
    while target.goes_on(0.5):
        held = []
        for _ in range(50):
            with suppress(OSError):
                connection = target.dial()
                connection.setblocking(False)
                connection.send(requests)
                held.append(connection)
        time.sleep(0.5)
        for connection in held:
            yield answered(connection)


def odd_requests(target: Target) -> Iterator[str]:
    """Send methods, paths and headers that nobody has seen before."""
    count = 0
    while target.goes_on(0.02):
        count += 1
        word = f"{count}{random.getrandbits(40):x}"
        letters = "".join(chr(65 + int(digit, 16)) for digit in word)
        yield target.ask(f"/{word}?{word}=1", method=letters)
        yield target.ask(f"/{word}%1b[2J%0a{{" + "y" * 20_000, method="PROPFIND")
        yield target.ask("/health", headers={"x-request-id": "a" * 60_000, "x-forwarded-for": word}, method="GET")
        yield target.ask("/health", headers={f"x-{number}": "a" * 1_000 for number in range(90)}, method="GET")


def false_labels(target: Target) -> Iterator[str]:
    """Send lists of labels without a right to, with a wrong login."""
    body = json.dumps([{"prediction_id": "0" * 36, "actual_value": 1.0}] * 5_000).encode()
    while target.goes_on(0.05):
        yield target.ask("/feedback", body, JSON | {"authorization": "Basic YWRtaW46d3Jvbmc="})


def many_reasons(target: Target) -> Iterator[str]:
    """Ask for explanations of rows that nobody has asked about, a file of them among them."""
    rows = load_table().example
    line = ",".join(str(value) for value in rows.values())
    file = "\n".join([",".join(rows), *[line] * 1_000, ""]).encode()
    number = next(name for name, value in rows.items() if isinstance(value, float))
    count = 0
    while target.goes_on(0.02):
        count += 1
        yield target.ask("/explain", json.dumps(rows | {number: rows[number] * (1 + count / 1e6)}), JSON)
        if count % 20 == 0:
            yield target.ask("/predict/batch?explain=true", file, CSV)


ATTACKS: Final[dict[str, Attack]] = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        *(many_keys, deep_nesting, compressed_bodies, long_lists, wide_csv, long_csv, parquet_bombs, held_uploads),
        *(
            held_connections,
            unread_answers,
            unread_files,
            unending_questions,
            odd_requests,
            false_labels,
            many_reasons,
        ),
    )
}


def parquet_with(columns: dict[str, pa.Array]) -> bytes:
    """Return a Parquet file of valid rows, as many as the columns have, with these columns beside the features."""
    count = len(next(iter(columns.values())))
    rows = {name: np.full(count, value) for name, value in load_table().example.items()}
    file = io.BytesIO()
    # Without its schema a dictionary is read as what it stands for.
    pa.parquet.write_table(pa.table(rows | columns), file, compression="zstd", store_schema=False)
    return file.getvalue()


def answered(connection: socket.socket, *, close: bool = True) -> str:
    """Return the status that has arrived on a connection, or what became of it."""
    connection.setblocking(False)
    try:
        start = connection.recv(65_536)
    except BlockingIOError:
        return "held"
    except OSError:
        return "hung up"
    finally:
        if close:
            connection.close()
    return start[9:12].decode("latin-1") if start else "hung up"


def main() -> None:
    """Attack the service with everything at once, or with the attacks that are named, and print what it answered."""
    target = Target(int(sys.argv[1]), float(sys.argv[2]))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    answers: dict[str, Counter[str]] = {name: Counter() for name in sys.argv[3:] or ATTACKS}

    def run(name: str) -> None:
        answers[name].update(ATTACKS[name](target))

    threads = [threading.Thread(target=run, args=(name,)) for name in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
