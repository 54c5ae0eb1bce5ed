"""Move MLflow's tables from its SQLite file into their schema in PostgreSQL.

They change in place and refer to each other, and those of an appliance are small: where any row differs, all tables
are replaced in one transaction, each after those that it refers to.
"""

from __future__ import annotations

import sqlite3
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from appliance.mlflow_postgres import SCHEMA
from tableloop.state.errors import StoreError
from tableloop.state.sqlite_rows import snapshot
from tableloop.state.table_copy import Table, common_table, differences, source_tables, target_columns
from tableloop.state.transfer import Moved, connected

REVISION: Final = "alembic_version"  # of the schema: both have the same one
_REFERENCES: Final = """
SELECT child.relname, parent.relname FROM pg_constraint
JOIN pg_class child ON child.oid = conrelid JOIN pg_class parent ON parent.oid = confrelid
WHERE contype = 'f' AND connamespace = %s::regnamespace AND conrelid <> confrelid"""


def check_target(url: str) -> None:
    """Return when the target's tables have nothing but what MLflow puts into empty ones.

    Raises
    ------
    StoreError
        They are those of another appliance, or cannot be read.
    """
    with connected(url) as target:
        for table in ("runs", "registered_models"):
            if target_columns(target, SCHEMA, table):
                query = sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(SCHEMA, table))
                if target.execute(query).fetchone():
                    raise StoreError(
                        f"the target's schema {SCHEMA} has {table.replace('_', ' ')} of another MLflow: name an "
                        "empty database (createdb), or remove the schema (DROP SCHEMA mlflow CASCADE)"
                    )


def copy(file: Path, url: str) -> list[Moved]:
    """Copy the tables, which the target has, and return what was done with each.

    Raises
    ------
    StoreError
    """
    with snapshot(file) as source, connected(url) as target:
        tables = _tables(source, target)
        here = [table.source_digest(source) for table in tables]
        if here == [table.target_digest(target) for table in tables]:
            return [Moved(table.name, digest.rows, 0) for table, digest in zip(tables, here, strict=True)]
        with target.transaction():
            target.execute(sql.SQL("TRUNCATE {}").format(sql.SQL(", ").join(table.identifier for table in tables)))
            copied = [table.copy(target, table.source_rows(source)) for table in tables]
            for table in tables:
                table.set_sequences(target)
    return [Moved(table.name, rows, rows) for table, rows in zip(tables, copied, strict=True)]


def different(file: Path, url: str) -> list[str]:
    """Return the tables whose rows are not the same in both.

    Raises
    ------
    StoreError
    """
    with snapshot(file) as source, connected(url) as target:
        return differences(_tables(source, target), source, target)


def _tables(source: sqlite3.Connection, target: psycopg.Connection) -> list[Table]:
    """Return the tables, each after those that it refers to."""
    names = {name for name in source_tables(source) if name != REVISION}
    order: TopologicalSorter[str] = TopologicalSorter({name: set() for name in sorted(names)})
    for child, parent in target.execute(_REFERENCES, (SCHEMA,)).fetchall():
        order.add(child, parent)
    return [common_table(source, target, SCHEMA, name) for name in order.static_order() if name in names]
