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
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg

from tableloop.state.errors import StoreError
from tableloop.state.prediction_rows import NEWEST, REST, Labelled, Row, RowWriter, columns, quoted

CONNECT_SECONDS: Final = 2  # psycopg takes no less
ANSWER_SECONDS: Final = 1.5  # of a write; a server that says nothing for longer is given up
WEEK: Final = 7 * 86_400
WEEKS_AHEAD: Final = 2
WRITERS: Final = 0x7461626C  # key of the advisory lock of all writers but those that only add predictions
LOCK_SECONDS: Final = 1.0  # to wait for readers while a partition is exchanged
DELETED_AT_ONCE: Final = 1_000
# Each query has its index. Without statistics, as of a partition that was just filled, the planner would read whole
# tables instead: twenty seconds, not five milliseconds, for the newest labels of a million predictions.
BY_INDEX: Final = "-c enable_seqscan=off"


class PostgresWriter(RowWriter):
    """Writes to the database, which is up to date. ``texts`` says which values of a row are texts."""

    def __init__(self, url: str, feature_names: tuple[str, ...], texts: Sequence[bool], timeout: float) -> None:
        names = columns(feature_names)
        self._copy = f"COPY predictions ({quoted(names)}) FROM STDIN (FORMAT BINARY)"
        self._types = ["text" if is_text else "float8" for is_text in texts]
        self._texts = [place for place, is_text in enumerate(texts) if is_text and names[place] in feature_names]
        self._rest_is_tidy = False
        with as_store_errors():
            self.connection = psycopg.connect(**parameters(url), autocommit=True)
        self._deadline = _Deadline(self.connection.fileno())
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
            self._deadline,
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
        with as_store_errors(), self._deadline:
            self.connection.execute("SELECT pg_logical_emit_message(true, 'tableloop', '')")

    def is_current(self) -> bool:
        """Return whether the server has not closed the connection: an idle one is silent."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close the connection."""
        self._deadline.stop()
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
        with as_store_errors(), self._deadline, self.connection.transaction():
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


class _Deadline:
    """Cuts a connection whose server has not answered `ANSWER_SECONDS` after this was entered.

    A thread that looks four times a second, because psycopg waits for an answer without an end.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=os.dup(descriptor))
        self._until = float("inf")
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="store-deadline", daemon=True).start()

    def __enter__(self) -> None:
        self._until = time.monotonic() + ANSWER_SECONDS

    def __exit__(self, *_: object) -> None:
        self._until = float("inf")

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        with self._socket:
            while not self._stopped.wait(0.25):
                if time.monotonic() > self._until:
                    with suppress(OSError):  # it is closed already
                        self._socket.shutdown(socket.SHUT_RDWR)
                    return


def parameters(url: str) -> dict[str, Any]:
    """Return an address as psycopg's parameters: its own parser repeats in an error what it cannot read."""
    address = urlsplit(url)
    given = {
        "host": address.hostname,
        "port": address.port,
        "user": address.username and unquote(address.username),
        "password": address.password and unquote(address.password),
        "dbname": unquote(address.path.lstrip("/")),
    }
    found = {name: value for name, value in given.items() if value}
    known = {"application_name": "tableloop", **found, **dict(parse_qsl(address.query))}
    known["options"] = f"{known.get('options', '')} {BY_INDEX}".strip()
    return known | {"connect_timeout": CONNECT_SECONDS}


def place(url: str) -> str:
    """Return an address in words, without login and options."""
    known = parameters(url)
    return f"postgresql://{known.get('host', '')}:{known.get('port', 5432)}/{known.get('dbname', '')}"


def newest(url: str) -> tuple[float | None, ...]:
    """Return what `tableloop.state.sqlite_rows.newest` returns of a file."""
    with as_store_errors(), psycopg.connect(**parameters(url), autocommit=True) as connection:
        found = connection.execute(NEWEST.encode()).fetchone()
    return found or ()


@contextmanager
def as_store_errors() -> Iterator[None]:
    """Raise psycopg's errors as those of the store, in one line."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise StoreError(" ".join(str(error).split())) from error


def _name(start: float) -> str:
    return f"predictions_{datetime.fromtimestamp(start, UTC):%Y%m%d}"


def _start(name: str) -> float:
    return datetime.strptime(f"{name.rpartition('_')[2]}+0000", "%Y%m%d%z").timestamp()


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(newest(os.environ["DATABASE_URL"])) + "\n")
    except StoreError as problem:
        sys.exit(str(problem))
