"""What a version in the shadow says of requests: kept once, compared with labels, and read by index."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tableloop.state import postgres_connection, shadows
from tableloop.state.database import Store
from tableloop.state.prediction_rows import Sent, row
from tableloop.state.shadows import Compared, Shadow, Value
from tableloop.state.sqlite_rows import SqliteWriter
from tableloop.table import load_table
from tests.postgres import Postgres

TABLE = load_table()
FEATURES = [0.5] * len(TABLE.feature_names)
MODEL = "Model"


@pytest.fixture
def store(place: Path | str) -> Store:
    return Store(place)


def predict(store: Store, *names: str, version: str = "1") -> list[int]:
    """Log predictions and return their ids."""
    with closing(store.writer()) as writer:
        writer.insert([row(name, "r", time.time(), version, FEATURES, 2.0, 1.0, 3.0) for name in names])
    return [made.id for made in store.newest_predictions(len(names))][::-1]


def label(store: Store, *names: str, sender: str = "crm") -> None:
    with closing(store.writer()) as writer:
        outcomes = writer.insert_labels([Sent(name, 2.5) for name in names], sender, TABLE)
    assert all(outcome.stored for outcome in outcomes)


def score(store: Store, shadow: Shadow, ids: Sequence[int], value: float = 2.25) -> None:
    shadows.add_values(store, shadow, [Value(number, value, 1.5, 3.5) for number in ids], max(ids))


def current(store: Store) -> Shadow:
    found = shadows.current(store, MODEL)
    assert found is not None
    return found


def test_a_version_enters_the_shadow_once_and_what_came_before_is_not_its_own(store: Store) -> None:
    assert shadows.current(store, MODEL) is None
    first, second = predict(store, "a", "b")
    label(store, "a")
    begun = shadows.begin(store, MODEL, "2", "run")
    assert first < second == begun.first == begun.scored_to
    assert (begun.version, begun.run_id, begun.ended_at, begun.outcome) == ("2", "run", None, None)
    predict(store, "c")
    assert shadows.begin(store, MODEL, "2", "run") == begun == shadows.current(store, MODEL)
    assert shadows.history(store, MODEL, 9) == [begun]
    assert shadows.current(store, "Another") is None


def test_another_version_takes_its_place(store: Store) -> None:
    shadows.begin(store, MODEL, "2", "run")
    later = shadows.begin(store, MODEL, "3", "run 3")
    other = shadows.begin(store, "Another", "2", "run")
    newest, withdrawn = shadows.history(store, MODEL, 9)
    assert newest == later == current(store)
    assert (withdrawn.version, withdrawn.outcome) == ("2", shadows.WITHDRAWN)
    assert withdrawn.reason == "version 3 took its place"
    again = shadows.begin(store, MODEL, "3", "a run of another registry")
    assert again.id != later.id
    assert shadows.current(store, "Another") == other


def test_its_end_is_noted_once(store: Store) -> None:
    shadows.begin(store, MODEL, "2", "run")
    shadows.end(store, MODEL, "promoted", "better")
    shadows.end(store, MODEL, "rejected", "too late")
    assert shadows.current(store, MODEL) is None
    (over,) = shadows.history(store, MODEL, 9)
    assert (over.outcome, over.reason) == ("promoted", "better")
    assert over.ended_at is not None
    assert over.began_at <= over.ended_at <= time.time()


def test_values_are_kept_once_though_two_looks_write_them(store: Store) -> None:
    shadow = shadows.begin(store, MODEL, "2", "run")
    ids = predict(store, *"abcde")
    score(store, shadow, ids[:3])
    score(store, shadow, ids[3:0:-1], value=9.0)  # the newest first, and what a killed look has written already
    assert shadows.newest_pairs(store, shadow, 9) == [(2.0, 9.0), *[(2.0, 2.25)] * 3]
    assert current(store).scored == 4
    shadows.add_values(store, shadow, [], ids[4])
    assert current(store).scored_to == ids[4]
    score(store, shadow, ids[:1])  # a slower one
    assert (current(store).scored_to, current(store).scored) == (ids[4], 4)


def test_rows_may_be_left_out(store: Store) -> None:
    shadow = shadows.begin(store, MODEL, "2", "run")
    ids = predict(store, *"abcde")
    score(store, shadow, [ids[3], ids[1]])
    label(store, *"abcde")
    assert current(store).scored_to == ids[3]
    assert len(shadows.compared(store, shadow, "1", 9)) == 2
    assert len(shadows.newest_pairs(store, shadow, 9)) == 2


def test_a_look_that_ends_after_the_version_has_left_writes_nothing(store: Store) -> None:
    former = shadows.begin(store, MODEL, "2", "run")
    later = shadows.begin(store, MODEL, "3", "run 3")
    ids = predict(store, "a", "b")
    score(store, former, ids)
    assert shadows.history(store, MODEL, 2)[1].scored == 0
    score(store, later, ids)
    assert current(store).scored == 2
    assert shadows.newest_pairs(store, former, 9) == []


def test_failures_in_a_row_are_counted_until_it_scores(store: Store) -> None:
    shadow = shadows.begin(store, MODEL, "2", "run")
    shadows.note_problem(store, shadow, 1, "killed")
    shadows.note_problem(store, shadow, 2, "no such file")
    assert (current(store).failures, current(store).problem) == (2, "no such file")
    score(store, shadow, predict(store, "a"))
    assert (current(store).failures, current(store).problem) == (2, "no such file")
    shadows.note_problem(store, shadow, 0, "")
    assert (current(store).failures, current(store).problem) == (0, "")
    shadows.note_look(store, current(store), 70)
    assert (current(store).looks, current(store).looked_at) == (1, 70)


def test_labels_of_the_same_rows_judge_both(store: Store) -> None:
    predict(store, "before")
    shadow = shadows.begin(store, MODEL, "2", "run")
    ids = predict(store, *"abc") + predict(store, "other", version="0") + predict(store, "unlabelled")
    score(store, shadow, ids)
    label(store, "before", "c", "other")
    label(store, "a", "b", sender="somebody")
    both = Compared(2.5, 2.0, 1.0, 3.0, 2.25, 1.5, 3.5, "crm", (0.5,) * 8)
    expected = [both._replace(sender="somebody")] * 2 + [both]
    assert shadows.compared(store, shadow, "1", 9) == expected
    assert shadows.compared(store, shadow, "1", 2) == expected[:2]
    assert len(shadows.compared(store, shadow, "0", 9)) == 1
    assert len(shadows.compared(store, shadow, None, 9)) == 4
    assert shadows.errors(expected) == (0.25, 0.5)
    store.revoke_labels("me", "false", sender="somebody")
    assert shadows.compared(store, shadow, "1", 9) == [both]


def test_of_a_time_that_is_over_what_was_labelled_before_counts(store: Store) -> None:
    shadow = shadows.begin(store, MODEL, "2", "run")
    score(store, shadow, predict(store, *"abc"))
    label(store, "a", "c")
    shadows.end(store, MODEL, "rejected", "worse")
    label(store, "b")
    (over,) = shadows.history(store, MODEL, 1)
    assert len(shadows.compared(store, over, None, 9)) == 2
    shadows.begin(store, MODEL, "3", "run 3")
    shadows.end(store, MODEL, shadows.WITHDRAWN, "")
    assert shadows.compared(store, shadows.history(store, MODEL, 1)[0], None, 9) == []


def test_the_second_time_in_the_shadow_begins_anew(store: Store) -> None:
    first = shadows.begin(store, MODEL, "2", "run")
    score(store, first, predict(store, "a", "b"))
    label(store, "a")
    shadows.end(store, MODEL, shadows.WITHDRAWN, "")
    again = shadows.begin(store, MODEL, "2", "run")
    label(store, "b")  # late, of a prediction of the first time
    assert shadows.compared(store, again, "1", 9) == []
    assert shadows.newest_pairs(store, again, 9) == []
    score(store, again, predict(store, "c"))
    label(store, "c")
    assert len(shadows.compared(store, again, "1", 9)) == 1
    assert current(store).scored == 1


def test_old_values_are_forgotten_a_few_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "FORGOTTEN_AT_ONCE", 2)
    shadow = shadows.begin(store, MODEL, "2", "run")
    ids = predict(store, *"abcdefg")
    score(store, shadow, ids[:5])
    between = time.time()
    time.sleep(0.01)
    score(store, shadow, ids[5:])
    shadows.forget_values(store, between)
    assert len(shadows.newest_pairs(store, shadow, 9)) == 7  # it is to be judged by them yet
    shadows.end(store, MODEL, "rejected", "worse")
    shadows.forget_values(store, between)
    assert len(shadows.newest_pairs(store, shadow, 9)) == 2
    assert shadows.history(store, MODEL, 1)[0].scored == 7  # which it has scored all the same
    shadows.forget_values(store, time.time() + 1)
    assert shadows.newest_pairs(store, shadow, 9) == []


def test_what_was_seen_before_somebody_decided_begins_nothing(store: Store) -> None:
    seen = shadows.begin(store, MODEL, "2", "run")
    assert shadows.begin_unless_changed(store, MODEL, "2", "run", seen) == seen
    shadows.begin(store, MODEL, "3", "run 3")
    assert shadows.begin_unless_changed(store, MODEL, "2", "run", seen) is None
    seen = current(store)
    shadows.end(store, MODEL, "rejected", "worse")
    assert shadows.begin_unless_changed(store, MODEL, "3", "run 3", seen) is None
    assert shadows.current(store, MODEL) is None
    (over,) = shadows.history(store, MODEL, 1)
    begun = shadows.begin_unless_changed(store, MODEL, "3", "run 3", over)
    assert begun is not None
    assert begun.id != over.id


def test_what_was_decided_stands_over_that_the_alias_is_gone(store: Store) -> None:
    shadow = shadows.begin(store, MODEL, "2", "run")
    shadows.end(store, MODEL, shadows.WITHDRAWN, "the alias was taken from it")
    shadows.end(store, MODEL, "rejected", "by ada", decided=shadow)
    (over,) = shadows.history(store, MODEL, 1)
    assert (over.outcome, over.reason) == ("rejected", "by ada")


def test_many_looks_at_once_put_one_version_into_the_shadow(store: Store, place: Path | str) -> None:
    store.prepare()
    with ThreadPoolExecutor(4) as threads:
        begun = set(threads.map(lambda _: shadows.begin(Store(place), MODEL, "2", "run").id, range(8)))
    assert len(begun) == 1
    assert len(shadows.history(store, MODEL, 9)) == 1


def test_a_store_of_before_has_none_and_takes_one(store: Store, place: Path | str) -> None:
    predict(store, "a")
    label(store, "a")
    with store.writing() as connection:
        for table in ("shadows", "shadow_values"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    later = Store(place)
    assert shadows.current(later, MODEL) is None
    (part,) = later.predictions_with_labels(None, None)
    assert [(made["actual_value"], made["shadow_version"]) for made in part] == [(2.5, None)]
    shadow = shadows.begin(later, MODEL, "2", "run")
    score(later, shadow, predict(later, "b"))
    assert current(later).scored == 1


def test_an_id_is_not_given_to_another_prediction_after_the_old_ones_are_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "predictions.db")
    (_, newest) = predict(store, "a", "b")
    with closing(store.writer()) as writer:
        assert isinstance(writer, SqliteWriter)
        while writer.tidy(time.time() + 1):
            pass
        assert [made.id for made in store.newest_predictions(9)] == [newest]
        assert predict(store, "c") == [newest + 1]
        while writer.tidy(time.time() + 1):
            pass
    assert [made.id for made in store.newest_predictions(9)] == [newest + 1]


# -- by index --------------------------------------------------------------------------------------------------------


def fill(store: Store, predictions: int = 6_000, labelled: int = 600) -> Shadow:
    """Have a version score the newer half of so many predictions, the last of which have labels."""
    names = [f"p{number}" for number in range(predictions)]
    with closing(store.writer()) as writer:
        writer.tidy(None)
    predict(store, *names[: predictions // 2])
    label(store, *names[:labelled])
    shadow = shadows.begin(store, MODEL, "2", "run")
    score(store, shadow, predict(store, *names[predictions // 2 :]))
    label(store, *names[-labelled:])
    return current(store)


def queries(store: Store, shadow: Shadow) -> Iterator[tuple[str, Any]]:
    """Ask all that is asked while a version is in the shadow, and yield the statements with their values."""
    asked: list[tuple[str, Any]] = []

    @sa.event.listens_for(store._database.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    assert len(shadows.compared(store, shadow, "1", 500)) == 500
    assert len(shadows.newest_pairs(store, shadow, 500)) == 500
    assert current(store).scored == 3_000
    assert len(store.newest_predictions(5_000, after=shadow.first)) == 3_000
    shadows.forget_values(store, 0.0)
    score(store, shadow, [shadow.scored_to])
    found = [(sql, values) for sql, values in asked if any(word in sql for word in ("shadow_values", "predictions"))]
    assert len(found) == 5, found
    yield from found


def test_what_is_asked_of_a_file_reads_by_index(tmp_path: Path) -> None:
    file = tmp_path / "predictions.db"
    store = Store(file)
    shadow = fill(store)
    with closing(sqlite3.connect(file)) as connection:
        for sql, values in queries(store, shadow):
            plan = [line for *_, line in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            large = ("SCAN predictions", "SCAN shadow_values", "SCAN feedback")
            assert not any(line.startswith(large) for line in plan), (sql, plan)
            if "feedback" in sql:
                # The newest labels first, and no further than is needed.
                assert any(line.startswith("SEARCH feedback") for line in plan), plan


def test_what_is_asked_of_postgresql_reads_by_index(postgres: Postgres) -> None:
    url = postgres.new_database()
    store = Store(url)
    shadow = fill(store)
    with postgres_connection.connect(url) as connection:
        for statistics in (False, True):
            if statistics:
                connection.execute("ANALYZE")
            for sql, values in queries(store, shadow):
                plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {sql}".encode(), values))
                assert "Seq Scan" not in plan, plan
                assert "Index" in plan, plan
