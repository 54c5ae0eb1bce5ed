"""The protocol of supervisord's events, written by supervisord's own code."""

from __future__ import annotations

import io
from types import SimpleNamespace

from supervisor.events import ProcessLogStdoutEvent, getEventNameByType
from supervisor.process import EventListenerPool

from monitoring.watchdog import read_event


def envelope(line: str) -> str:
    program = SimpleNamespace(config=SimpleNamespace(name="api"), group=None)
    payload = ProcessLogStdoutEvent(program, 7, line.encode()).payload()
    pool = SimpleNamespace(config=SimpleNamespace(options=SimpleNamespace(identifier="supervisor"), name="watchdog"))
    event = ProcessLogStdoutEvent
    assert getEventNameByType(event) == "PROCESS_LOG_STDOUT"
    text: str = EventListenerPool._eventEnvelope(pool, event, 1, 1, payload)
    return text


def test_a_line_with_letters_beyond_ascii_does_not_shift_the_next_event() -> None:
    lines = ["Größe 0.5 µs … 東京\n", "plain\n", ""]
    written = "".join(envelope(line) for line in lines).encode()
    stream = io.TextIOWrapper(io.BytesIO(written), encoding="utf-8", newline="\n")
    for line in lines:
        event = read_event(stream)
        assert event is not None
        name, fields, data = event
        assert (name, fields["processname"], data) == ("PROCESS_LOG_STDOUT", "api", line)
    assert read_event(stream) is None
