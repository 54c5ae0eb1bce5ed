"""A server that is told to stop, and first lets the load balancer in front of it turn to other copies."""

from __future__ import annotations

import math
import time
from types import FrameType

import uvicorn

from app.processes import Processes


class DrainingServer(uvicorn.Server):
    """Goes on answering for `Processes.drain_seconds` after the first signal, and stops at once at the second.

    Several processes are told by their parent, which waits before it does.
    """

    def __init__(self, config: uvicorn.Config, processes: Processes) -> None:
        super().__init__(config)
        self._processes = processes
        self._stop_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or stop."""
        if self._processes.draining or not self._processes.drain_seconds:
            super().handle_exit(sig, frame)
            return
        self._processes.drain()
        self._stop_at = time.monotonic() + self._processes.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; uvicorn asks ten times a second."""
        return await super().on_tick(counter) or time.monotonic() >= self._stop_at
