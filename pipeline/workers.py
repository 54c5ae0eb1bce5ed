"""Who does the work of a training or a long scoring: the cores of this machine, or the workers of a Dask cluster.

Both are an executor of ``concurrent.futures``. Functions are sent by their names, arguments and results are pickled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager, suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

from loguru import logger

from pipeline.code_identity import identity
from pipeline.stage_runner import StageError

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as Task

START_SECONDS: Final = 8.0  # that a scheduler and a first worker are waited for
BACK_SECONDS: Final = 120.0  # the same for those that were there and have gone
CONNECT_SECONDS: Final = 3.0  # of one attempt
LOOK_SECONDS: Final = 1.0  # between two looks at who is there
MOST_TASKS: Final = 256  # at a time


@contextmanager
def workers(scheduler: str = "") -> Iterator[Executor]:
    """Yield an executor: processes of this machine, or with the address of a ``scheduler`` its workers.

    Whatever ends the block ends the tasks as well.

    Raises
    ------
    StageError
        There is no scheduler, or none of its workers has the same code, packages and number of threads.
    """
    pool = DaskExecutor(scheduler) if scheduler else ProcessPoolExecutor()
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def shared(pool: Executor, value: Any) -> Any:
    """Return what stands for a value in the arguments of tasks; a cluster is sent the value once."""
    return _Shared(value) if isinstance(pool, DaskExecutor) else value


def run_on(pool: Executor) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """Return `map` of a function over items, each of them a task."""
    return lambda function, items: pool.map(_call, repeat(shared(pool, function)), items)


class DaskExecutor(ThreadPoolExecutor):
    """The workers of a scheduler that have our code, packages and number of threads.

    They name these as resources, and every task asks for them, so that Dask gives no other worker any of our tasks,
    whenever it joins. A task of a worker that is killed goes to another one, which is Dask's own doing. Beside that,
    each task has a thread here, which submits it again when the scheduler was lost and has come back.

    No more tasks are handed over than there are workers: of a worker that is killed, Dask blames all that it was
    given, and the tasks that only waited there would be among those that fail in the end.

    Raises
    ------
    StageError
        As `workers`. Of a task: the scheduler, or all workers, have gone and have not come back in `BACK_SECONDS`.
    concurrent.futures.BrokenExecutor
        Of a task: several workers were killed while they had it.
    """

    def __init__(self, scheduler: str) -> None:
        super().__init__(MOST_TASKS, "dask")
        self._scheduler = scheduler
        self._resources = dict.fromkeys(identity(), 1)
        self._tasks: set[Task[Any]] = set()  # those that the scheduler has
        self._closing = False
        self._lock = threading.Condition()  # guards all that follows
        self._client: Client | None = None
        self._turns = 0  # taken by our tasks, one a worker
        self._workers = 0
        self._refused: dict[str, str] = {}  # addresses of other workers, and why
        self._next_look = 0.0
        self._deadline = time.monotonic() + START_SECONDS  # for the scheduler and a worker to be there
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what it says at length is said here
        try:
            with self._lock:
                while not self._workers:
                    self._look()
                    self._lock.wait(0 if self._workers else LOOK_SECONDS)
        except BaseException:
            self.shutdown(cancel_futures=True)
            raise

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Future[Any]:
        """Begin a task; values of `shared` may be among its arguments."""
        return super().submit(self._perform, function, arguments, keywords)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the tasks, or cancel them: a worker ends its process over a task that nobody waits for."""
        self._closing = self._closing or cancel_futures
        client = self._client
        if cancel_futures and client is not None and client.status == "running":
            with suppress(OSError, CancelledError):  # the scheduler is lost in this moment
                client.cancel(list(self._tasks))
        super().shutdown(wait, cancel_futures=cancel_futures)
        if self._client is not None:
            self._client.close(timeout=CONNECT_SECONDS)

    def _perform(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Return the result of a task, which is begun again as often as it is lost with the scheduler."""
        while not self._closing:
            client = self._turn()
            try:
                if outcome := self._attempt(client, function, arguments, keywords):
                    return outcome[0]
            finally:
                with self._lock:
                    self._turns -= 1
                    self._lock.notify_all()
        raise CancelledError

    def _attempt(
        self, client: Client, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[Any] | None:
        """Return the result of a task, alone in a tuple; None of one that is lost."""
        from distributed import KilledWorker  # noqa: PLC0415 - the default start has no use for it

        try:
            known = [each.on(client, self._resources) if isinstance(each, _Shared) else each for each in arguments]
            task = client.submit(function, *known, **keywords, resources=self._resources, pure=False)
        except Exception:
            if client.status == "running":
                raise
            return None
        self._tasks.add(task)
        ended = threading.Event()
        task.add_done_callback(lambda _: ended.set())
        try:
            while not self._closing and not ended.wait(LOOK_SECONDS):
                with self._lock:
                    self._look()
            if task.status == "error":
                error = task.exception()
                raise BrokenExecutor(str(error)) if isinstance(error, KilledWorker) else error
            with suppress(OSError, CancelledError):  # the worker or the scheduler was lost after all
                return (task.result(),) if task.status == "finished" else None
            return None
        finally:
            self._tasks.discard(task)

    def _turn(self) -> Client:
        """Wait until there are more workers than tasks of ours, and return the client to submit the next one with."""
        with self._lock:
            while not self._closing:
                self._look()
                if self._client is not None and self._turns < self._workers:
                    self._turns += 1
                    return self._client
                self._lock.wait(LOOK_SECONDS)
        raise CancelledError

    def _look(self) -> None:
        """Count the workers, once in `LOOK_SECONDS`, and say whom we refuse; the caller holds the lock."""
        if time.monotonic() < self._next_look:
            return
        try:
            found = self._connected().scheduler_info()["workers"]
        except OSError:
            found = {}
        refused = {address: reason for address, one in found.items() if (reason := self._reason_against(one))}
        for address in refused.keys() - self._refused.keys():
            logger.warning("the Dask worker at {} gets no task: it {}", address, refused[address])
        self._refused, self._workers = refused, len(found) - len(refused)
        now = time.monotonic()
        self._next_look = now + LOOK_SECONDS
        if self._workers:
            self._deadline = now + BACK_SECONDS
        elif now > self._deadline:
            others = "".join(f"; the one at {address} {reason}" for address, reason in refused.items())
            raise StageError(
                f"DASK_SCHEDULER={self._scheduler}: it has no worker that can be used: start one of the same image "
                f"or checkout as this process (./entrypoint.sh dask-worker){others}"
            )

    def _connected(self) -> Client:
        """Return the client, a new one when the connection was lost; the caller holds the lock."""
        from distributed import Client  # noqa: PLC0415 - as above

        if self._client is not None and self._client.status == "running":
            return self._client
        if self._client is not None:
            logger.warning("DASK_SCHEDULER={} is lost, its tasks are begun again when it is back", self._scheduler)
            self._client.close(timeout=1)
            self._client = None
        while not self._closing:
            try:
                self._client = Client(self._scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
            except (OSError, ValueError) as error:
                if time.monotonic() > self._deadline:
                    raise StageError(
                        f"DASK_SCHEDULER={self._scheduler}: no scheduler answers ({error}): start one "
                        "(./entrypoint.sh dask-scheduler), or leave DASK_SCHEDULER empty to train on this machine"
                    ) from error
            else:
                return self._client
        raise CancelledError

    def _reason_against(self, worker: Mapping[str, Any]) -> str:
        """Return what a worker has that would make other numbers; nothing of one that has what we have."""
        missing, has = self._resources.keys() - worker["resources"].keys(), sorted(worker["resources"])
        if missing and not has:
            return "does not name its code: start it by ./entrypoint.sh dask-worker"
        others = ", ".join(sorted(has_not for has_not in has if has_not not in self._resources)) or "less"
        return f"has {others}, not {', '.join(sorted(missing))}" if missing else ""


class _Shared:
    """A value that a cluster is sent once, and once more after its scheduler was lost."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._lock = threading.Lock()
        self._sent: tuple[Client, Task[Any]] | None = None

    def on(self, client: Client, resources: dict[str, int]) -> Task[Any]:
        """Return a task that gives the value: unlike scattered data, Dask makes it again when its worker is lost."""
        with self._lock:
            if self._sent is None or self._sent[0] is not client or self._sent[1].status in ("error", "cancelled"):
                self._sent = client, client.submit(_same, self._value, resources=resources, pure=False)
            return self._sent[1]


def _same(value: Any) -> Any:
    return value


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)
