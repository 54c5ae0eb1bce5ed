"""MLflow's tables in PostgreSQL: made once, whoever starts first, and used by its server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from appliance import mlflow_postgres
from appliance.prepare import ROOT, TEMPLATE, RefusedError, known_revisions, prepare_server_database, revision
from tests.postgres import PASSWORD, Postgres
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    """Return a database in which two appliances have made MLflow's tables at the same time."""
    url = postgres.new_database()
    with ThreadPoolExecutor(2) as threads:
        done = list(
            threads.map(lambda _: mlflow_postgres.migrate(url, revision(TEMPLATE), known_revisions()), range(2))
        )
    assert sorted(done) == ["", "MLflow's tables made"]
    return url


def test_tables_of_a_newer_mlflow_are_refused(postgres: Postgres) -> None:
    url = postgres.new_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE SCHEMA mlflow")
        connection.execute("CREATE TABLE mlflow.alembic_version AS SELECT 'fromthefuture' AS version_num")
    with pytest.raises(RefusedError, match=r"fromthefuture, which this MLflow does not know"):
        prepare_server_database(url)


def test_mlflow_serves_from_its_schema_and_shows_the_password_nowhere(
    url: str, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "logs").mkdir()
    environment = os.environ | {
        "STATE_DIR": str(tmp_path), "MLFLOW_PORT": str(port), "DATABASE_URL": url,
        "ADMIN_PASSWORD": "", "TEST_MODE": "off",
    }  # fmt: skip
    with (tmp_path / "output").open("w") as output:
        server = subprocess.Popen(
            [ROOT / "entrypoint.sh", "mlflow"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search"
        experiments = wait_for("MLflow", lambda: httpx.get(address, params={"max_results": 5}), 60).json()
        assert [found["name"] for found in experiments["experiments"]] == ["Default"]
        assert experiments["experiments"][0]["artifact_location"].startswith("mlflow-artifacts:/")
        arguments = Path(f"/proc/{server.pid}/cmdline").read_text()
    finally:
        server.terminate()
        server.wait(20)
    assert PASSWORD[:6] not in arguments + (tmp_path / "output").read_text()
    with psycopg.connect(url) as connection:
        schemas = connection.execute("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'experiments'")
        assert schemas.fetchall() == [("mlflow",)]
