"""What every test may ask for."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, Appliance

# OpenMP's threads spin while they wait for a core that somebody else has: on a busy machine one thread is ten times
# as fast. Set before anything loads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Tests that share what is slow to make, a trained appliance or a registry, run one after the other in one process;
# the two longest groups begin first, so that two cores end at about the same time.
GROUPS = {
    "browser": "appliance",
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


@pytest.fixture(scope="session")
def new_appliance(free_port: Callable[[], int]) -> Iterator[Callable[..., Appliance]]:
    """Return a function that makes an appliance, with an empty state or a copy of another's; all end stopped."""
    made: list[Appliance] = []
    # Short, because a socket's whole path has about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="hpa-", dir="/tmp") as directory:

        def make(state_of: Appliance | None = None, root: Path = ROOT, **extra: str) -> Appliance:
            state = Path(directory) / str(len(made))
            if state_of is not None:
                # As a crash at that moment would leave it.
                shutil.copytree(state_of.state, state, ignore=shutil.ignore_patterns("*.sock"))
            names = ("API_PORT", "MLFLOW_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
            appliance = Appliance(state, {name: free_port() for name in names}, root, extra)
            made.append(appliance)
            return appliance

        yield make
        for appliance in made:
            if not appliance.processes():
                continue
            appliance.make("down")
            left = appliance.processes()
            for process in left:
                process.kill()
            assert not left, f"left running: {left}"


@pytest.fixture(scope="session")
def first_start(new_appliance: Callable[..., Appliance]) -> tuple[Appliance, str]:
    """Return a stopped appliance that was started once on an empty state, and what its ``make up`` printed."""
    appliance = new_appliance()
    printed = appliance.start()
    assert appliance.make("down").returncode == 0
    return appliance, printed


@pytest.fixture(scope="session")
def running(new_appliance: Callable[..., Appliance], first_start: tuple[Appliance, str]) -> Appliance:
    """Return a trained, running appliance; a test that harms it waits until it has recovered."""
    appliance = new_appliance(state_of=first_start[0])
    appliance.start()
    return appliance
