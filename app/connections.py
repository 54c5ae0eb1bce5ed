"""Bounds on connections: how many, how long their requests may take to arrive and their answers to be taken.

They are in the protocol of uvicorn, because natively nothing stands in front of it. One look a second at all open
connections costs less than a timer for each request.
"""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from http import HTTPStatus
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.processes import Processes

MOST: Final = 2000  # in all, as far as the process may open files
SPARE_FILES: Final = 128  # for everything but connections
HEADER_SECONDS: Final = 10.0
HEADER_BYTES: Final = 65_536
MOST_PIPELINED: Final = 16  # requests of a connection that wait for the answer to the one before
SILENT_SECONDS: Final = 30.0  # without a byte of the body, or with an answer that nobody reads
BODY_SECONDS: Final = 30.0  # for a body, and one more for
BODY_BYTES_A_SECOND: Final = 10_000
KEEP_ALIVE_SECONDS: Final = 120  # longer than proxies keep theirs, so that it is they who close
LOOK_SECONDS: Final = 1.0
OWN: Final = ("127.0.0.1", "::1", "::ffff:127.0.0.1")  # a reverse proxy on this machine has many clients


class Connections:
    """All open connections of this process, of which several have equal parts of the bound on all of them."""

    def __init__(self, most_of_one: int, processes: Processes) -> None:
        self.most_of_one = most_of_one
        self.most = max(16, min(MOST // processes.count, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES))
        self.open: set[BoundedProtocol] = set()
        self.by_address: Counter[str] = Counter()
        self._held = processes.held()
        self._looking = False

    def protocol(self, *arguments: Any, **named: Any) -> BoundedProtocol:
        """Return a protocol for one more connection; uvicorn calls this."""
        return BoundedProtocol(self, *arguments, **named)

    def admit(self, connection: BoundedProtocol) -> bool:
        """Return whether there is room for a connection, if need be after closing an idle one."""
        address = connection.address
        if address not in OWN and self._held.of(address) >= self.most_of_one:
            return False
        if len(self.open) >= self.most and not self._close_idle():
            return False
        self.open.add(connection)
        self.by_address[address] += 1
        self._held.add(address, 1)
        if not self._looking:
            self._looking = True
            connection.loop.call_later(LOOK_SECONDS, self._look, connection.loop)
        return True

    def forget(self, connection: BoundedProtocol) -> None:
        """Note that a connection is closed."""
        if connection in self.open:
            self.open.remove(connection)
            self.by_address[connection.address] -= 1
            self._held.add(connection.address, -1)
            if not self.by_address[connection.address]:
                del self.by_address[connection.address]

    def _close_idle(self) -> bool:
        """Close the connection of the busiest address that has waited longest; return whether there was one."""
        idle = [connection for connection in self.open if connection.is_idle()]
        if not idle:
            return False
        longest = min(idle, key=lambda connection: (-self.by_address[connection.address], connection.moved_at))
        self.forget(longest)
        longest.transport.abort()
        return True

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self.open):
            if connection.is_late(now):
                self.forget(connection)
                connection.transport.abort()
        self._looking = bool(self.open)
        if self._looking:
            loop.call_later(LOOK_SECONDS, self._look, loop)


class _Parser(httptools.HttpRequestParser):
    """Reads on in HTTP/1.1 where a client offers another protocol, which is what ignoring the offer means.

    The JDK's client and `curl --http2` offer h2c with every first request. The parser by itself ends such a request
    at its header and takes the body for the other protocol.
    """

    def __init__(self, protocol: BoundedProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse what has come."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._protocol.read_without_offer(data[offer.args[0] :])


class _CloseDelimitedCycle(RequestResponseCycle):
    """An answer to HTTP/1.0, which has no chunks: without a length it ends where the connection does."""

    _has_length = True

    async def send(self, message: Any) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self._has_length = any(name == b"content-length" for name, _ in message["headers"])
            if not self._has_length:
                self.chunked_encoding = False  # then the body is written as it is, up to the expected length
        elif not self._has_length:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class _TooManyWaitingError(Exception):
    """Makes the parser stop; uvicorn then answers 400 and hangs up."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which notes when its connection last moved."""

    def __init__(self, connections: Connections, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.parser = _Parser(self)
        self._all = connections
        self.address = ""
        self.moved_at = self._began_at = self.loop.time()  # of the connection; of the request
        self._header_bytes = 0
        self._in_headers = True  # from the first byte of a request on, and before the first request
        self._body_bytes = 0
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or say that there are too many."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        if not self._all.admit(self):
            self._refuse(503, "too many connections; try again in a moment", "retry-after: 5")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._all.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what has come, unless it is a header without an end."""
        self.moved_at = self.loop.time()
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADER_BYTES:
                self._refuse(431, f"the header is larger than {HEADER_BYTES >> 10} KB")

    def on_message_begin(self) -> None:
        """Note that a request begins, unless too many wait: one read may hold thousands, parsed without a pause."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise _TooManyWaitingError
        self._began_at, self._in_headers, self._header_bytes, self._body_bytes = self.moved_at, True, 0, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that its header is there, and begin to answer, unless it will be read once more without an offer."""
        self._in_headers = False
        if self._offers():
            return
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _CloseDelimitedCycle

    def on_message_complete(self) -> None:
        """Note that the request has ended."""
        if not self._offers():
            super().on_message_complete()

    def _offers(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def read_without_offer(self, rest: bytes) -> None:
        """Read the header that has just ended once more, without its offer, and then the ``rest``."""
        if not self._offers():
            return
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = _Parser(self)
        self.parser.feed_data(b"\r\n".join([line, *kept, b"", rest]))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; uvicorn calls this."""
        self._refuse(400, f"{msg} This port speaks HTTP/1.1, as {self.scheme}.")

    def _refuse(self, status: int, detail: str, *headers: str) -> None:
        """Answer without the application, and hang up."""
        body = json.dumps({"detail": detail})
        fixed = ("content-type: application/json", "connection: close", f"content-length: {len(body)}")
        head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *fixed, *headers]
        self.transport.write("\r\n".join([*head, "", body]).encode())
        self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Count the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that it reads again."""
        self._unread_since = None
        super().resume_writing()

    def is_idle(self) -> bool:
        """Return whether nobody waits for anything on this connection."""
        return self.cycle is None or (self.cycle.response_complete and not self._in_headers)

    def is_late(self, now: float) -> bool:
        """Return whether its request should have arrived by now, or its answer been read."""
        if self._unread_since is not None:
            return now - self._unread_since > SILENT_SECONDS
        if self._in_headers:
            return now - self._began_at > HEADER_SECONDS
        if self.cycle is None or not self.cycle.more_body or self.cycle.response_complete:
            return False
        taken = now - self._began_at
        # An upload waits for us, too: then reading is paused, and it is not the client that is late.
        if self.flow.read_paused:
            return False
        return now - self.moved_at > SILENT_SECONDS or taken > BODY_SECONDS + self._body_bytes / BODY_BYTES_A_SECOND
