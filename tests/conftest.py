"""What every test may ask for."""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from tests import s3
from tests.integration.conftest import ROOT, Appliance
from tests.postgres import Postgres, installed
from tests.s3 import S3Server

# OpenMP's threads spin while they wait for a core that somebody else has: on a busy machine one thread is ten times
# as fast. Set before anything loads it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Tests that share what is slow to make, a trained appliance or a registry, run one after the other in one process;
# they begin in this order, the longest first, so that two cores end at about the same time.
GROUPS = {
    "browser": "appliance",
    "integration/appliance": "appliance",
    "integration/monitoring": "appliance",
    "integration/pipeline/test_gate.py": "gate",
    "integration/pipeline/test_labels.py": "labels",
    "integration/pipeline": "pipeline",
    "integration/pipeline/test_dask.py": "dask",
    "integration/pipeline/test_large_table.py": "dask",
    "integration/pipeline/test_shared_workspace.py": "dask",
    "integration/service": "service",
}


def group(file: str) -> str:
    """Return the group of a test file, named from the root; a file without one is a group of its own."""
    name = file.removeprefix("tests/")
    return GROUPS.get(name) or GROUPS.get(name.rpartition("/")[0]) or name


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process of `pytest -n` one group at a time.

    xdist's own way, marks and ``--dist loadgroup``, does nothing with pytest 9.2: it writes the group into an
    attribute that is no longer read.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """Have xdist keep the groups together, and begin them in the order of `pytest_collection_modifyitems`."""
    config.option.loadscopereorder = False  # else by their number of tests, which says nothing of their time
    return GroupScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest groups."""
    order = [*dict.fromkeys(GROUPS.values())]

    def place(item: pytest.Item) -> int:
        name = group(item.nodeid.partition("::")[0])
        return order.index(name) if name in order else len(order)

    items.sort(key=place)


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
def new_postgres(free_port: Callable[[], int]) -> Iterator[Callable[..., Postgres]]:
    """Return a function that starts a PostgreSQL server with options of its own; all end stopped."""
    made: list[Postgres] = []
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as directory:
        programs = installed(Path(directory))

        def make(*options: str) -> Postgres:
            own = Path(directory) / str(len(made))
            own.mkdir()
            made.append(Postgres(programs, own, free_port(), *options))
            made[-1].start()
            return made[-1]

        yield make
        for server in made:
            server.stop()


@pytest.fixture(scope="session")
def postgres(new_postgres: Callable[..., Postgres]) -> Postgres:
    """Return a server that runs as long as the tests do, and does not wait for the disk."""
    return new_postgres("-c", "fsync=off")


@pytest.fixture(scope="session")
def new_s3(free_port: Callable[[], int]) -> Iterator[Callable[[], S3Server]]:
    """Return a function that starts an S3 server; all end stopped."""
    binary = s3.program()
    if binary is None:
        pytest.skip("NOT RUN: there is no S3 server (versitygw) on PATH, and no Go to build one with")
    made: list[S3Server] = []
    with tempfile.TemporaryDirectory(prefix="s3-", dir="/tmp") as directory:

        def make() -> S3Server:
            made.append(S3Server(binary, Path(directory) / str(len(made)), free_port()))
            made[-1].start()
            return made[-1]

        yield make
        for server in made:
            server.stop()


@pytest.fixture(scope="session")
def s3_server(new_s3: Callable[[], S3Server]) -> S3Server:
    """Return a server that runs as long as the tests do."""
    return new_s3()


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of an empty folder of object storage; this process may use it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_bucket()


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Return where an empty store may be made, for a test that holds in both databases."""
    if request.param == "SQLite":
        return tmp_path / "predictions.db"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(scope="session")
def new_appliance(free_port: Callable[[], int]) -> Iterator[Callable[..., Appliance]]:
    """Return a function that makes an appliance, with an empty state or a copy of another's; all end stopped."""
    made: list[Appliance] = []
    # Short, because a socket's whole path has about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="tl-", dir="/tmp") as directory:

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
