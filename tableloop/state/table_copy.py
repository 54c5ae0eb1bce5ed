"""Copy tables from a SQLite file to PostgreSQL, in bounded memory, and compare both by digests.

What is copied is what a type of PostgreSQL can hold: a boolean, which SQLite keeps as a number, becomes one, and a
zero byte in a text becomes U+FFFD. Names of schemas, tables and columns come from the databases themselves.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from tableloop.state.errors import StoreError
from tableloop.state.prediction_rows import Row, quoted

DIGEST_BYTES: Final = 16
_TEXTS: Final = ("text", "varchar", "bpchar")
_JSON: Final = ("json", "jsonb")
_BINARY: Final = {"int2", "int4", "int8", "float4", "float8", "bool", "bytea", "text"}  # read in binary form
_COLUMNS: Final = """
SELECT column_name, udt_name FROM information_schema.columns
WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position"""


class Digest(NamedTuple):
    """The rows of a table, whatever their order: their number, and the sum of the digests of each."""

    rows: int
    sum: int


@dataclass(frozen=True)
class Table:
    """A table that both databases have; ``columns`` are those of the SQLite file, with their types in PostgreSQL."""

    schema: str
    name: str
    columns: dict[str, str]

    def source_rows(self, source: sqlite3.Connection, after: int | None = None) -> Iterator[Row]:
        """Yield the rows of the SQLite file as PostgreSQL can hold them, those with an ``id`` above ``after``."""
        where = "" if after is None else f" WHERE id > {after} ORDER BY id"
        found = source.execute(f'SELECT {quoted([*self.columns])} FROM "{self.name}"{where}')  # noqa: S608 - of the file
        converters = self._converters
        if not converters:
            yield from found
            return
        for row in found:
            values = list(row)
            for place, convert in converters:
                if values[place] is not None:
                    values[place] = convert(values[place])
            yield tuple(values)

    def copy(self, target: psycopg.Connection, rows: Iterable[Row]) -> int:
        """Add rows in the caller's transaction, and return how many."""
        into = sql.SQL("COPY {} ({}) FROM STDIN").format(self.identifier, self._names)
        count = 0
        with target.cursor() as cursor, cursor.copy(into) as copy:
            for row in rows:
                copy.write_row(row)
                count += 1
        return count

    def source_digest(self, source: sqlite3.Connection) -> Digest:
        """Return the digest of the rows in the SQLite file."""
        return self._digest(self.source_rows(source))

    def target_digest(self, target: psycopg.Connection) -> Digest:
        """Return the digest of the rows in PostgreSQL."""
        kinds = [kind if kind in _BINARY else "text" for kind in self.columns.values()]
        wanted = [
            sql.SQL("{}::{}").format(sql.Identifier(name), sql.SQL(kind))
            for name, kind in zip(self.columns, kinds, strict=True)
        ]
        out = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT BINARY)").format(
            sql.SQL(", ").join(wanted), self.identifier
        )
        with target.cursor() as cursor, cursor.copy(out) as copy:
            copy.set_types(kinds)
            return self._digest(copy.rows())

    def set_sequences(self, target: psycopg.Connection) -> None:
        """Have PostgreSQL number the next rows from the highest number on."""
        for name, kind in self.columns.items():
            if not kind.startswith("int"):
                continue
            (sequence,) = _one(target, "SELECT pg_get_serial_sequence(%s, %s)", (str(self), name))
            if sequence:
                highest = sql.SQL("SELECT max({}) FROM {}").format(sql.Identifier(name), self.identifier)
                (last,) = _one(target, highest)
                target.execute("SELECT setval(%s, %s, %s)", (sequence, last or 1, last is not None))

    @cached_property
    def identifier(self) -> sql.Identifier:
        """The name of the table in a statement."""
        return sql.Identifier(self.schema, self.name)

    @cached_property
    def _names(self) -> sql.Composed:
        return sql.SQL(", ").join(map(sql.Identifier, self.columns))

    @cached_property
    def _converters(self) -> list[tuple[int, Callable[[Any], Any]]]:
        """Return what the values of some places are to be changed by."""
        found: list[tuple[int, Callable[[Any], Any]]] = []
        for place, kind in enumerate(self.columns.values()):
            if kind == "bool":
                found.append((place, bool))
            elif kind in _TEXTS:
                found.append((place, _without_zeros))
            elif kind.startswith("float"):
                found.append((place, float))
        return found

    def _digest(self, rows: Iterable[Row]) -> Digest:
        documents = [place for place, kind in enumerate(self.columns.values()) if kind in _JSON]
        count = total = 0
        for row in rows:
            if documents:
                row = _with_plain_json(row, documents)  # noqa: PLW2901 - the same row
            count += 1
            # In this form equal values have equal bytes, which one process compares; it takes a fifth of repr's time.
            hashed = hashlib.blake2b(marshal.dumps(row, 2), digest_size=DIGEST_BYTES)
            total += int.from_bytes(hashed.digest())
        return Digest(count, total % (1 << 8 * DIGEST_BYTES))

    def __str__(self) -> str:
        return f'"{self.schema}"."{self.name}"'


def source_tables(source: sqlite3.Connection) -> list[str]:
    """Return the names of the tables in a SQLite file."""
    found = source.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    return [str(name) for (name,) in found]


def source_columns(source: sqlite3.Connection, table: str) -> dict[str, str]:
    """Return the declared types of a table's columns in a SQLite file."""
    return {str(row[1]): str(row[2]).upper() for row in source.execute(f'PRAGMA table_info("{table}")')}


def target_columns(target: psycopg.Connection, schema: str, table: str) -> dict[str, str]:
    """Return the types of a table's columns in PostgreSQL; none where there is no such table."""
    return dict(target.execute(_COLUMNS, (schema, table)).fetchall())


def common_table(source: sqlite3.Connection, target: psycopg.Connection, schema: str, name: str) -> Table:
    """Return a table of the SQLite file as both databases have it.

    Raises
    ------
    StoreError
        PostgreSQL lacks the table or one of its columns.
    """
    there = target_columns(target, schema, name)
    here = source_columns(source, name)
    if missing := [column for column in here if column not in there]:
        raise StoreError(f"the target's table {schema}.{name} has no {', '.join(missing)}: another version made it")
    return Table(schema, name, {column: there[column] for column in here})


def differences(tables: Sequence[Table], source: sqlite3.Connection, target: psycopg.Connection) -> list[str]:
    """Return the tables whose rows differ, each with the numbers of rows here and there."""
    found = []
    for table in tables:
        here, there = table.source_digest(source), table.target_digest(target)
        if here != there:
            found.append(f"{table.schema}.{table.name} ({here.rows:,} rows here, {there.rows:,} there)")
    return found


def _one(target: psycopg.Connection, query: Any, values: Sequence[Any] = ()) -> Row:
    found: Row | None = target.execute(query, values).fetchone()
    return found or (None,)


def _without_zeros(text: object) -> str:
    return str(text).replace("\0", "\ufffd")


def _with_plain_json(row: Row, documents: list[int]) -> Row:
    """Return the row with its JSON in one spelling: the databases may keep blanks and order or not."""
    values = list(row)
    for place in documents:
        if values[place] is not None:
            values[place] = json.dumps(json.loads(values[place]), sort_keys=True)
    return tuple(values)
