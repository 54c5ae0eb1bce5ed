"""The two databases that the store can lie in, as `tableloop.state.database` needs them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from tableloop.state import sqlite_rows
from tableloop.state.errors import StoreError
from tableloop.state.prediction_rows import RowWriter

LEAST_FREE_BYTES: Final = 256 << 10  # for a few hundred rows
SILENT_SECONDS: Final = 0.5  # so long a server that has not answered for as long is not asked again


class Database(ABC):
    """What SQLite and PostgreSQL do differently, beside the rows of predictions.

    ``place`` says in words where the store is. A transaction with the option ``write`` is alone in writing.
    """

    is_partitioned: bool
    place: str
    engine: sa.Engine

    @abstractmethod
    def exists(self) -> bool:
        """Return whether there is anything to read."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether it is known to be up to date."""

    @abstractmethod
    def set_ready(self) -> None:
        """Note that it is up to date."""

    @abstractmethod
    def check_room(self) -> None:
        """Raise an `OSError` when there is no room for rows, as far as can be seen from here."""

    @abstractmethod
    def remedy(self, problem: str) -> str:
        """Return what helps against an error in writing."""

    @abstractmethod
    def writer(self, feature_names: tuple[str, ...], texts: Sequence[bool]) -> RowWriter:
        """Return a connection for rows of predictions; ``texts`` says which of their values are texts."""


class Sqlite(Database):
    """A file in WAL mode. One that is missing is made by the first write."""

    is_partitioned = False

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path.absolute()
        self.place = str(self.path)
        self._timeout = timeout
        self._ready = 0  # inode of the file that is known to be up to date
        self.engine = sa.create_engine("sqlite://", creator=self._connect, poolclass=NullPool)
        sa.event.listen(self.engine, "begin", self._begin)

    def exists(self) -> bool:
        """Return whether the file is there."""
        return self.path.exists()

    def is_ready(self) -> bool:
        """Return whether it is the file that was brought up to date."""
        try:
            return self.path.stat().st_ino == self._ready
        except FileNotFoundError:
            return False

    def set_ready(self) -> None:
        """Remember the file."""
        self._ready = self.path.stat().st_ino

    def check_room(self) -> None:
        """Look at the disk: to write what is there already takes no room."""
        if shutil.disk_usage(self.path.parent).free < LEAST_FREE_BYTES:
            raise OSError(f"less than {LEAST_FREE_BYTES >> 10} KB are free")

    def remedy(self, problem: str) -> str:
        """Return what helps, by the words of SQLite."""
        if "locked" in problem:
            return "another program holds it open for writing; end that one"
        if "malformed" in problem or "not a database" in problem:
            return f"move it away (mv {self.path} {self.path}.broken), a new one is made at the next prediction"
        if "readonly" in problem or "unable to open" in problem or "Permission denied" in problem:
            return f"make {self.path.parent} and the file writable for uid {os.getuid()}"
        return "free space on that disk, predictions go on by themselves; PREDICTION_LOG=off answers without a log"

    def writer(self, feature_names: tuple[str, ...], texts: Sequence[bool]) -> RowWriter:
        """Return a connection of its own; SQLite takes whatever type a value has."""
        return sqlite_rows.SqliteWriter(self.path, feature_names, self._timeout)

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return sqlite_rows.connect(self.path, self._timeout)

    @staticmethod
    def _begin(connection: sa.Connection) -> None:
        """Begin what Python's module leaves to us; a writer waits for others here and not at its first row."""
        writes = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Postgres(Database):
    """A database of a server; several machines may use it at once."""

    is_partitioned = True

    def __init__(self, url: str, timeout: float) -> None:
        from tableloop.state import postgres_connection, postgres_rows  # noqa: PLC0415 - the default start has no use for psycopg

        self._connections = postgres_connection
        self._rows = postgres_rows
        self._url = url
        self._timeout = timeout
        self._ready = False
        self._silent: tuple[float, StoreError] | None = None  # until when, and what was said of it
        self.place = postgres_connection.place(url)
        self.engine = sa.create_engine(
            "postgresql+psycopg://", connect_args=postgres_connection.parameters(url), poolclass=NullPool
        )
        sa.event.listen(self.engine, "begin", self._begin)
        sa.event.listen(self.engine, "do_connect", self._connect)

    def exists(self) -> bool:
        """Return True: a new database is made ready by whoever looks first."""
        return True

    def is_ready(self) -> bool:
        """Return whether it was brought up to date by this process."""
        return self._ready

    def set_ready(self) -> None:
        """Remember that."""
        self._ready = True

    def check_room(self) -> None:
        """Do nothing: the server says it when it is asked to write."""

    def remedy(self, problem: str) -> str:
        """Return what helps: whatever it is, it is the server's."""
        return (
            "see that PostgreSQL runs and that DATABASE_URL is right, predictions go on by themselves; "
            "PREDICTION_LOG=off answers without a log"
        )

    def writer(self, feature_names: tuple[str, ...], texts: Sequence[bool]) -> RowWriter:
        """Return a connection of its own."""
        with self._unless_silent():
            return self._rows.PostgresWriter(self._url, feature_names, texts, self._timeout)

    def _connect(self, _dialect: object, _record: object, _arguments: object, named: dict[str, Any]) -> Any:
        with self._unless_silent(), self._connections.as_store_errors():
            return self._connections.Connection.to(named, autocommit=False)

    @contextmanager
    def _unless_silent(self) -> Iterator[None]:
        """Connect, unless the server has just not answered: it is not waited for again at once."""
        began = time.monotonic()
        if self._silent is not None and began < self._silent[0]:
            raise self._silent[1]
        try:
            yield
        except StoreError as error:
            now = time.monotonic()
            self._silent = (now + SILENT_SECONDS, error) if now > began + SILENT_SECONDS else None
            raise

    def _begin(self, connection: sa.Connection) -> None:
        """Have a transaction wait for no lock for ever, and a writer for the other ones first."""
        writes = connection.get_execution_options().get("write", False)
        if not writes:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        milliseconds = f"{self._timeout * 1000:.0f}ms"
        connection.exec_driver_sql("SELECT set_config('lock_timeout', %s, true)", (milliseconds,))
        if writes:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (self._rows.WRITERS,))


def database(place: Path | str, timeout: float) -> Database:
    """Return the database at the path of a file, or at the address of a server."""
    return Sqlite(place, timeout) if isinstance(place, Path) else Postgres(place, timeout)


@contextmanager
def as_store_errors() -> Iterator[None]:
    """Raise whatever a database raises as an error of the store."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(" ".join(str(getattr(error, "orig", None) or error).split())) from error
    except (sqlite3.Error, OSError) as error:
        raise StoreError(str(error)) from error
