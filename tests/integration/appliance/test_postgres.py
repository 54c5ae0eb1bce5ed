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

from appliance import mlflow_postgres, prepare
from appliance.prepare import (
    ROOT,
    TEMPLATE,
    RefusedError,
    known_revisions,
    prepare_server_database,
    prepare_store,
    revision,
)
from tableloop.state.database import Store
from tableloop.state.layout import Layout
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


def test_a_server_that_starts_at_the_same_time_is_waited_for(
    new_postgres: Callable[..., Postgres], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = new_postgres()
    store = Store(server.new_database())
    server.kill()
    with ThreadPoolExecutor(1) as thread:
        preparing = thread.submit(prepare_store, Layout(tmp_path), store, "Model")
        told = ""

        def waits() -> bool:
            nonlocal told
            told += capsys.readouterr().out
            return "does not answer yet" in told

        wait_for("the word about it", waits)
        server.start()
        preparing.result(20)
    assert store.retrainings(1) == []
    server.stop()


def test_a_server_that_does_not_come_is_refused_with_the_remedy_and_one_that_refuses_at_once(
    postgres: Postgres, tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "DATABASE_SECONDS", 1.0)
    nobody = Store(f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with pytest.raises(RefusedError, match=r"cannot be used: .*refused.*see that PostgreSQL runs"):
        prepare_store(Layout(tmp_path), nobody, "Model")
    monkeypatch.setattr(prepare, "DATABASE_SECONDS", 600.0)
    with pytest.raises(RefusedError, match=r"cannot be used: .*database .*nowhere.* does not exist"):
        prepare_store(Layout(tmp_path), Store(postgres.url("nowhere")), "Model")
