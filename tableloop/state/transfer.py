"""Move the store from its SQLite file to PostgreSQL, in as many passes as are wanted.

Each pass copies what is new, in transactions of bounded size: one that is killed is taken up by the next. Predictions
and what a version in the shadow says of them are only ever added and removed, so that those after the last one copied
are new; all other tables are small and are replaced where they differ. The table `migration` says which appliance is
being moved, and what was newest when it was moved whole, so that no pass can undo what the target has stored since.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg

from tableloop.state.database import COMMON, VERSION, Store, shadow_values, shadows
from tableloop.state.errors import StoreError
from tableloop.state.postgres_connection import as_store_errors, connect
from tableloop.state.postgres_rows import WEEK, PostgresWriter
from tableloop.state.sqlite_rows import snapshot
from tableloop.state.table_copy import (
    Table,
    common_table,
    differences,
    source_columns,
    source_tables,
    target_columns,
)

SCHEMA: Final = "public"
PREDICTIONS: Final = "predictions"
VERSION_TABLE: Final = "schema_version"
ROWS_AT_ONCE: Final = 100_000  # of a transaction
_NUMBERED: Final = (  # by whatever is stored
    *(PREDICTIONS, "feedback", "serving", "retrainings", "drift_reports"),
    *(shadows.name, shadow_values.name),
)
# Large tables, with the column that tells two rows of one id apart: an id was given again after all had been deleted.
_GROWING: Final = {PREDICTIONS: "requested_at", shadow_values.name: "scored_at"}
_MARK: Final = """
CREATE TABLE IF NOT EXISTS migration (
    id integer PRIMARY KEY CHECK (id = 1), source text NOT NULL, completed_at float8, newest text)"""


class Moved(NamedTuple):
    """What a pass did with a table: how many rows it has now, and how many of them were copied."""

    table: str
    rows: int
    copied: int


class StoreTransfer:
    """One pass from the file to the database at an address; ``source`` is the identity of the appliance.

    Every method raises `StoreError`.
    """

    def __init__(self, file: Path, url: str, source: str) -> None:
        self._file = file
        self._url = url
        self._source = source

    def has_begun(self) -> bool:
        """Return whether a pass to this target has begun before."""
        with connected(self._url) as target:
            return bool(target_columns(target, SCHEMA, "migration") and _count(target, "migration"))

    def begin(self) -> None:
        """Make the store in the target, and note that it is this appliance's and not whole yet.

        Raises
        ------
        StoreError
            The target holds the state of another appliance, or has been used since it was moved whole.
        """
        with snapshot(self._file) as source:
            _check_version(source, self._file)
        store = Store(self._url)
        store.prepare()
        with connected(self._url) as target, target.transaction():
            target.execute(_MARK)
            found = target.execute("SELECT source, completed_at, newest FROM migration FOR UPDATE").fetchone()
            if found is None:
                if any(_newest(target).values()):
                    raise StoreError(
                        f"{store.place} holds the state of another appliance: name an empty database (createdb), or "
                        "remove that state (dropdb)"
                    )
                target.execute("INSERT INTO migration VALUES (1, %s)", (self._source,))
                return
            if found[0] != self._source:
                raise StoreError(
                    f"{store.place} holds the state of another appliance, that with the signing key {found[0]}: name "
                    "an empty database (createdb), or remove that state (dropdb)"
                )
            then = dict.fromkeys(_NUMBERED) | json.loads(found[2] or "{}")  # of a former version's fewer tables
            if found[1] is not None and then != _newest(target):
                raise StoreError(
                    f"{store.place} has been in use since this state was moved there, and would lose what it has "
                    "stored since: set DATABASE_URL and go on there, or name an empty database"
                )
            target.execute("UPDATE migration SET completed_at = NULL, newest = NULL")

    def copy(self, retention_days: float) -> list[Moved]:
        """Copy what the target lacks, remove there what is gone here, and return what each table has now.

        Predictions of the last ``retention_days`` lie in partitions of their own, 0 for all of them.
        """
        with snapshot(self._file) as source, connected(self._url) as target:
            _add_columns(source, target)
            tables = _tables(source, target)
            moved = [
                self._copy_new(table, source, target, retention_days)
                if table.name in _GROWING
                else _replace(table, source, target)
                for table in tables
            ]
            for table in tables:
                table.set_sequences(target)
        return moved

    def differences(self) -> list[str]:
        """Return the tables whose rows are not the same in both, by digests of every row."""
        with snapshot(self._file) as source, connected(self._url) as target:
            return differences(_tables(source, target), source, target)

    def complete(self) -> None:
        """Note that the target has everything."""
        with connected(self._url) as target, target.transaction():
            newest = json.dumps(_newest(target))
            target.execute("UPDATE migration SET completed_at = %s, newest = %s", (time.time(), newest))

    def _copy_new(
        self, table: Table, source: sqlite3.Connection, target: psycopg.Connection, retention_days: float
    ) -> Moved:
        last = _remove_gone(table, source, target)
        if table.name == PREDICTIONS:
            self._make_partitions(source, last, retention_days)
        rows = table.source_rows(source, after=last)
        copied, part = 0, ROWS_AT_ONCE
        while part == ROWS_AT_ONCE:
            with target.transaction():
                part = table.copy(target, islice(rows, ROWS_AT_ONCE))
            copied += part
        target.execute(psycopg.sql.SQL("ANALYZE {}").format(table.identifier))
        return Moved(table.name, _count(target, table.name), copied)

    def _make_partitions(self, source: sqlite3.Connection, after: int, retention_days: float) -> None:
        """Make those of the weeks of the predictions with ids after one, as far as retention keeps them."""
        earliest = time.time() - retention_days * 86_400 if retention_days else 0
        weeks = source.execute(
            "SELECT DISTINCT CAST(requested_at / ? AS INTEGER) FROM predictions WHERE id > ? AND requested_at >= ?",
            (WEEK, after, earliest),
        ).fetchall()
        with closing(Store(self._url).writer()) as writer:
            assert isinstance(writer, PostgresWriter)
            for (week,) in sorted(weeks):
                writer.make_partition(float(week) * WEEK)


def unfinished(url: str) -> str:
    """Return why no appliance may work with the database: it is being moved there; empty when it may.

    Raises
    ------
    StoreError
    """
    with connected(url) as target:
        if not target_columns(target, SCHEMA, "migration"):
            return ""
        found = target.execute("SELECT completed_at FROM migration").fetchone()
    if found is None or found[0] is not None:
        return ""
    return (
        "a state is being moved there and is not whole yet: stop its appliance (make down) and run make migrate-to "
        "once more, until it says that it is proved"
    )


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection]:
    """Yield a connection that commits by itself and may read whole tables."""
    with as_store_errors(), connect(url) as connection:
        connection.execute("SET enable_seqscan = on")
        yield connection


def _check_version(source: sqlite3.Connection, file: Path) -> None:
    found = None
    if VERSION_TABLE in source_tables(source):
        found = source.execute("SELECT version FROM schema_version").fetchone()
    if found != (VERSION,):
        raise StoreError(
            f"{file} was made by another version of the appliance: start this one on it once (make up), so that it "
            "is brought up to date"
        )


def _add_columns(source: sqlite3.Connection, target: psycopg.Connection) -> None:
    """Give the target what the contract once had: features whose predictions are still there."""
    there = target_columns(target, SCHEMA, PREDICTIONS)
    for name, declared in source_columns(source, PREDICTIONS).items():
        if name not in there:
            kind = "text" if declared == "TEXT" else "float8"
            column = psycopg.sql.Identifier(name)
            target.execute(
                psycopg.sql.SQL("ALTER TABLE predictions ADD COLUMN {} {}").format(column, psycopg.sql.SQL(kind))
            )


def _tables(source: sqlite3.Connection, target: psycopg.Connection) -> list[Table]:
    """Return the tables of the store that the file has, predictions first: an older file may lack one."""
    here = set(source_tables(source)) - {VERSION_TABLE}
    names = [PREDICTIONS, *(table.name for table in COMMON.sorted_tables if table.name in here)]
    return [common_table(source, target, SCHEMA, name) for name in names]


def _remove_gone(table: Table, source: sqlite3.Connection, target: psycopg.Connection) -> int:
    """Remove the rows that are gone from the file, and return the id of the last one that is in both."""
    last, here, there = _in_both(table, source, target)
    if here == there:
        return last
    at = _GROWING[table.name]
    kept = source.execute(f"SELECT id, {at} FROM {table.name} WHERE id <= ?", (last,))  # noqa: S608 - of this module
    gone = psycopg.sql.SQL(
        "DELETE FROM {0} WHERE NOT EXISTS (SELECT 1 FROM kept WHERE (kept.id, kept.at) = ({0}.id, {0}.{1}))"
    )
    with target.transaction():
        target.execute("CREATE TEMPORARY TABLE kept (id bigint, at float8) ON COMMIT DROP")
        with target.cursor() as cursor, cursor.copy("COPY kept FROM STDIN") as copy:
            for row in kept:
                copy.write_row(row)
        target.execute("ANALYZE kept")
        target.execute(gone.format(psycopg.sql.Identifier(table.name), psycopg.sql.Identifier(at)))
    last, here, there = _in_both(table, source, target)
    if here != there:  # numbers were used again, after all had been deleted
        target.execute(psycopg.sql.SQL("TRUNCATE {}").format(table.identifier))
        return 0
    return last


def _in_both(table: Table, source: sqlite3.Connection, target: psycopg.Connection) -> tuple[int, int, int]:
    """Return the target's last id, and how many rows up to it are here and there."""
    query = psycopg.sql.SQL("SELECT coalesce(max(id), 0), count(*) FROM {}").format(table.identifier)
    last, there = target.execute(query).fetchone() or (0, 0)
    (here,) = source.execute(f"SELECT count(*) FROM {table.name} WHERE id <= ?", (last,)).fetchone()  # noqa: S608 - of this module
    return int(last), int(here), int(there)


def _replace(table: Table, source: sqlite3.Connection, target: psycopg.Connection) -> Moved:
    """Replace the rows of a table in the target, unless they are the same already."""
    here = table.source_digest(source)
    if here == table.target_digest(target):
        return Moved(table.name, here.rows, 0)
    with target.transaction():
        target.execute(psycopg.sql.SQL("TRUNCATE {}").format(table.identifier))
        copied = table.copy(target, table.source_rows(source))
    return Moved(table.name, here.rows, copied)


def _newest(target: psycopg.Connection) -> dict[str, Any]:
    """Return the highest number of each table that is written while an appliance runs."""
    return {name: _one(target, f"SELECT max(id) FROM {name}") for name in _NUMBERED}  # noqa: S608 - of this module


def _count(target: psycopg.Connection, table: str) -> int:
    return int(_one(target, f"SELECT count(*) FROM {table}"))  # noqa: S608 - of this module


def _one(target: psycopg.Connection, query: str) -> Any:
    found = target.execute(query.encode()).fetchone()
    return found[0] if found else None
