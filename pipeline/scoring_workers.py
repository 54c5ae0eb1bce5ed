"""Hand orders to workers, and survive that some of them die."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Final

from pipeline.scoring import Order, Outcome, carry_out
from pipeline.stage_runner import StageError
from pipeline.workers import MOST_TASKS, shared, workers

MOST_DEATHS: Final = 3  # of processes here that had an order; Dask has a limit of its own
KILLED: Final = Outcome("failed", reason="the processes that scored it were killed, perhaps for want of memory")


def carry_out_all(orders: Sequence[Order], archive: bytes, scheduler: str) -> Iterator[tuple[Order, Outcome]]:
    """Yield what became of each order, as soon as it is known; ``archive`` are the files of their version.

    Raises
    ------
    StageError
        The scheduler and its workers cannot be used, or have gone.
    """
    waiting = deque(orders)
    deaths: Counter[str] = Counter()
    most = MOST_TASKS if scheduler else 2 * (os.cpu_count() or 1)  # that none of them waits
    while waiting:
        running: dict[Future[Outcome], Order] = {}
        with workers(scheduler) as pool:
            files = shared(pool, archive)
            try:
                while waiting or running:
                    # One of those that were running when a process died may be the cause: each is tried alone.
                    alone = bool(waiting and deaths[waiting[0].name])
                    while waiting and len(running) < (1 if alone else most):
                        running[pool.submit(carry_out, waiting[0], files)] = waiting[0]
                        waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        outcome = _outcome(future)
                        yield running.pop(future), outcome
            except BrokenProcessPool:
                deaths.update(order.name for order in running.values())
                for order in reversed(running.values()):
                    if deaths[order.name] < MOST_DEATHS:
                        waiting.appendleft(order)
                    else:
                        yield order, KILLED


def _outcome(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except (BrokenProcessPool, CancelledError, StageError):
        raise
    except BrokenExecutor:  # Dask's, of this order alone
        return KILLED
    except Exception as error:  # it could not be sent
        return Outcome("failed", reason=f"{type(error).__name__}: {error}")
