"""MLflow's tables in PostgreSQL: a schema of their own in the database of the store, migrated before anything starts.

MLflow migrates an empty database in some seven seconds, and two that do it at once collide: it is done once, under a
lock that a second start waits for. Only imported where there is such a database.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from typing import Final

import psycopg
import sqlalchemy as sa

from tableloop.state.errors import StoreError
from tableloop.state.postgres_connection import as_store_errors, connect

SCHEMA: Final = "mlflow"
MIGRATING: Final = 0x6D6C666C  # key of the advisory lock
WAIT_SECONDS: Final = 120
URI_VARIABLE: Final = "MLFLOW_DATABASE_URI"  # of the process that migrates: no argument has the password
_MIGRATE: Final = f"""
import os
from mlflow.db import commands
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
uri = os.environ[{URI_VARIABLE!r}]
commands(["upgrade", uri], standalone_mode=False)
SqlAlchemyStore(uri, "mlflow-artifacts:/")"""


def mlflow_uri(url: str) -> str:
    """Return the address of MLflow's tables, with the password."""
    address = sa.make_url(url).set(drivername="postgresql+psycopg")
    options = f"{address.query.get('options', '')} -csearch_path={SCHEMA}".strip()
    return address.update_query_dict({"options": options}).render_as_string(hide_password=False)


def migrate(url: str, wanted: str, known: Collection[str]) -> str:
    """Bring the tables to the schema revision ``wanted``, and return what was done, empty for nothing.

    Raises
    ------
    StoreError
        They cannot be, or have a revision that is not among the ``known`` ones.
    """
    with as_store_errors(), connect(url) as connection:
        connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{WAIT_SECONDS}s",))
        connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATING,))
        found = _revision(connection)
        if found == wanted:
            return ""
        if found and found not in known:
            raise StoreError(
                f"MLflow's tables have schema {found}, which this MLflow does not know (it has {wanted}): start the "
                "newer version of the appliance that wrote them"
            )
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        migration = subprocess.run(
            [sys.executable, "-c", _MIGRATE],
            capture_output=True, text=True, check=False,
            env={**os.environ, URI_VARIABLE: mlflow_uri(url), "MLFLOW_DISABLE_TELEMETRY": "true"},
        )  # fmt: skip
        if migration.returncode or _revision(connection) != wanted:
            last = (migration.stderr.strip() or "no message").splitlines()[-1]
            raise StoreError(f"MLflow's tables could not be migrated to {wanted}: {last}")
    return f"MLflow's tables migrated from schema {found} to {wanted}" if found else "MLflow's tables made"


def _revision(connection: psycopg.Connection) -> str:
    """Return the schema revision of MLflow's tables, empty when there are none."""
    there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.alembic_version",)).fetchone()
    if there != (True,):
        return ""
    found = connection.execute(f"SELECT version_num FROM {SCHEMA}.alembic_version").fetchone()  # noqa: S608 - ours
    return str(found[0]) if found else ""
