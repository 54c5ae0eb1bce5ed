"""Who may change what in the state at a time.

Locks of the kernel (flock): it gives them back when their holders end, however they end. With a database on a
server, the lock of retrainings is one of the server too. Only the standard library, unless there is such a server.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tableloop.state.layout import Layout

BUSY = 3  # exit code of a command that found the lock of retrainings taken


class BusyError(Exception):
    """Somebody else holds the lock of retrainings; the message says who and since when."""


@contextmanager
def retraining_lock(layout: Layout, holder: str = "a retraining", *, database_url: str = "") -> Iterator[None]:
    """Hold the one lock of all retrainings, and of what must not meet one; ``holder`` says for what.

    With ``database_url`` it is held on all machines that use this database.

    Child processes started with ``close_fds=False`` inherit it: a training that goes on after its parent was killed
    is still a training.

    Raises
    ------
    BusyError
    StoreError
        The server cannot be asked.
    """
    path = layout.retraining_lock
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{_holder(path)} runs already") from None
        file.truncate(0)
        file.write(f"{holder} (process {os.getpid()} since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ})\n")
        file.flush()
        os.set_inheritable(file.fileno(), True)
        if not database_url:
            yield
            return
        from tableloop.state import postgres_lock  # noqa: PLC0415 - psycopg

        with postgres_lock.advisory_lock(database_url, holder) as held:
            if not held:
                raise BusyError(f"{postgres_lock.holder(database_url) or 'a retraining'} runs already")
            yield


def retraining_lock_holder(layout: Layout, *, database_url: str = "") -> str:
    """Return who holds the lock of retrainings, in words; an empty string when nobody does."""
    if is_held(layout.retraining_lock):
        return _holder(layout.retraining_lock)
    if not database_url:
        return ""
    from tableloop.state import postgres_lock  # noqa: PLC0415 - psycopg

    return postgres_lock.holder(database_url)


def is_held(lock: Path) -> bool:
    """Return whether somebody holds a lock alone."""
    try:
        with lock.open("rb") as file:
            # Shared, and given back at once: two that only look are not in each other's way.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def champion_lock(directory: Path, *, change: bool) -> Iterator[None]:
    """Hold the service's local copy of the model: alone to ``change`` it, else so that nobody can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if change else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    return path.read_text().strip() or "a retraining, just begun,"
