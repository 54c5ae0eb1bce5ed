"""The lock of retrainings in PostgreSQL: one of all machines that use the database.

It belongs to a connection. The server gives it back when that ends, however it ends, and at the latest some two
minutes after its machine is gone. A holder whose connection is lost takes the lock again when the server is back;
when somebody else was faster, it is told to stop, as by ``kill``.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC
from typing import Any, Final

from tableloop.state.errors import StoreError
from tableloop.state.postgres_connection import Connection, as_store_errors, connect, parameters

RETRAINING: Final = 0x7472616E  # key of the advisory lock
LOOK_SECONDS: Final = 1.0  # between two looks at the connection
_ALIVE: Final = "-c tcp_keepalives_idle=60 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=6"
_HOLDER: Final = """
SELECT application_name, backend_start FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND classid = 0 AND objid = %s AND granted AND datname = current_database()"""


@contextmanager
def advisory_lock(url: str, holder: str) -> Iterator[bool]:
    """Yield whether the lock is held, until the end; child processes inherit it as they do that of a file."""
    known = parameters(url)
    known["application_name"] = f"{holder} on {socket.gethostname()[:20]}, process {os.getpid()}"
    known["options"] += f" {_ALIVE}"
    connection = _take(known)
    if connection is None:
        yield False
        return
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(connection, known, ended), name="retraining-lock", daemon=True)
    keeper.start()
    try:
        yield True
    finally:
        ended.set()
        keeper.join()


def holder(url: str) -> str:
    """Return who holds the lock, in words; an empty string when nobody does."""
    with as_store_errors(), connect(url) as connection:
        found = connection.execute(_HOLDER, (RETRAINING,)).fetchone()
    return f"{found[0]}, since {found[1].astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}," if found else ""


def _take(known: dict[str, Any]) -> Connection | None:
    """Return a connection that holds the lock; None when somebody else does."""
    with as_store_errors():
        connection = Connection.to(known)
        if connection.execute("SELECT pg_try_advisory_lock(%s)", (RETRAINING,)).fetchone() == (True,):
            os.set_inheritable(connection.fileno(), True)
            return connection
        connection.close()
    return None


def _keep(connection: Connection, known: dict[str, Any], ended: threading.Event) -> None:
    """Hold the lock until the end; a connection that can be read from was closed by the server."""
    while not ended.wait(LOOK_SECONDS):
        if not connection.closed and not select.select([connection], [], [], 0)[0]:
            continue
        connection.close()
        with suppress(StoreError):  # the server is not back yet
            taken = _take(known)
            if taken is None:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            connection = taken
    connection.close()
