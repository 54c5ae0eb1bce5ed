"""Rows of predictions and their labels in PostgreSQL, through psycopg alone.

A group of rows is one COPY in binary form, which takes a fifth of the processor time of a statement with many values.
It is answered after the commit: ``synchronous_commit`` stays as the server has it.

Predictions are partitioned by the week in which they were made. `PostgresWriter.tidy` makes partitions ahead and
drops old ones; labelled rows move to the partition of everything else then, where they stay. That one also holds rows
of a time that has no partition of its own.

``python -m tableloop.state.postgres_rows`` prints what is newest as JSON, for the drift monitor, which stays small.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from tableloop.state.errors import StoreError
from tableloop.state.postgres_connection import as_store_errors, connect
from tableloop.state.prediction_rows import NEWEST, REST, Labelled, Row, RowWriter, columns, quoted

WEEK: Final = 7 * 86_400
WEEKS_AHEAD: Final = 2
WRITERS: Final = 0x7461626C  # key of the advisory lock of all writers but those that only add predictions
LOCK_SECONDS: Final = 1.0  # to wait for readers while a partition is exchanged
DELETED_AT_ONCE: Final = 1_000


class PostgresWriter(RowWriter):
    """Writes to the database, which is up to date. ``texts`` says which values of a row are texts."""

    def __init__(self, url: str, feature_names: tuple[str, ...], texts: Sequence[bool], timeout: float) -> None:
        names = columns(feature_names)
        self._copy = f"COPY predictions ({quoted(names)}) FROM STDIN (FORMAT BINARY)"
        self._types = ["text" if is_text else "float8" for is_text in texts]
        self._texts = [place for place, is_text in enumerate(texts) if is_text and names[place] in feature_names]
        self._rest_is_tidy = False
        with as_store_errors():
            self.connection = connect(url)
        self._poll = select.poll()
        self._poll.register(self.connection.fileno(), select.POLLIN)
        with as_store_errors():
            self.connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{timeout * 1000:.0f}ms",))

    def insert(self, rows: Sequence[Row]) -> None:
        """Insert the rows in one transaction, all or none."""
        if self._texts:
            rows = [self._without_zeros(row) for row in rows]
        with (
            as_store_errors(),
            self.connection.in_haste(),
            self.connection.cursor() as cursor,
            cursor.copy(self._copy) as copy,
        ):
            copy.set_types(self._types)
            for row in rows:
                copy.write_row(row)

    def tidy(self, before: float | None) -> bool:
        """Make partitions ahead; exchange those that are wholly too old, and delete a few from the rest."""
        with as_store_errors():
            present = self._partitions()
            week = time.time() // WEEK * WEEK
            for start in (week + ahead * WEEK for ahead in range(WEEKS_AHEAD)):
                if _name(start) not in present:
                    self.make_partition(start)
            if before is None:
                return False
            for name, start in present.items():
                if start + WEEK <= before:
                    self._drop_partition(name)
                    return True
            if not self._rest_is_tidy:
                self._rest_is_tidy = self._delete_from_rest(before) < DELETED_AT_ONCE
            return not self._rest_is_tidy

    def try_to_write(self) -> None:
        """Write a message into the log of the server that no table sees."""
        with as_store_errors(), self.connection.in_haste():
            self.connection.execute("SELECT pg_logical_emit_message(true, 'tableloop', '')")

    def is_current(self) -> bool:
        """Return whether the server has not closed the connection: an idle one is silent."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _without_zeros(self, row: Row) -> Row:
        """Return the row without what PostgreSQL cannot store in a text."""
        values = list(row)
        for place in self._texts:
            if isinstance(values[place], str):
                values[place] = values[place].replace("\0", "\ufffd")
        return tuple(values)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with as_store_errors(), self.connection.in_haste(), self.connection.transaction():
            self.connection.execute("SELECT pg_advisory_xact_lock(%s)", (WRITERS,))
            yield

    def _known(self, prediction_ids: list[str]) -> list[Labelled]:
        possible = [name for name in prediction_ids if "\0" not in name]
        found = self.connection.execute(
            "SELECT p.prediction_id, coalesce(f.actual_value, 'NaN'), coalesce(f.received_at, 'NaN'),"
            " p.model_version, p.prediction, p.low, p.high"
            " FROM predictions p LEFT JOIN feedback f USING (prediction_id) WHERE p.prediction_id = ANY(%s)",
            (possible,),
        )
        return [Labelled(*row) for row in found]

    def _add_labels(self, labels: Sequence[tuple[str, float, float, str]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO feedback (prediction_id, actual_value, received_at, sender) VALUES (%s, %s, %s, %s)",
                labels,
            )

    def _partitions(self) -> dict[str, float]:
        """Return the start of each week's partition by its name, the oldest first."""
        found = self.connection.execute(
            "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
            " WHERE inhparent = 'predictions'::regclass AND relname <> %s ORDER BY relname",
            (REST,),
        )
        return {name: _start(name) for (name,) in found}

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        """Begin a transaction that gives up when readers keep it from the partitions for long."""
        with self.connection.transaction():
            self.connection.execute(
                "SELECT set_config('lock_timeout', %s, true), set_config('enable_seqscan', 'on', true)",
                (f"{LOCK_SECONDS * 1000:.0f}ms",),
            )
            self.connection.execute("SELECT pg_advisory_xact_lock(%s)", (WRITERS,))
            yield

    def make_partition(self, start: float) -> None:
        """Make the partition of a week, and move to it what lies in the rest already."""
        name, end = _name(start), start + WEEK
        with self._exchanging():
            if name in self._partitions():  # by another service, while this one waited
                return
            self.connection.execute(f"CREATE TABLE {name} (LIKE predictions INCLUDING DEFAULTS)")
            self.connection.execute(
                f"WITH moved AS (DELETE FROM {REST} WHERE requested_at >= %s AND requested_at < %s RETURNING *)"  # noqa: S608 - ours
                f" INSERT INTO {name} SELECT * FROM moved",
                (start, end),
            )
            self.connection.execute(
                f"ALTER TABLE predictions ATTACH PARTITION {name} FOR VALUES FROM ({start:.0f}) TO ({end:.0f})"
            )

    def _drop_partition(self, name: str) -> None:
        """Drop a partition; its labelled rows go to the rest, because no partition is theirs any more."""
        with self._exchanging():
            if name not in self._partitions():
                return
            self.connection.execute(f"ALTER TABLE predictions DETACH PARTITION {name}")
            self.connection.execute(
                f"INSERT INTO predictions SELECT old.* FROM {name} old JOIN feedback USING (prediction_id)"  # noqa: S608 - ours
            )
            self.connection.execute(f"DROP TABLE {name}")

    def _delete_from_rest(self, before: float) -> int:
        return self.connection.execute(
            f"DELETE FROM {REST} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {REST} old WHERE requested_at < %s"  # noqa: S608 - ours
            " AND NOT EXISTS (SELECT 1 FROM feedback WHERE feedback.prediction_id = old.prediction_id) LIMIT %s))",
            (before, DELETED_AT_ONCE),
        ).rowcount


def newest(url: str) -> tuple[float | None, ...]:
    """Return what `tableloop.state.sqlite_rows.newest` returns of a file."""
    with as_store_errors(), connect(url) as connection:
        found = connection.execute(NEWEST.encode()).fetchone()
    return found or ()


def _name(start: float) -> str:
    return f"predictions_{datetime.fromtimestamp(start, UTC):%Y%m%d}"


def _start(name: str) -> float:
    return datetime.strptime(f"{name.rpartition('_')[2]}+0000", "%Y%m%d%z").timestamp()


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(newest(os.environ["DATABASE_URL"])) + "\n")
    except StoreError as problem:
        sys.exit(str(problem))
