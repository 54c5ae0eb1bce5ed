"""Several processes of the service behind one port: their parent, and the memory that they share.

The parent has the listening socket and everything that is imported. Its children are forked, so that most of that
memory is theirs together, and take connections from the one socket: what a child has not taken when it is killed
or hangs is taken by another. The parent starts anew what ends, and kills what hangs.
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import math
import mmap
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from loguru import logger
from prometheus_client import CollectorRegistry, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

BEAT_SECONDS: Final = 1.0
HUNG_BEATS: Final = 5  # so many left out: the largest list of rows halts a process for less than one
STOP_SECONDS: Final = 4.0  # supervisord grants five
ENDS, ENDS_SECONDS = 9, 120.0  # when so many have ended in so many seconds, it is not by accident
SLOTS: Final = 1 << 14
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - each makes a directory of its own there
CLOSED, WITHOUT_MODEL, READY = range(3)  # a process takes no connections yet; it does without a model; with one
RUNNING, DRAINING, STOPPING = range(3)  # all processes; those that drain answer, and say that others should


def shared_zeros(*shape: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros in memory that this process shares with those forked from it."""
    memory = mmap.mmap(-1, math.prod(shape) * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype).reshape(shape)


class Processes:
    """How many processes serve, which of them this one is, and what they know of each other.

    What they share is made before they are forked. Each process writes to its own row of it, so nothing is locked.
    """

    def __init__(self, count: int = 1, drain_seconds: float = 0) -> None:
        self.count = count
        self.drain_seconds = drain_seconds
        self.number = 0 if count == 1 else count  # of this process; the parent of several has none of theirs
        self._beats = shared_zeros(count, dtype=np.int64)
        self._states = shared_zeros(count, dtype=np.int8)
        self._phase = shared_zeros(1, dtype=np.int8)
        self._ids = shared_zeros(count, dtype=np.int64)
        self._parent = os.getpid()
        self._held: list[Held] = []
        self._locks: dict[str, BinaryIO] = {}
        self._directory = ""
        if count > 1:
            # In memory, because writing to a mapped file on a full disk ends a process.
            self._directory = mkdtemp(prefix="tableloop-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
            atexit.register(self._remove_directory)  # of this process: those that are forked do nothing at their exit

    def held(self) -> Held:
        """Return a new count of what addresses hold; a process that is started anew holds nothing."""
        made = Held(self)
        self._held.append(made)
        return made

    def counters(self, registry: CollectorRegistry) -> CollectorRegistry:
        """Return where metrics of the client library are to be made so that `registry` has the sums of all processes.

        Several processes count in mapped files. What a killed one has counted stays there, and the next of its number
        goes on from it.
        """
        if self.count == 1:
            return registry
        for number in range(self.count):
            for kind in ("counter", "histogram", "summary"):  # one that is just being made could not be read
                MmapedDict(f"{self._directory}/{kind}_{number}.db").close()  # type: ignore[no-untyped-call]
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._directory
        values.ValueClass = values.MultiProcessValue(lambda: self.number)  # type: ignore[no-untyped-call]
        MultiProcessCollector(registry, self._directory)  # type: ignore[no-untyped-call]
        return CollectorRegistry()

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Do alone among the processes what is called so, in one thread of each; a killed one gives the lock back."""
        if self.count == 1:
            yield
            return
        if name not in self._locks:
            self._locks[name] = (Path(self._directory) / name).open("ab")
        fcntl.flock(self._locks[name], fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._locks[name], fcntl.LOCK_UN)

    @property
    def ids(self) -> list[int]:
        """The process ids of all, and of their parent."""
        return [self._parent, *(number for number in self._ids.tolist() if number)]

    @property
    def taking(self) -> int:
        """The number of processes that take connections."""
        return int((self._states != CLOSED).sum())

    @property
    def others_have_models(self) -> bool:
        """Whether each other process that takes connections has a model."""
        return not np.delete(self._states == WITHOUT_MODEL, self.number).any()

    def stops(self) -> bool:
        """Return whether this process has to end: all of them do, or their parent was killed."""
        return bool(self._phase[0] == STOPPING) or (self.count > 1 and os.getppid() != self._parent)

    @property
    def draining(self) -> bool:
        """Whether this service has been told to stop."""
        return bool(self._phase[0] != RUNNING)

    def drain(self) -> None:
        """Note that it has been told so."""
        self._phase[0] = DRAINING

    def beat(self, *, has_model: bool) -> None:
        """Tell the parent that this process, which takes connections, does not hang."""
        self._beats[self.number] += 1
        self._states[self.number] = READY if has_model else WITHOUT_MODEL

    async def turn(self, has_model: Callable[[], bool], may_yet: Callable[[], bool]) -> None:
        """Wait until this process should take connections: it has a model, or no process has one.

        ``may_yet``: whether this process still looks at what could give it a model at once.
        """
        while self.count > 1 and not has_model() and not self.stops():
            if not may_yet() and not (self._states == READY).any():
                break
            self._beats[self.number] += 1
            await asyncio.sleep(0.05)
        self.beat(has_model=has_model())

    def run(self, serve: Callable[[], None]) -> None:
        """Have each process call ``serve``, and start anew those that end, until this one gets a signal."""
        context = get_context("fork")

        def begin(number: int) -> None:
            self.number = number
            self._ids[number] = os.getpid()
            serve()
            if self._phase[0] != STOPPING and self.stops():
                self._remove_directory()  # as the parent would have

        def start(number: int) -> Any:
            self._states[number] = CLOSED
            for each in self._held:
                each.forget(number)
            child = context.Process(target=begin, args=(number,))
            child.start()
            return child

        children = [start(number) for number in range(self.count)]
        ends: deque[float] = deque(maxlen=ENDS)
        beats, missed, look_at = self._beats.copy(), np.zeros(self.count), time.monotonic() + BEAT_SECONDS
        try:
            while True:
                connection.wait([child.sentinel for child in children], timeout=BEAT_SECONDS)
                now = time.monotonic()
                # Counted in looks, not in seconds: the machine, or all of the container, may have been halted.
                if now >= look_at:
                    missed = np.where(self._beats == beats, missed + 1, 0)
                    beats, look_at = self._beats.copy(), now + BEAT_SECONDS
                for number, child in enumerate(children):
                    if missed[number] > HUNG_BEATS:
                        logger.error(f"process {number + 1} of the service hangs and is killed")
                        child.kill()
                        child.join()
                    if child.exitcode is None:
                        continue
                    ends.append(now)
                    if len(ends) == ENDS and now - ends[0] <= ENDS_SECONDS:
                        sys.exit(f"{ENDS} processes of the service have ended in {now - ends[0]:.0f} s")
                    logger.error(f"process {number + 1} of the service {_end(child.exitcode)} and is started again")
                    missed[number] = 0
                    children[number] = start(number)
        finally:
            self._stop(children)

    def _stop(self, children: list[Any]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        self.drain()
        time.sleep(self.drain_seconds)
        self._phase[0] = STOPPING
        for child in children:
            child.terminate()
        until = time.monotonic() + STOP_SECONDS
        for child in children:
            child.join(max(0.0, until - time.monotonic()))
            child.kill()
            child.join()

    def _remove_directory(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class Held:
    """How many of something each address holds in all processes.

    Addresses are counted by a hash that all processes have in common: that one shares the count of another is rare.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._counts = shared_zeros(processes.count, SLOTS, dtype=np.int16)

    def add(self, address: str, number: int) -> None:
        """Note that an address holds so many more in this process, or fewer."""
        self._counts[self._processes.number, hash(address) % SLOTS] += number

    def of(self, address: str) -> int:
        """Return how many an address holds."""
        return int(self._counts[:, hash(address) % SLOTS].sum())

    def total(self) -> int:
        """Return how many all addresses hold."""
        return int(self._counts.sum())

    def forget(self, number: int) -> None:
        """Note that the process of this number holds nothing."""
        self._counts[number] = 0


def _end(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
