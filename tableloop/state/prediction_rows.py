"""The hot path into the store: rows of predictions and their labels, inserted by the service through `sqlite3`.

Hand-made SQL, because the service writes thousands of rows a second: many rows in one statement, since each statement
gives up the interpreter lock and waits to have it back from a busy event loop. Everything else that is asked of the
store goes through `tableloop.state.database`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

ROWS_PER_STATEMENT: Final = 64
PRUNED_AT_ONCE: Final = 1_000
TEXTS: Final = ("prediction_id", "request_id", "model_version")  # the columns that are no numbers

Row = tuple[Any, ...]


class Labelled(NamedTuple):
    """A prediction whose true value is known; ``received_at`` in unix seconds."""

    prediction_id: str
    actual_value: float
    received_at: float
    model_version: str
    prediction: float
    low: float
    high: float


class Label(NamedTuple):
    """What became of one label: ``labelled`` is what the store holds now, None when it has no such prediction."""

    labelled: Labelled | None
    stored: bool


def row(  # noqa: PLR0917 - by position, as names would cost as much again
    prediction_id: str,
    request_id: str,
    requested_at: float,
    model_version: str,
    features: Sequence[float],
    value: float,
    low: float,
    high: float,
) -> Row:
    """Return a row for `insert`; ``features`` in the order of the contract."""
    return (prediction_id, request_id, requested_at, model_version, *features, value, low, high)


def columns(feature_names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a `row`."""
    return (
        *("prediction_id", "request_id", "requested_at", "model_version"),
        *feature_names,
        *("prediction", "low", "high"),
    )


def insert(connection: sqlite3.Connection, rows: Sequence[Row], feature_names: tuple[str, ...]) -> None:
    """Insert the rows in one transaction, all or none."""
    if len(rows) <= ROWS_PER_STATEMENT:
        connection.execute(_statement(feature_names, len(rows)), [value for row in rows for value in row])
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            part = rows[start : start + ROWS_PER_STATEMENT]
            connection.execute(_statement(feature_names, len(part)), [value for row in part for value in row])
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def insert_labels(connection: sqlite3.Connection, labels: Sequence[tuple[str, float]]) -> list[Label]:
    """Insert the labels that are the first of a known prediction, and return what became of each.

    The known rows come back as one value, for few statements; its numbers are text, because SQLite writes JSON
    numbers with 15 digits.
    """
    wanted = json.dumps([prediction_id for prediction_id, _ in labels])
    known: dict[str, Labelled] = {}
    labelled_before: set[str] = set()
    for name, value, at, version, *numbers in json.loads(connection.execute(_KNOWN, (wanted,)).fetchone()[0]):
        if value is not None:
            labelled_before.add(name)
        known[name] = Labelled(name, float(value or "nan"), float(at or "nan"), version, *map(float, numbers))
    now = time.time()
    outcomes: list[Label] = []
    for prediction_id, actual_value in labels:
        found = known.get(prediction_id)
        new = found is not None and prediction_id not in labelled_before
        if found is not None and new:
            found = known[prediction_id] = found._replace(actual_value=actual_value, received_at=now)
            labelled_before.add(prediction_id)
        outcomes.append(Label(found, new))
    rows = [outcome.labelled[:3] for outcome in outcomes if outcome.stored and outcome.labelled is not None]
    if rows:
        places = ", ".join(["(?, ?, ?)"] * len(rows))
        connection.execute(
            f"INSERT INTO feedback (prediction_id, actual_value, received_at) VALUES {places}",  # noqa: S608 - places
            [value for row in rows for value in row],
        )
    return outcomes


def prune(connection: sqlite3.Connection, after: int, before: float) -> int | None:
    """Delete unlabelled predictions made ``before``, of the next ids ``after``; return the last id looked at.

    None when there are no more that old: ids are in the order of time.
    """
    end: int | None = connection.execute(
        "SELECT max(id) FROM (SELECT id, requested_at FROM predictions WHERE id > ? ORDER BY id LIMIT ?)"
        " WHERE requested_at < ?",
        (after, PRUNED_AT_ONCE, before),
    ).fetchone()[0]
    if end is not None:
        connection.execute(
            "DELETE FROM predictions WHERE id > ? AND id <= ? AND requested_at < ? AND NOT EXISTS"
            " (SELECT 1 FROM feedback WHERE feedback.prediction_id = predictions.prediction_id)",
            (after, end, before),
        )
    return end


def newest_ids(database: Path) -> tuple[int | None, ...]:
    """Return the newest id of predictions, of labels and of events of what serves: what changes with anything new.

    Raises
    ------
    sqlite3.Error
        The store is not there, or cannot be read.
    """
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    try:
        query = ", ".join(f"(SELECT max(id) FROM {table})" for table in ("predictions", "feedback", "serving"))  # noqa: S608
        newest: tuple[int | None, ...] = connection.execute(f"SELECT {query}").fetchone()
        return newest
    finally:
        connection.close()


@cache
def _statement(feature_names: tuple[str, ...], count: int) -> str:
    names = columns(feature_names)
    places = "(" + ", ".join("?" * len(names)) + ")"
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO predictions ({quoted}) VALUES {', '.join([places] * count)}"  # noqa: S608 - of the contract


_KNOWN: Final = """
SELECT json_group_array(json_array(
    p.prediction_id, iif(f.id IS NULL, NULL, printf('%!.17g', f.actual_value)), printf('%!.17g', f.received_at),
    p.model_version, printf('%!.17g', p.prediction), printf('%!.17g', p.low), printf('%!.17g', p.high)
))
FROM predictions p LEFT JOIN feedback f USING (prediction_id)
WHERE p.prediction_id IN (SELECT value FROM json_each(?))"""
