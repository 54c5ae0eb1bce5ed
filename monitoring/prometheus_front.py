"""Prometheus behind a check of host names: what keeps a web page from reading the metrics through a browser.

``python -m monitoring.prometheus_front PROMETHEUS ARGUMENTS...`` runs that Prometheus and passes on what comes to
`PROMETHEUS_PORT`. Prometheus answers under any name, and has no setting for that. So it listens on an address of this
machine that no page can guess: one of the 16 million that begin with 127.

A connection is looked at once: a browser sends requests for one name on connections of their own.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tableloop.host_names import HostNames, is_foreign
from tableloop.listener import listen
from tableloop.state.layout import Layout

MOST_CONNECTIONS = 200
OWN = ("127.0.0.1", "::1", "::ffff:127.0.0.1")  # Grafana and the health checks are among them
HEADER_BYTES = 65_536
HEADER_SECONDS = 10.0
CHUNK = 65_536
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Front:
    """Passes connections on to ``behind`` (address, port) when they ask under a name of ours."""

    def __init__(self, behind: tuple[str, int], names: HostNames) -> None:
        self._behind = behind
        self._names = names
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self._open += 1
        try:
            if self._open > MOST_CONNECTIONS and writer.get_extra_info("peername")[0] not in OWN:
                writer.write(_answer("503 Service Unavailable", "too many connections; try again in a moment"))
                return
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEADER_SECONDS)
            if refusal := self._refusal(head):
                writer.write(_answer("403 Forbidden", refusal))
                return
            await self._pass_on(head, reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # the other side has gone, or says nothing that could be answered
        finally:
            self._open -= 1
            writer.close()

    def _refusal(self, head: bytes) -> str:
        """Return why a request with this header is not passed on; an empty string when it is."""
        request, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if host and not self._names.answers_under(host):
            return self._names.refusal(host)
        if origin and not request.startswith(("GET ", "HEAD ")) and is_foreign(origin, host):
            return "this request comes from a page of another server"
        return ""

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, requests = await asyncio.open_connection(*self._behind)
        except OSError:
            writer.write(_answer("503 Service Unavailable", "Prometheus is starting"))
            return
        requests.write(head)
        directions = [asyncio.create_task(_copy(reader, requests)), asyncio.create_task(_copy(answers, writer))]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            requests.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()


def _answer(status: str, text: str) -> bytes:
    body = text.encode() + b"\n"
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def hidden_address() -> tuple[str, int]:
    """Return an address of this machine that is hard to guess, and a port that is free there."""
    choice = random.SystemRandom()
    for address in (f"127.{choice.randrange(256)}.{choice.randrange(256)}.{choice.randrange(1, 255)}", "127.0.0.1"):
        with socket.socket() as probe, suppress(OSError):  # macOS has 127.0.0.1 alone
            probe.bind((address, 0))
            return address, probe.getsockname()[1]
    raise OSError("127.0.0.1 has no free port")


def _ends_with_its_parent() -> Callable[[], None] | None:
    """Return what a child does first so that it does not outlive this process; None where there is no such thing."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)  # before the fork
    return lambda: library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def run(command: list[str]) -> int:
    """Run Prometheus and the front until one of them ends; return Prometheus' exit code."""
    address, port = hidden_address()
    front = Front((address, port), HostNames(os.environ.get("ALLOWED_HOSTS", "")))
    listener = listen(os.environ["BIND_ADDRESS"], int(os.environ["PROMETHEUS_PORT"]))
    server = await asyncio.start_server(front.serve, sock=listener, limit=HEADER_BYTES)
    prometheus = await asyncio.create_subprocess_exec(
        *command,
        f"--web.listen-address={address}:{port}",
        # Files of rules are patterns with the directory of the configuration before them, which may hold a [.
        cwd=Layout(Path(os.environ["STATE_DIR"])).run,
        preexec_fn=_ends_with_its_parent(),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, prometheus.terminate)
    status = await prometheus.wait()
    server.close()
    return status


def main() -> None:
    """Run the command given as arguments."""
    sys.exit(asyncio.run(run(sys.argv[1:])))


if __name__ == "__main__":
    main()
