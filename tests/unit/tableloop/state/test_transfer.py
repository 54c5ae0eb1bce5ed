"""The store of a file moved to PostgreSQL: in passes, killed in between, and never over somebody else's."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from appliance.prepare import RefusedError, check_moved
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.postgres_rows import WEEK
from tableloop.state.prediction_rows import REST, Row, Sent, row
from tableloop.state.shadows import Shadow, Value
from tableloop.state.transfer import StoreTransfer
from tableloop.table import load_table
from tests.postgres import Postgres

TABLE = load_table()
FEATURES = [0.1] * len(TABLE.feature_names)
NOW = time.time()


def made(name: str, at: float = NOW, request: str = "r") -> Row:
    return row(name, request, at, "1", FEATURES, 2.0, 1.0, 3.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store with all that can be in one."""
    file = tmp_path / "predictions.db"
    store = Store(file)
    with closing(store.writer()) as writer:
        writer.insert([made(f"p{n}", NOW - n * WEEK / 10) for n in range(40)])
        writer.insert([made("old", NOW - 50 * WEEK), made("zero", request="a zero \0 byte")])
        writer.insert_labels([Sent(f"p{n}", 2.0 + n, sure=True) for n in range(5)], "crm", TABLE)
    store.mark_labels({"p1": "20260101T000000Z-0001.parquet"})
    store.revoke_labels("me", "false", batch="20260101T000000Z-0001.parquet")
    store.add_drift_report({"status": "no drift", "z": None, "a": [1.5, "ü"]}, {"windows": 2})
    store.end_retraining(store.begin_retraining("user", "why", "me"), "promoted", "1", "", {"train": 0.1})
    store.record_serving("Model", "1", "run", "serves")
    score(store, shadows.begin(store, "Model", "2", "run 2"), "p40", "p41", "p42")
    return file


def score(store: Store, shadow: Shadow, *names: str) -> None:
    """Log predictions and what a version in the shadow says of them."""
    with closing(store.writer()) as writer:
        writer.insert([made(name) for name in names])
    newest = store.newest_predictions(len(names))[::-1]
    shadows.add_values(store, shadow, [Value(each.id, 2.5, 1.5, 3.5) for each in newest], newest[-1].id)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


def one_pass(file: Path, url: str, source: str = "this one") -> dict[str, int]:
    """Return how many rows of each table were copied."""
    moving = StoreTransfer(file, url, source)
    moving.begin()
    return {moved.table: moved.copied for moved in moving.copy(retention_days=90) if moved.copied}


def content(store: Store) -> list[object]:
    """Return what a store says of everything in it."""
    rows = [{**found} for part in store.predictions_with_labels(None, None) for found in part]
    for found in rows:
        found["request_id"] = str(found["request_id"]).replace("\0", "\ufffd")
    return [
        rows,
        *(store.newest_labelled(99), store.revoked(), store.count_unused_labels(), store.drift_report()),
        *(store.monitor_memory(), store.retrainings(9), store.serving_history("Model", 9)),
        shadows.history(store, "Model", 9),
    ]


def test_everything_is_there_and_goes_on_from_where_it_was(file: Path, url: str) -> None:
    before = hashlib.sha256(file.read_bytes()).digest()
    copied = one_pass(file, url)
    assert (copied["predictions"], copied["shadow_values"]) == (45, 3)
    assert {"feedback", "revocations", "drift_reports", "monitor_memory", "retrainings", "serving"} <= set(copied)
    assert StoreTransfer(file, url, "this one").differences() == []
    StoreTransfer(file, url, "this one").complete()
    check_moved(url)
    there = Store(url)
    assert content(there) == content(Store(file))
    assert hashlib.sha256(file.read_bytes()).digest() == before
    with closing(there.writer()) as writer:
        writer.insert([made("later")])
        assert writer.insert_labels([Sent("p7", 2.0), Sent("p1", 9.0)], "crm", TABLE)[1].stored is False
    assert there.newest_predictions(1)[0].id == 46
    assert there.newest_labelled(1)[0].prediction_id == "p7"
    assert there.begin_retraining("user", "", "me") == 2
    assert shadows.begin(there, "Model", "3", "run 3").id == 2


def test_weeks_that_retention_still_keeps_have_a_partition(file: Path, url: str) -> None:
    one_pass(file, url)
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT tableoid::regclass::text, count(*) FROM predictions GROUP BY 1")
        rows: dict[str, int] = dict(found.fetchall())
    assert rows.pop(REST) == 1
    assert len(rows) >= 4


def test_a_later_pass_copies_only_what_is_new_and_removes_what_is_gone(file: Path, url: str) -> None:
    one_pass(file, url)
    assert one_pass(file, url) == {}
    store = Store(file)
    with closing(store.writer()) as writer:
        writer.insert([made("new")])
        writer.insert_labels([Sent("new", 2.0)], "crm", TABLE)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM predictions WHERE prediction_id IN ('old', 'p30')")  # as retention does
    assert one_pass(file, url) == {"predictions": 1, "feedback": 6}
    assert content(Store(url)) == content(store)
    assert StoreTransfer(file, url, "this one").differences() == []


def test_a_later_pass_copies_only_the_values_of_a_shadow_that_are_new(file: Path, url: str) -> None:
    one_pass(file, url)
    store = Store(file)
    shadow = shadows.current(store, "Model")
    assert shadow is not None
    shadows.forget_values(store, time.time())
    score(store, shadow, "p43", "p44")
    assert one_pass(file, url) == {"predictions": 2, "shadow_values": 2, "shadows": 1}
    assert content(Store(url)) == content(store)
    assert StoreTransfer(file, url, "this one").differences() == []


def test_a_file_from_before_there_were_shadows_goes_along(file: Path, url: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executescript("DROP TABLE shadows; DROP TABLE shadow_values")
    assert one_pass(file, url)["predictions"] == 45
    assert StoreTransfer(file, url, "this one").differences() == []
    assert shadows.history(Store(url), "Model", 9) == []


def test_numbers_that_were_used_again_are_other_predictions(file: Path, url: str) -> None:
    one_pass(file, url)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM predictions")
    store = Store(file)
    with closing(store.writer()) as writer:
        writer.insert([made(f"again-{n}", NOW + 1) for n in range(3)])
    one_pass(file, url)
    assert [found.id for found in Store(url).newest_predictions(9)] == [3, 2, 1]
    assert StoreTransfer(file, url, "this one").differences() == []


def test_a_row_that_differs_is_found_by_its_digest(file: Path, url: str) -> None:
    one_pass(file, url)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE predictions SET low = low + 1e-12 WHERE prediction_id = 'p3'")
    assert StoreTransfer(file, url, "this one").differences() == ["public.predictions (45 rows here, 45 there)"]


def test_a_pass_that_is_killed_is_taken_up_by_the_next_one(file: Path, url: str) -> None:
    code = (
        "import os, sys; from pathlib import Path; from tableloop.state import transfer\n"
        "transfer.ROWS_AT_ONCE, transfer.Table.set_sequences = 10, lambda *_: os._exit(9)\n"
        "copies, copy = [], transfer.Table.copy\n"
        "def killed(*arguments):\n"
        "    copies.append(1)\n"
        "    return os._exit(9) if len(copies) == 3 else copy(*arguments)\n"
        "transfer.Table.copy = killed\n"
        "moving = transfer.StoreTransfer(Path(sys.argv[1]), os.environ['DATABASE_URL'], 'this one')\n"
        "moving.begin(); moving.copy(90)"
    )
    environment = os.environ | {"DATABASE_URL": url}
    ended = subprocess.run([sys.executable, "-c", code, str(file)], env=environment, check=False)
    assert ended.returncode == 9
    assert Store(url).count_predictions() == 20
    with pytest.raises(RefusedError, match=r"not whole yet.*make migrate-to once more"):
        check_moved(url)
    assert one_pass(file, url)["predictions"] == 25
    assert StoreTransfer(file, url, "this one").differences() == []


def test_a_target_of_another_appliance_is_refused_with_the_remedy(file: Path, url: str) -> None:
    Store(url).record_serving("Model", "1", "run", "serves")
    with pytest.raises(StoreError, match=r"state of another appliance: name an empty database"):
        one_pass(file, url)


def test_a_target_that_another_appliance_moves_to_is_refused(file: Path, url: str) -> None:
    one_pass(file, url)
    with pytest.raises(StoreError, match=r"with the signing key this one: name an empty"):
        one_pass(file, url, source="another one")


def test_what_the_target_has_stored_since_is_never_undone(file: Path, url: str) -> None:
    one_pass(file, url)
    StoreTransfer(file, url, "this one").complete()
    assert one_pass(file, url) == {}  # nobody has used it
    StoreTransfer(file, url, "this one").complete()
    with closing(Store(url).writer()) as writer:
        writer.insert([made("there")])
    with pytest.raises(StoreError, match="has been in use since"):
        one_pass(file, url)


def test_a_version_that_went_into_the_shadow_there_is_not_undone(file: Path, url: str) -> None:
    one_pass(file, url)
    StoreTransfer(file, url, "this one").complete()
    shadows.begin(Store(url), "Model", "3", "run 3")
    with pytest.raises(StoreError, match="has been in use since"):
        one_pass(file, url)


def test_a_store_of_another_version_is_refused(file: Path, url: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = 1")
    with pytest.raises(StoreError, match=r"start this one on it once"):
        one_pass(file, url)


def test_a_feature_that_left_the_contract_goes_along(file: Path, url: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("ALTER TABLE predictions ADD COLUMN former TEXT")
        connection.execute("UPDATE predictions SET former = 'x' WHERE prediction_id = 'p2'")
    one_pass(file, url)
    assert StoreTransfer(file, url, "this one").differences() == []
    with psycopg.connect(url) as target:
        assert target.execute("SELECT count(*) FROM predictions WHERE former = 'x'").fetchone() == (1,)
