"""How many predictions were made in each of the last minutes, for the front page."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import numpy as np

from app.processes import shared_zeros

SAMPLE_SECONDS: Final = 10
MINUTES: Final = 60


class Rates:
    """Counts the predictions of each of the last minutes, from samples of their total."""

    def __init__(self, total: Callable[[], int]) -> None:
        self.started = time.time()
        self._total = total
        # Of each time one, whichever process took it last: the total is that of all of them.
        self._samples = shared_zeros((MINUTES + 1) * 60 // SAMPLE_SECONDS, 2, dtype=np.float64)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to count, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Stop counting."""
        if self._task is not None:
            self._task.cancel()

    def per_minute(self, now: float) -> list[int]:
        """Return the predictions of the last `MINUTES` minutes, the newest last, exact to `SAMPLE_SECONDS`."""
        samples = [*sorted((at, int(total)) for at, total in self._samples.tolist() if at), (now, self._total())]
        times = [at for at, _ in samples]

        def until(at: float) -> int:
            place = bisect_right(times, at)
            return samples[place - 1][1] if place else 0

        return [after - before for before, after in pairwise(until(now - 60.0 * m) for m in range(MINUTES, -1, -1))]

    def sample(self, now: float) -> None:
        """Note how many there are by now."""
        self._samples[int(now / SAMPLE_SECONDS) % len(self._samples)] = now, self._total()

    async def _run(self) -> None:
        while True:
            self.sample(time.time())
            await asyncio.sleep(SAMPLE_SECONDS)
