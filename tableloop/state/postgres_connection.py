"""Connections to PostgreSQL that do not wait for ever for a server that stands still, or is cut off.

psycopg waits for an answer without an end, and the kernel of a server that stands still goes on confirming what it is
sent. A server that is silent for long may as well be busy with a long query: it is asked over a second connection.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg

from tableloop.state.errors import ServerAwayError, StoreError

CONNECT_SECONDS: Final = 2  # psycopg takes no less
ANSWER_SECONDS: Final = 1.5  # of a write; a server that says nothing for longer is given up
ASK_SECONDS: Final = 4.0  # of anything else; a server that says nothing for longer is asked whether it is there
# Each query has its index. Without statistics, as of a partition that was just filled, the planner would read whole
# tables instead: twenty seconds, not five milliseconds, for the newest labels of a million predictions.
BY_INDEX: Final = "-c enable_seqscan=off"
_REFUSED: Final = "FATAL"  # begins what a server says that takes no connection, in every language
_COMING: Final = ("starting up", "shutting down", "recovery")  # among what it says while it is none of ours to mend


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that raises an error when the server has gone silent for good; then it is closed."""

    _known: dict[str, Any] | None = None  # what it was made with
    _in_haste = False

    @classmethod
    def to(cls, known: dict[str, Any], *, autocommit: bool = True) -> Connection:
        """Connect with the `parameters` of an address.

        Raises
        ------
        ServerAwayError
        psycopg.Error
            The server is there and refuses.
        """
        try:
            connection = cls.connect(**known, autocommit=autocommit)
        except psycopg.OperationalError as error:
            if _REFUSED in str(error) and not any(words in str(error) for words in _COMING):
                raise
            raise ServerAwayError(" ".join(str(error).split())) from error
        connection._known = known
        return connection

    @contextmanager
    def in_haste(self) -> Iterator[None]:
        """Give up a server that is silent for `ANSWER_SECONDS`, without asking it."""
        self._in_haste = True
        try:
            yield
        finally:
            self._in_haste = False

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **named: Any) -> Any:
        """Wait for the server as psycopg does, which looks ten times a second whether it has said something."""
        return super().wait(self._watched(gen), *arguments, **named)

    def _watched(self, answering: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Return what the generator returns, whose waits these are, unless all of them together last too long."""
        heard = time.monotonic()
        try:
            awaited = next(answering)
            while True:
                if ready := (yield awaited):
                    heard = time.monotonic()
                elif time.monotonic() > heard + (ANSWER_SECONDS if self._in_haste else ASK_SECONDS):
                    if self._in_haste or not self._answers_elsewhere():
                        self.pgconn.finish()
                        raise psycopg.OperationalError("the server has not answered for too long")
                    heard = time.monotonic()
                awaited = answering.send(ready)
        except StopIteration as end:
            return end.value

    def _answers_elsewhere(self) -> bool:
        """Return whether the server takes another connection."""
        try:
            psycopg.connect(**self._known or {}).close()
        except psycopg.OperationalError:
            return False
        return True


def connect(url: str) -> Connection:
    """Return a connection to the address, in which each statement is a transaction of its own."""
    return Connection.to(parameters(url))


def parameters(url: str) -> dict[str, Any]:
    """Return an address as psycopg's parameters: its own parser repeats in an error what it cannot read."""
    address = urlsplit(url)
    given = {
        "host": address.hostname,
        "port": address.port,
        "user": address.username and unquote(address.username),
        "password": address.password and unquote(address.password),
        "dbname": unquote(address.path.lstrip("/")),
    }
    found = {name: value for name, value in given.items() if value}
    known = {"application_name": "tableloop", **found, **dict(parse_qsl(address.query))}
    known["options"] = f"{known.get('options', '')} {BY_INDEX}".strip()
    return known | {"connect_timeout": CONNECT_SECONDS}


def place(url: str) -> str:
    """Return an address in words, without login and options."""
    known = parameters(url)
    return f"postgresql://{known.get('host', '')}:{known.get('port', 5432)}/{known.get('dbname', '')}"


@contextmanager
def as_store_errors() -> Iterator[None]:
    """Raise psycopg's errors as those of the store, in one line."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise StoreError(" ".join(str(error).split())) from error
