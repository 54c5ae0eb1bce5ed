"""What `entrypoint.sh dask-worker` adds to a worker of Dask, which loads it by ``--preload``."""

from __future__ import annotations

import os
import signal
from typing import Any

from distributed import Worker, WorkerPlugin

from pipeline.code_identity import identity


class EndsWithItsTask(WorkerPlugin):  # type: ignore[misc]  # has no types
    """Ends the process when nobody waits any more for the task that it computes, as a thread cannot be stopped.

    A training that is stopped, or whose machine or scheduler has gone, would go on here otherwise. The nanny starts
    another process, unless the worker is to end.
    """

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Take note of a task's new state."""
        if (start, finish) == ("executing", "released"):  # with a result, it would be "memory"
            _end()

    def teardown(self, worker: Worker) -> None:
        """Take note that the worker closes: it would wait half a minute for its task."""
        if worker.state.executing:
            _end()


async def dask_setup(worker: Worker) -> None:
    """Prepare a worker before it reports to its scheduler.

    Raises
    ------
    RuntimeError
        The code has changed since `entrypoint.sh` named it: the process that the nanny has started has other code.
    """
    if other := set(identity()) - worker.state.total_resources.keys():
        raise RuntimeError(f"this process has {', '.join(sorted(other))} by now: start the worker anew")
    await worker.plugin_add(EndsWithItsTask())


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
