"""Free ports and waiting with a deadline, for tests that start servers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Return the first true answer of ``condition``. A refused connection counts as a false one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s in vain for {what}")


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
