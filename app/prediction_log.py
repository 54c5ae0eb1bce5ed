"""The prediction log: every answered prediction as a row of a SQLite file.

One thread writes. While it commits, other requests queue, and all that queued is the next commit: one transaction
for one request when it is quiet, one for dozens when it is not. `PredictionLog.write` returns after the commit.

``synchronous=NORMAL`` in WAL mode: a commit is one write to the operating system without waiting for the disk. It
survives the end of this process in any way, SIGKILL included, which is what an answered prediction is promised.
Only a crash of the machine can lose the last commits, and it leaves a sound file; FULL would cost an fsync a commit.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from loguru import logger

from pipeline.schema import FEATURE_NAMES

LOCK_TIMEOUT_SECONDS: Final = 2.0
MAX_QUEUED_ROWS: Final = 50_000
ROWS_PER_STATEMENT: Final = 64

Row = tuple[Any, ...]
COLUMNS: Final = (
    "prediction_id", "request_id", "requested_at", "model_version", *FEATURE_NAMES, "prediction", "low", "high",
)  # fmt: skip
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS predictions (
    id INTEGER PRIMARY KEY,
    prediction_id TEXT NOT NULL UNIQUE,
    request_id TEXT NOT NULL,
    requested_at REAL NOT NULL,
    model_version TEXT NOT NULL,
    {", ".join(f"{name} REAL NOT NULL" for name in FEATURE_NAMES)},
    prediction REAL NOT NULL,
    low REAL NOT NULL,
    high REAL NOT NULL
)"""


class PredictionLogError(Exception):
    """The log cannot be written; the message names the file, the cause and the remedy."""


class _Entry(NamedTuple):
    rows: list[Row]
    waiting: Sequence[asyncio.Future[None]]


class PredictionLog:
    """Writes predictions to ``path``, rows as tuples in the order of `COLUMNS`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        self._queued_rows = 0
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    def start(self) -> None:
        """Open the file, so that a wrong one is told at once, and start the writer."""
        self._commit([])
        self._thread.start()

    def stop(self) -> None:
        """Commit what is queued and close the file."""
        self._queue.put(None)
        self._thread.join(timeout=LOCK_TIMEOUT_SECONDS)

    async def write(self, rows: list[Row]) -> None:
        """Return when the rows are committed, all or none.

        Raises
        ------
        PredictionLogError
            They are not, and will not be.
        """
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.enqueue(rows, [committed])
        await committed

    def enqueue(self, rows: list[Row], waiting: Sequence[asyncio.Future[None]]) -> None:
        """Have the rows committed, all or none; then each of ``waiting`` is done, or has a `PredictionLogError`.

        Raises
        ------
        PredictionLogError
            There is more to write than can be written.
        """
        if self._queued_rows > MAX_QUEUED_ROWS:
            raise PredictionLogError(f"the prediction log {self.path} is behind; try again in a moment")
        self._queued_rows += len(rows)
        self._queue.put(_Entry(rows, waiting))

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            group = [entry]
            stopping = False
            while not stopping:
                try:
                    more = self._queue.get_nowait()
                except Empty:
                    break
                if more is None:
                    stopping = True
                else:
                    group.append(more)
            problem = self._commit([row for entry in group for row in entry.rows])
            # all futures belong to the one event loop of the process
            group[0].waiting[0].get_loop().call_soon_threadsafe(self._resolve, group, problem)
            if stopping:
                break
        self._close()

    def _commit(self, rows: list[Row]) -> str | None:
        """Write the rows in one transaction; return what went wrong, if anything."""
        try:
            connection = self._open()
            if rows:
                _insert(connection, rows)
        except (sqlite3.Error, OSError) as error:
            self._close()  # the next group begins with a fresh look at the file
            problem = f"the prediction log {self.path} cannot be written ({error}): {_remedy(error, self.path)}"
            if self.problem is None:
                logger.error(problem)
            self.problem = problem
            return problem
        if self.problem is not None:
            logger.info(f"the prediction log {self.path} is written again")
            self.problem = None
        return None

    def _resolve(self, group: list[_Entry], problem: str | None) -> None:
        for rows, waiting in group:
            self._queued_rows -= len(rows)
            for future in waiting:
                if future.done():  # the client went away and its request was cancelled
                    continue
                if problem is None:
                    future.set_result(None)
                else:
                    future.set_exception(PredictionLogError(problem))

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            # a file that was moved away or deleted would go on taking rows that nobody can find
            with suppress(FileNotFoundError):
                if self.path.stat().st_ino == self._inode:
                    return self._connection
            self._close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path,
            timeout=LOCK_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=2 * ROWS_PER_STATEMENT,
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        self._connection, self._inode = connection, self.path.stat().st_ino
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error as error:
                logger.warning(f"closing {self.path}: {error}")
            self._connection = None


def _insert(connection: sqlite3.Connection, rows: list[Row]) -> None:
    """Insert the rows in one transaction.

    Many rows in one statement, because each statement gives up the interpreter lock and waits to have it back from
    a busy event loop.
    """
    if len(rows) <= ROWS_PER_STATEMENT:
        connection.execute(_statement(len(rows)), [value for row in rows for value in row])
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            part = rows[start : start + ROWS_PER_STATEMENT]
            connection.execute(_statement(len(part)), [value for row in part for value in row])
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statement(count: int) -> str:
    return _STATEMENTS[count - 1]


_PLACES = "(" + ", ".join("?" * len(COLUMNS)) + ")"
_STATEMENTS: Final = tuple(
    f"INSERT INTO predictions ({', '.join(COLUMNS)}) VALUES {', '.join([_PLACES] * count)}"  # noqa: S608 - constants
    for count in range(1, ROWS_PER_STATEMENT + 1)
)


def _remedy(error: Exception, path: Path) -> str:
    text = str(error)
    if "locked" in text:
        return "another program holds it open for writing; end that one"
    if "malformed" in text or "not a database" in text:
        return f"move it away (mv {path} {path}.broken), a new one is made at the next prediction"
    if "readonly" in text or "unable to open" in text or isinstance(error, PermissionError):
        return f"make {path.parent} and the file writable for uid {os.getuid()}"
    return "free space on that disk, predictions go on by themselves; PREDICTION_LOG=off answers without a log"
