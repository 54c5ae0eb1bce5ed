"""Rows of predictions and their labels in SQLite, through the standard library alone.

Many rows in one statement, since each statement gives up the interpreter lock and waits to have it back from a busy
event loop.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from tableloop.state.errors import StoreError
from tableloop.state.prediction_rows import NEWEST, Labelled, Row, RowWriter, columns, quoted

ROWS_PER_STATEMENT: Final = 64
MOST_VALUES: Final = 32_766  # in a statement, as SQLite is built
PRUNED_AT_ONCE: Final = 1_000


class SqliteWriter(RowWriter):
    """Writes to the file ``path``, which is up to date.

    ``synchronous=NORMAL``: see `app.prediction_writer`.
    """

    def __init__(self, path: Path, feature_names: tuple[str, ...], timeout: float) -> None:
        self._path = path
        self._names = feature_names
        self._looked_to = 0  # the last id that `tidy` has looked at
        with _as_store_errors():
            self._inode = path.stat().st_ino
            self.connection = connect(
                path, timeout, check_same_thread=False, cached_statements=2 * ROWS_PER_STATEMENT
            )
            self.connection.execute("PRAGMA synchronous=NORMAL")

    def insert(self, rows: Sequence[Row]) -> None:
        """Insert the rows in one transaction, all or none."""
        most = min(ROWS_PER_STATEMENT, MOST_VALUES // len(columns(self._names)))
        parts = [rows[start : start + most] for start in range(0, len(rows), most)]
        if len(parts) == 1:
            with _as_store_errors():
                self._insert(parts[0])
            return
        with self._alone():
            for part in parts:
                self._insert(part)

    def tidy(self, before: float | None) -> bool:
        """Look at the next few predictions, each once; ids are in the order of time.

        The newest stays until there is a newer one, as SQLite would give its id again.
        """
        if before is None:
            return False
        with _as_store_errors():
            end: int | None = self.connection.execute(
                "SELECT max(id) FROM (SELECT id, requested_at FROM predictions WHERE id > ?"
                " AND id < (SELECT max(id) FROM predictions) ORDER BY id LIMIT ?) WHERE requested_at < ?",
                (self._looked_to, PRUNED_AT_ONCE, before),
            ).fetchone()[0]
            if end is None:
                return False
            self.connection.execute(
                "DELETE FROM predictions WHERE id > ? AND id <= ? AND requested_at < ? AND NOT EXISTS"
                " (SELECT 1 FROM feedback WHERE feedback.prediction_id = predictions.prediction_id)",
                (self._looked_to, end, before),
            )
        self._looked_to = end
        return True

    def try_to_write(self) -> None:
        """Write what is there already: a number of the file that nothing uses."""
        with _as_store_errors():
            self.connection.execute("PRAGMA user_version = 0")

    def is_current(self) -> bool:
        """Return whether the file is still there: rows in one that was moved away could not be found again."""
        with suppress(FileNotFoundError):
            return self._path.stat().st_ino == self._inode
        return False

    def close(self) -> None:
        """Close the file."""
        with _as_store_errors():
            self.connection.close()

    def _insert(self, rows: Sequence[Row]) -> None:
        self.connection.execute(_statement(self._names, len(rows)), [value for row in rows for value in row])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with _as_store_errors():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def _known(self, prediction_ids: list[str]) -> list[Labelled]:
        """Return them from one value, for few steps; its numbers are text, as SQLite writes JSON's with 15 digits."""
        found = json.loads(self.connection.execute(_KNOWN, (json.dumps(prediction_ids),)).fetchone()[0])
        return [
            Labelled(name, float(value or "nan"), float(at if value else "nan"), version, *map(float, numbers))
            for name, value, at, version, *numbers in found
        ]

    def _add_labels(self, labels: Sequence[tuple[str, float, float, str]]) -> None:
        places = ", ".join(["(?, ?, ?, ?)"] * len(labels))
        self.connection.execute(
            f"INSERT INTO feedback (prediction_id, actual_value, received_at, sender) VALUES {places}",  # noqa: S608 - places
            [value for label in labels for value in label],
        )


def connect(path: Path, timeout: float, **options: Any) -> sqlite3.Connection:
    """Open the file in WAL mode, without the transactions that Python's module would begin by itself."""
    connection: sqlite3.Connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, **options)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def newest(database: Path) -> tuple[float | None, ...]:
    """Return the newest prediction, label, event of what serves and end of a retraining: what tells of anything new.

    Raises
    ------
    StoreError
        The store is not there, or cannot be read.
    """
    with _as_store_errors():
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        try:
            found: tuple[float | None, ...] = connection.execute(NEWEST).fetchone()
            return found
        finally:
            connection.close()


@contextmanager
def snapshot(file: Path) -> Iterator[sqlite3.Connection]:
    """Yield the SQLite file as of one moment; it is not written to, and others may go on writing.

    Raises
    ------
    StoreError
        It cannot be read.
    """
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master")  # the moment is that of the first reading
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"{file}: {error}") from error


@contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(str(error)) from error


@cache
def _statement(feature_names: tuple[str, ...], count: int) -> str:
    names = columns(feature_names)
    places = "(" + ", ".join("?" * len(names)) + ")"
    return f"INSERT INTO predictions ({quoted(names)}) VALUES {', '.join([places] * count)}"  # noqa: S608 - of the contract


_KNOWN: Final = """
SELECT json_group_array(json_array(
    p.prediction_id, iif(f.id IS NULL, NULL, printf('%!.17g', f.actual_value)), printf('%!.17g', f.received_at),
    p.model_version, printf('%!.17g', p.prediction), printf('%!.17g', p.low), printf('%!.17g', p.high)
))
FROM predictions p LEFT JOIN feedback f USING (prediction_id)
WHERE p.prediction_id IN (SELECT value FROM json_each(?))"""
