"""The store: what serves, the history of retrainings, and a file made by older or newer code."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tableloop.state.database import KILLED, Store
from tableloop.state.errors import StoreError
from tableloop.state.prediction_rows import row
from tests.unit.tableloop.state.queries import queries_of_drift_and_retraining

NAMES = ("MedInc", "AveRooms")


@pytest.fixture
def store(place: Path | str) -> Store:
    return Store(place, NAMES)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions.db"


@pytest.fixture
def store_of_file(file: Path) -> Store:
    return Store(file, NAMES)


def serving(store: Store, *events: tuple[str, str]) -> str | None:
    """Record events of versions and return the champion."""
    for version, event in events:
        store.record_serving("Model", version, f"run-{version}", event)
    champion = store.serving_champion("Model")
    return champion.version if champion else None


def test_the_champion_is_the_newest_version_that_was_not_refused_since(store: Store) -> None:
    assert serving(store) is None
    assert serving(store, ("1", "promoted"), ("1", "serves"), ("2", "promoted")) == "2"
    assert serving(store, ("2", "refused")) == "1"
    assert serving(store, ("2", "serves")) == "2"
    assert serving(store, ("1", "rolled back")) == "1"
    assert store.serving_champion("Other") is None
    newest = store.serving_history("Model", 2)
    assert [(event.version, event.run_id, event.event) for event in newest] == [
        ("1", "run-1", "rolled back"),
        ("2", "run-2", "serves"),
    ]


def test_a_version_that_serves_is_noted_once_however_many_services_say_so(store: Store) -> None:
    serving(store, *[("1", "serves")] * 3, ("1", "refused"), ("1", "serves"))
    assert [event.event for event in store.serving_history("Model", 9)] == ["serves", "refused", "serves"]


def test_the_same_number_of_another_registry_is_another_version(store: Store) -> None:
    store.record_serving("Model", "1", "here", "serves")
    store.record_serving("Model", "1", "elsewhere", "serves")
    store.record_serving("Model", "1", "elsewhere", "refused")
    champion = store.serving_champion("Model")
    assert champion is not None
    assert champion.run_id == "here"


def test_a_store_that_is_not_there_is_empty(store: Store) -> None:
    assert store.serving_champion("Model") is None
    assert store.retrainings(5) == []
    assert store.retraining_counts() == {}
    assert store.newest_predictions(1) == []


def test_a_prediction_is_found_by_its_id(store: Store) -> None:
    assert store.prediction("p1") is None
    with closing(store.writer()) as writer:
        writer.insert([row(f"p{n}", "r", 5.0 + n, str(n), [float(n), 2.0], 1.5, 0.0, 2.0) for n in range(3)])
    found = store.prediction("p1")
    assert found is not None
    assert (found.model_version, found.requested_at, found.prediction) == ("1", 6.0, 1.5)
    assert [*found.features] == [1.0, 2.0]
    assert store.prediction("p9") is None


def test_a_file_is_not_made_by_looking(store_of_file: Store, file: Path) -> None:
    assert store_of_file.retrainings(5) == []
    assert not file.exists()


def test_a_retraining_is_in_the_history_from_its_beginning_to_its_end(store: Store) -> None:
    number = store.begin_retraining("user", "because", "somebody")
    assert [(item.cause, item.by, item.ended_at) for item in store.retrainings(1)] == [("because", "somebody", None)]
    assert store.retraining_counts() == {}
    store.end_retraining(number, "promoted", "3", "better", {"train": 2.5})
    (item,) = store.retrainings(1)
    assert (item.outcome, item.version, item.reason, item.seconds) == ("promoted", "3", "better", {"train": 2.5})
    assert item.ended_at is not None
    assert item.ended_at >= item.started_at


def test_a_retraining_that_was_killed_is_noted_by_the_next_one(store: Store) -> None:
    store.begin_retraining("user", "", "somebody")
    store.begin_retraining("drift", "", "the monitor")
    running, killed = store.retrainings(5)
    assert (running.outcome, killed.outcome, killed.reason) == (None, "failed", KILLED)
    assert store.retraining_counts() == {"failed": 1}


def columns(store: Store) -> dict[str, bool]:
    """Return the columns of predictions, and whether each has to be given."""
    with store.reading() as connection:
        found = sa.inspect(connection).get_columns("predictions")
    return {column["name"]: not column["nullable"] for column in found}


def test_a_new_feature_is_a_new_column_and_one_that_is_gone_may_be_missing(store: Store, place: Path | str) -> None:
    store.prepare()
    later = Store(place, ("AveRooms", "Pool"))
    later.prepare()
    found = columns(later)
    assert [found[name] for name in ("MedInc", "AveRooms", "Pool")] == [False, False, False]
    assert found["prediction"]


def old_file(path: Path) -> None:
    """Make a prediction log as commit 6471210 did, with two predictions and a label."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE predictions (
                id INTEGER PRIMARY KEY, prediction_id TEXT NOT NULL UNIQUE, request_id TEXT NOT NULL,
                requested_at REAL NOT NULL, model_version TEXT NOT NULL, MedInc REAL NOT NULL, HouseAge REAL NOT NULL,
                prediction REAL NOT NULL, low REAL NOT NULL, high REAL NOT NULL);
            CREATE TABLE feedback (
                id INTEGER PRIMARY KEY, prediction_id TEXT NOT NULL UNIQUE, actual_value REAL NOT NULL,
                received_at REAL NOT NULL, batch TEXT);
            CREATE INDEX feedback_waiting ON feedback (id) WHERE batch IS NULL;
            INSERT INTO predictions VALUES
                (3, 'a', 'r', 1.5, '1', 2.5, 41, 2, 1, 3), (7, 'b', 'r', 2.5, '1', 3, 4, 2, 1, 3);
            INSERT INTO feedback VALUES (1, 'a', 2.5, 9.5, '20260101T000000Z-0001.parquet');
        """)


def test_a_log_from_before_the_store_keeps_its_rows_and_takes_new_ones(store_of_file: Store, file: Path) -> None:
    old_file(file)
    store_of_file.prepare()
    found = columns(store_of_file)
    assert not any(found[name] for name in ("MedInc", "HouseAge", "AveRooms"))
    with closing(sqlite3.connect(file)) as connection, connection:
        rows = connection.execute("SELECT id, prediction_id, MedInc, HouseAge, AveRooms, low FROM predictions")
        assert rows.fetchall() == [(3, "a", 2.5, 41, None, 1), (7, "b", 3, 4, None, 1)]
        assert connection.execute("SELECT * FROM feedback").fetchall() == [
            (1, "a", 2.5, 9.5, "20260101T000000Z-0001.parquet", None, None)
        ]
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            connection.execute(
                "INSERT INTO predictions (prediction_id, request_id, requested_at, model_version, prediction, low,"
                " high) VALUES ('a', 'r', 1, '1', 2, 1, 3)"
            )


def test_a_migration_that_is_killed_leaves_what_was_there(store_of_file: Store, file: Path) -> None:
    old_file(file)
    before = columns(store_of_file)
    code = (
        "import os, sys; from pathlib import Path; from tableloop.state import database\n"
        "database.COMMON.create_all = lambda connection: os._exit(9)\n"
        "database.Store(Path(sys.argv[1]), ('MedInc',)).prepare()"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    assert ended.returncode == 9
    assert columns(store_of_file) == before
    store_of_file.prepare()
    assert "AveRooms" in columns(store_of_file)


def test_no_query_of_drift_and_retraining_reads_all_predictions_of_a_file(store_of_file: Store, file: Path) -> None:
    store_of_file.prepare()
    queries = queries_of_drift_and_retraining(Store(file))
    with closing(sqlite3.connect(file)) as connection:
        for sql, values in queries:
            plan = [line for *_, line in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            if sql.endswith("LIMIT ? OFFSET ?") and "SCAN predictions" in plan:
                assert plan == ["SCAN predictions"], sql  # in the order of its ids, and no further than the limit
            else:
                assert not [line for line in plan if line.startswith("SCAN p")], (sql, plan)


def test_a_newer_store_is_refused_and_told(store: Store, place: Path | str) -> None:
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE schema_version SET version = 99")
    with pytest.raises(StoreError, match=r"version 99.*start the newer version"):
        Store(place, NAMES).serving_champion("Model")


def test_a_file_that_is_no_database_is_told(store_of_file: Store, file: Path) -> None:
    file.write_bytes(b"x" * 8192)
    with pytest.raises(StoreError, match="not a database"):
        store_of_file.retrainings(1)


def test_a_table_of_hundreds_of_columns_is_stored(place: Path | str) -> None:
    names = tuple(f"c{number}" for number in range(900))
    wide = Store(place, names)
    rows = [row(f"p{number}", "r", 1.0, "1", [float(number)] * len(names), 1.0, 0.0, 2.0) for number in range(100)]
    with closing(wide.writer()) as writer:
        writer.insert(rows)
    assert len(wide.newest_predictions(1000)) == 100
