"""One cluster for all tests of this folder, which go on where the one before has ended."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tableloop.credentials import basic
from tests.cluster.cluster import PASSWORD, Cluster
from tests.cluster.load import Load
from tests.postgres import Postgres
from tests.s3 import S3Server


@pytest.fixture(scope="session")
def cluster(
    new_postgres: Callable[..., Postgres], new_s3: Callable[[], S3Server], free_port: Callable[[], int]
) -> Iterator[Cluster]:
    if shutil.which("haproxy") is None:
        pytest.skip("NOT RUN: there is no haproxy on PATH")
    with tempfile.TemporaryDirectory(prefix="cluster-", dir="/tmp") as directory:
        made = Cluster(Path(directory), new_postgres(), new_s3(), free_port)
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="session")
def load(cluster: Cluster) -> Iterator[Load]:
    """Return the load that is on the cluster from the first test to the last."""
    with Load(cluster.url, basic(PASSWORD)) as running:
        yield running
