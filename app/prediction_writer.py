"""The prediction log: every answered prediction, and later its true value, as rows of a SQLite file.

One thread writes. While it commits, other requests queue, and all that queued is the next commit: one transaction
for one request when it is quiet, one for dozens when it is not. `PredictionLog.write` returns after the commit.

``synchronous=NORMAL`` in WAL mode: a commit is one write to the operating system without waiting for the disk. It
survives the end of this process in any way, SIGKILL included, which is what an answered prediction is promised.
Only a crash of the machine can lose the last commits, and it leaves a sound file; FULL would cost an fsync a commit.

Predictions older than the retention are deleted, a few at a time, unless they have a label: labelled rows are kept
for training. The file does not shrink; what was deleted is the room for what comes.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from loguru import logger

from tableloop.state.database import Store, StoreError
from tableloop.state.prediction_rows import Label, Row, insert, insert_labels, prune

LOCK_TIMEOUT_SECONDS: Final = 2.0
MAX_QUEUED_ROWS: Final = 50_000
LABELS_PER_COMMIT: Final = 500  # some 10 ms, which predictions may have to wait
PRUNE_SECONDS: Final = 60.0
PRUNE_PAUSE_SECONDS: Final = 0.25  # while there is more to delete


class PredictionLogError(Exception):
    """The log cannot be written; the message names the file, the cause and the remedy."""


class _Entry(NamedTuple):
    rows: list[Row]
    waiting: Sequence[asyncio.Future[None]]


class _LabelEntry(NamedTuple):
    labels: list[tuple[str, float]]
    waiting: asyncio.Future[list[Label]]


class PredictionLog:
    """Writes predictions to ``path``, made by `prediction_rows.row`, and their labels.

    ``retention_days``: predictions without a label are deleted when they are older; 0 keeps all.
    """

    def __init__(self, path: Path, retention_days: float = 0) -> None:
        self.path = path
        self.store = Store(path, timeout=LOCK_TIMEOUT_SECONDS)
        self.problem: str | None = None
        self._names = tuple(self.store.feature_names)
        self._retention_seconds = retention_days * 86_400
        self._prune_at = 0.0
        self._pruned_to = 0
        self._queue: SimpleQueue[_Entry | _LabelEntry | None] = SimpleQueue()
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
        """Enqueue the rows, and return when they are committed."""
        committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.enqueue(rows, [committed])
        await committed

    def enqueue(self, rows: list[Row], waiting: Sequence[asyncio.Future[None]]) -> None:
        """Have the rows committed, all or none; then each of ``waiting`` is done, or has a `PredictionLogError`.

        Raises
        ------
        PredictionLogError
            The queue is full.
        """
        if self._queued_rows > MAX_QUEUED_ROWS:
            raise PredictionLogError(f"the prediction log {self.path} is behind; try again in a moment")
        self._queued_rows += len(rows)
        self._queue.put(_Entry(rows, waiting))

    async def label(self, labels: list[tuple[str, float]]) -> list[Label]:
        """Store true values by prediction id, and return what became of each, in their order, once it is committed.

        A prediction is labelled once: of several labels the first one stays.

        Raises
        ------
        PredictionLogError
            The log cannot be written. Parts of a long list may have been stored: sending it again does no harm.
        """
        outcomes: list[Label] = []
        loop = asyncio.get_running_loop()
        for start in range(0, len(labels), LABELS_PER_COMMIT):
            part = labels[start : start + LABELS_PER_COMMIT]
            waiting: asyncio.Future[list[Label]] = loop.create_future()
            self._queue.put(_LabelEntry(part, waiting))
            outcomes += await waiting
        return outcomes

    def _run(self) -> None:
        group: list[_Entry | _LabelEntry | None] = []
        while group[-1:] != [None]:
            try:
                group = [self._queue.get(timeout=max(0.0, self._prune_at - time.monotonic()))]
            except Empty:
                self._prune()
                continue
            with suppress(Empty):
                while isinstance(group[-1], _Entry):  # labels end their group, so that no group is long
                    group.append(self._queue.get_nowait())
            if entries := [entry for entry in group if isinstance(entry, _Entry)]:
                problem = self._commit([row for entry in entries for row in entry.rows])
                # All futures belong to the one event loop of the process.
                entries[0].waiting[0].get_loop().call_soon_threadsafe(self._resolve, entries, problem)
            if isinstance(group[-1], _LabelEntry):
                self._label(group[-1])
            if time.monotonic() >= self._prune_at:  # also when the queue is never empty
                self._prune()
        self._close()

    def _commit(self, rows: list[Row]) -> PredictionLogError | None:
        """Write the rows in one transaction; return what went wrong, if anything."""
        try:
            connection = self._open()
            if rows:
                insert(connection, rows, self._names)
        except (StoreError, sqlite3.Error, OSError) as error:
            return self._failed(error)
        self._succeeded()
        return None

    def _label(self, entry: _LabelEntry) -> None:
        problem = None
        outcomes: list[Label] = []
        try:
            outcomes = insert_labels(self._open(), entry.labels)
            self._succeeded()
        except (StoreError, sqlite3.Error, OSError) as error:
            problem = self._failed(error)
        entry.waiting.get_loop().call_soon_threadsafe(settle, entry.waiting, problem, outcomes)

    def _prune(self) -> None:
        """Delete the next few predictions that are too old; what was looked at once is not looked at again."""
        self._prune_at = time.monotonic() + PRUNE_SECONDS
        if not self._retention_seconds:
            return
        try:
            end = prune(self._open(), self._pruned_to, time.time() - self._retention_seconds)
        except (StoreError, sqlite3.Error, OSError) as error:
            self._close()
            logger.warning(f"old predictions in {self.path} cannot be deleted: {error}")
            return
        if end is not None:
            self._pruned_to = end
            self._prune_at = time.monotonic() + PRUNE_PAUSE_SECONDS

    def _failed(self, error: Exception) -> PredictionLogError:
        """Return what is wrong with the log, and report it when it is new."""
        self._close()  # the next group begins with a fresh look at the file
        problem = f"the prediction log {self.path} cannot be written ({error}): {_remedy(error, self.path)}"
        if self.problem is None:
            logger.error(problem)
        self.problem = problem
        return PredictionLogError(problem)

    def _succeeded(self) -> None:
        if self.problem is not None:
            logger.info(f"the prediction log {self.path} is written again")
            self.problem = None

    def _resolve(self, group: list[_Entry], problem: PredictionLogError | None) -> None:
        for rows, waiting in group:
            self._queued_rows -= len(rows)
            for future in waiting:
                settle(future, problem)

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            # a file that was moved away or deleted would go on taking rows that nobody can find
            with suppress(FileNotFoundError):
                if self.path.stat().st_ino == self._inode:
                    return self._connection
            self._close()
        connection = self.store.connect()
        if self.path.stat().st_ino != self._inode:
            self._pruned_to = 0
        self._connection, self._inode = connection, self.path.stat().st_ino
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error as error:
                logger.warning(f"closing {self.path}: {error}")
            self._connection = None


def settle(waiting: asyncio.Future[Any], problem: Exception | None, result: Any = None) -> None:
    """Give a future its result, or the exception where there is a problem."""
    if waiting.done():  # the client went away and its request was cancelled
        return
    if problem is None:
        waiting.set_result(result)
    else:
        waiting.set_exception(problem)


def _remedy(error: Exception, path: Path) -> str:
    text = str(error)
    if "locked" in text:
        return "another program holds it open for writing; end that one"
    if "malformed" in text or "not a database" in text:
        return f"move it away (mv {path} {path}.broken), a new one is made at the next prediction"
    if "readonly" in text or "unable to open" in text or isinstance(error, PermissionError):
        return f"make {path.parent} and the file writable for uid {os.getuid()}"
    return "free space on that disk, predictions go on by themselves; PREDICTION_LOG=off answers without a log"
