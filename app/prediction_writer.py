"""The prediction log: every answered prediction, and later its true value, as rows of the store.

One thread writes. While it commits, other requests queue, and all that queued is the next commit: one transaction
for one request when it is quiet, one for dozens when it is not. `PredictionLog.write` returns after the commit.

In SQLite, ``synchronous=NORMAL`` in WAL mode: a commit is one write to the operating system without waiting for the
disk. It survives the end of this process in any way, SIGKILL included, which is what an answered prediction is
promised. Only a crash of the machine can lose the last commits, and it leaves a sound file; FULL would cost an fsync
a commit. PostgreSQL answers when its own log is on the disk.

Predictions older than the retention are deleted, a few at a time, unless they have a label: labelled rows are kept
for training. The file does not shrink: new rows take the room of deleted ones. PostgreSQL drops whole weeks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from loguru import logger

from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.prediction_rows import Label, Row, RowWriter, Sent
from tableloop.table import load_table

STOP_SECONDS: Final = 2.0
MAX_QUEUED_ROWS: Final = 50_000
LABELS_PER_COMMIT: Final = 500  # some 10 ms, which predictions may have to wait
TRY_SECONDS: Final = 2.0  # without a write, until one is tried
PRUNE_SECONDS: Final = 60.0
PRUNE_PAUSE_SECONDS: Final = 0.25  # while there is more to delete


class PredictionLogError(Exception):
    """The log cannot be written; the message names the store, the cause and the remedy."""


class _Entry(NamedTuple):
    rows: list[Row]
    waiting: Sequence[asyncio.Future[None]]


class _LabelEntry(NamedTuple):
    labels: list[Sent]
    sender: str
    waiting: asyncio.Future[list[Label]]


class PredictionLog:
    """Writes predictions to the store, made by `prediction_rows.row`, and their labels.

    ``retention_days``: predictions without a label are deleted when they are older; 0 keeps all. ``turn``: held while
    something is written. SQLite itself lets those in by chance who wait for each other, and one of them may give up.
    """

    def __init__(
        self,
        store: Store,
        retention_days: float = 0,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.store = store
        self._turn = turn
        self.problem: str | None = None  # why the last write has failed
        self._retention_seconds = retention_days * 86_400
        self._prune_at = 0.0
        self._try_at = 0.0
        self._queue: SimpleQueue[_Entry | _LabelEntry | None] = SimpleQueue()
        self._queued_rows = 0
        self._writer: RowWriter | None = None
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    def start(self) -> None:
        """Open the store, so that one that cannot be used is reported at once, and start the writer."""
        self._commit([])
        self._thread.start()

    def stop(self) -> None:
        """Commit what is queued and close the store."""
        self._queue.put(None)
        self._thread.join(timeout=STOP_SECONDS)

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
            raise PredictionLogError(f"the prediction log {self.store.place} is behind; try again in a moment")
        self._queued_rows += len(rows)
        self._queue.put(_Entry(rows, waiting))

    async def label(self, labels: list[Sent], sender: str) -> list[Label]:
        """Store true values by prediction id, and return what became of each, in their order, once it is committed.

        A prediction is labelled once: of several labels the first one stays. An unusual value is stored only when the
        label says that it is sure.

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
            self._queue.put(_LabelEntry(part, sender, waiting))
            outcomes += await waiting
        return outcomes

    def _run(self) -> None:
        group: list[_Entry | _LabelEntry | None] = []
        while group[-1:] != [None]:
            try:
                until = min(self._prune_at, self._try_at)
                group = [self._queue.get(timeout=max(0.0, until - time.monotonic()))]
            except Empty:
                if time.monotonic() >= self._try_at:
                    self._try()
                if time.monotonic() >= self._prune_at:
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
            writer = self._open()
            if rows:
                with self._turn():
                    writer.insert(rows)
        except StoreError as error:
            return self._failed(error)
        self._succeeded()
        return None

    def _label(self, entry: _LabelEntry) -> None:
        problem = None
        outcomes: list[Label] = []
        try:
            writer = self._open()
            with self._turn():
                outcomes = writer.insert_labels(entry.labels, entry.sender, load_table())
            self._succeeded()
        except StoreError as error:
            problem = self._failed(error)
        entry.waiting.get_loop().call_soon_threadsafe(settle, entry.waiting, problem, outcomes)

    def _try(self) -> None:
        """Write nothing new, so that `problem` is known, and known to be over, when nobody asks for predictions."""
        try:
            self.store.check_room()
            if self.store.exists():  # one that is missing is made by the next prediction
                writer = self._open()
                with self._turn():
                    writer.try_to_write()
        except StoreError as error:
            self._failed(error)
        else:
            self._succeeded()

    def _prune(self) -> None:
        """Delete the next few predictions that are too old."""
        self._prune_at = time.monotonic() + PRUNE_SECONDS
        before = time.time() - self._retention_seconds if self._retention_seconds else None
        try:
            if not self.store.exists():
                return
            writer = self._open()
            with self._turn():
                has_more = writer.tidy(before)
            if has_more:
                self._prune_at = time.monotonic() + PRUNE_PAUSE_SECONDS
        except StoreError as error:
            self._close()
            logger.warning(f"old predictions in {self.store.place} cannot be deleted: {error}")

    def _failed(self, error: StoreError) -> PredictionLogError:
        """Return what is wrong with the log, and report it when it is new."""
        self._close()  # the next group begins with a fresh look at the store
        self._try_at = time.monotonic() + TRY_SECONDS
        problem = f"the prediction log {self.store.place} cannot be written ({error}): {self.store.remedy(error)}"
        if self.problem is None:
            logger.error(problem)
        self.problem = problem
        return PredictionLogError(problem)

    def _succeeded(self) -> None:
        self._try_at = time.monotonic() + TRY_SECONDS
        if self.problem is not None:
            logger.info(f"the prediction log {self.store.place} is written again")
            self.problem = None

    def _resolve(self, group: list[_Entry], problem: PredictionLogError | None) -> None:
        for rows, waiting in group:
            self._queued_rows -= len(rows)
            for future in waiting:
                settle(future, problem)

    def _open(self) -> RowWriter:
        if self._writer is None or not self._writer.is_current():
            self._close()
            self._writer = self.store.writer()
        return self._writer

    def _close(self) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except StoreError as error:
                logger.warning(f"closing {self.store.place}: {error}")
            self._writer = None


def settle(waiting: asyncio.Future[Any], problem: Exception | None, result: Any = None) -> None:
    """Give a future its result, or the exception where there is a problem."""
    if waiting.done():  # the client went away and its request was cancelled
        return
    if problem is None:
        waiting.set_result(result)
    else:
        waiting.set_exception(problem)
