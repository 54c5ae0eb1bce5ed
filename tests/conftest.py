"""What every test may ask for."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable

import pytest

# OpenMP's threads spin while they wait for a core that somebody else has: on a busy machine one thread is ten times
# as fast. Set before anything loads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that gives a port nobody listens on, never the same one twice.

    Below the range from which the kernel takes the ports of outgoing connections: one of those could be gone again
    before the server under test opens it.
    """
    candidates = iter(random.sample(range(12_000, 32_000), 20_000))

    def find() -> int:
        for port in candidates:
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            return port
        raise AssertionError("no port is free")

    return find
