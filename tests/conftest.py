"""What every test may ask for."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

# OpenMP's threads spin while they wait for a core that somebody else has: on a busy machine one thread is ten times
# as fast. Set before anything loads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Tests that share what is slow to make, a trained appliance or a registry, run one after the other in one process;
# the two longest groups begin first, so that two cores end at about the same time.
GROUPS = {
    "integration/appliance": "appliance",
    "integration/monitoring": "appliance",
    "integration/pipeline": "pipeline",
    "integration/pipeline/test_labels.py": "labels",
    "integration/service": "service",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests `pytest -n` must keep together."""
    order = [*dict.fromkeys(GROUPS.values())]

    def group(item: pytest.Item) -> str:
        file = item.path.relative_to(Path(__file__).parent)
        return GROUPS.get(file.as_posix()) or GROUPS.get(file.parent.as_posix()) or file.as_posix()

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: order.index(group(item)) if group(item) in order else len(order))


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Return a function that gives a port nobody listens on, never the same one twice.

    Below the range from which the kernel takes the ports of outgoing connections: one of those could be gone again
    before the server under test opens it. Test processes side by side (``PYTEST_XDIST_WORKER``: gw0, gw1) have
    ranges of their own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12_000 + worker % 4 * 5_000
    candidates = iter(random.sample(range(first, first + 5_000), 5_000))

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
