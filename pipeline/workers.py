"""Who does the work of a training or a long scoring: the cores of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def workers(scheduler: str = "") -> Iterator[Executor]:
    """Yield an executor: processes of this machine, or with the address of a ``scheduler`` its workers.

    Functions are sent by their names, so the workers need the same code; arguments and results are pickled.
    """
    if not scheduler:
        with ProcessPoolExecutor() as pool:
            yield pool
        return
    from distributed import Client  # noqa: PLC0415 - the default start has no use for it

    with Client(scheduler, timeout=10, set_as_default=False) as client:
        yield client.get_executor(pure=False)
