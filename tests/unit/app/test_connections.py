"""What a connection may hold, and for how long."""

from __future__ import annotations

import resource
from types import SimpleNamespace
from typing import Any

import pytest

from app import connections
from app.connections import BODY_SECONDS, HEADER_SECONDS, SILENT_SECONDS, BoundedProtocol, Connections
from app.processes import Processes


class Transport:
    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def connection(to: Connections, address: str = "10.0.0.1", moved_at: float = 0.0) -> Any:
    """Return a connection as uvicorn has it, before its first request."""
    made: Any = BoundedProtocol.__new__(BoundedProtocol)
    made._all, made.address, made.transport = to, address, Transport()
    made.moved_at = made._began_at = moved_at
    made._in_headers, made._body_bytes, made._unread_since = True, 0, None
    made.cycle, made.flow = None, SimpleNamespace(read_paused=False)
    made.loop = SimpleNamespace(call_later=lambda *_: None, time=lambda: 0.0)
    return made


def asked(made: Any, *, more_body: bool, answered: bool) -> Any:
    made._in_headers = False
    made.cycle = SimpleNamespace(more_body=more_body, response_complete=answered)
    return made


def test_one_address_holds_so_many_and_this_machine_as_many_as_it_likes() -> None:
    to = Connections(2, Processes())
    assert [to.admit(connection(to)) for _ in range(3)] == [True, True, False]
    assert to.admit(connection(to, "10.0.0.2"))
    assert all(to.admit(connection(to, "127.0.0.1")) for _ in range(10))


def test_a_closed_connection_makes_room() -> None:
    to = Connections(1, Processes())
    first = connection(to)
    assert to.admit(first)
    to.forget(first)
    to.forget(first)
    assert to.admit(connection(to))


def test_when_all_is_full_the_busiest_address_loses_its_oldest_idle_connection() -> None:
    to = Connections(100, Processes())
    to.most = 4
    kept = connection(to, "10.0.0.9", moved_at=1.0)
    busy = asked(connection(to, moved_at=0.0), more_body=False, answered=False)
    idle = [asked(connection(to, moved_at=at), more_body=False, answered=True) for at in (2.0, 3.0)]
    for each in (kept, busy, *idle):
        assert to.admit(each)
    assert to.admit(connection(to, "10.0.0.8"))
    assert [each.transport.aborted for each in (kept, busy, *idle)] == [False, False, True, False]
    to.most = 1
    to.open = {busy}
    assert not to.admit(connection(to))


def test_what_is_late_is_a_header_a_body_or_an_answer_that_nobody_reads() -> None:
    to = Connections(9, Processes())
    new = connection(to)
    assert not new.is_late(HEADER_SECONDS)
    assert new.is_late(HEADER_SECONDS + 1)
    uploading = asked(connection(to), more_body=True, answered=False)
    assert not uploading.is_late(SILENT_SECONDS)
    assert uploading.is_late(SILENT_SECONDS + 1)
    uploading.moved_at = BODY_SECONDS  # a byte now and then
    assert uploading.is_late(BODY_SECONDS + 1)
    uploading._body_bytes = 1_000_000  # an honest upload on a slow line
    assert not uploading.is_late(BODY_SECONDS + 1)
    working = asked(connection(to), more_body=False, answered=False)
    assert not working.is_late(10_000)
    waiting = asked(connection(to), more_body=False, answered=True)
    assert not waiting.is_late(10_000)  # uvicorn closes it after its keep-alive
    unread = asked(connection(to), more_body=False, answered=False)
    unread._unread_since = 5.0
    assert not unread.is_late(5.0 + SILENT_SECONDS)
    assert unread.is_late(6.0 + SILENT_SECONDS)


def test_the_limit_leaves_files_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 4096))
    assert Connections(1, Processes()).most == 512 - connections.SPARE_FILES
