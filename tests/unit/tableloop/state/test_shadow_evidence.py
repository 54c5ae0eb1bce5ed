"""Which labels judge a version in the shadow, and when they do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tableloop.senders import bounded
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.prediction_rows import Sent, row
from tableloop.state.shadow_evidence import MOST_FAILURES, Due, evidence, verdict_due
from tableloop.state.shadows import Shadow, Value
from tableloop.table import load_table

DAY = 86_400.0
SHADOW = Shadow(1, "m", "2", "run", 0.0, 0, 0, 0, 0, 0, "", None, None, "")


def test_looks_are_due_at_each_doubling_of_the_labels() -> None:
    for looked_at, needed in ((0, 60), (60, 120), (5_000, 10_000)):
        shadow = SHADOW._replace(looks=1, looked_at=looked_at)
        assert verdict_due(shadow, needed - 1, 60, 7, DAY) is None
        assert verdict_due(shadow, needed, 60, 7, DAY) is Due.LOOK


def test_time_and_failures_make_a_verdict_due_without_labels() -> None:
    assert verdict_due(SHADOW, 0, 60, 7, 7 * DAY) is Due.TIME
    assert verdict_due(SHADOW._replace(failures=MOST_FAILURES), 500, 60, 7, DAY) is Due.FAILED


def labelled(store: Store, senders: Sequence[str]) -> Shadow:
    """Return a version in the shadow that has scored a labelled prediction of each sender."""
    table = load_table()
    shadow = shadows.begin(store, "m", "2", "run")
    writer = store.writer()
    first, *others = table.example.values()
    writer.insert(
        [row(f"p{n}", "r", float(n), "1", [float(first) + n, *others], 2.0, 1.0, 3.0) for n in range(len(senders))]
    )
    for number, sender in enumerate(senders):
        writer.insert_labels([Sent(f"p{number}", 2.2, sure=True)], sender, table)
    writer.close()
    made = store.newest_predictions(len(senders))[::-1]
    shadows.add_values(store, shadow, [Value(each.id, 2.1, 1.0, 3.0) for each in made], made[-1].id)
    found = shadows.current(store, "m")
    assert found is not None
    return found


@pytest.mark.usefixtures("place")
def test_one_sender_is_at_most_a_share_of_the_evidence(place: Path | str) -> None:
    store = Store(place)
    shadow = labelled(store, ["shop"] * 6 + ["administrator"] * 2 + ["bank"])
    found = evidence(store, shadow, "1", 0.5)
    assert [each.sender for each in found.rows] == ["bank", *["administrator"] * 2, *["shop"] * 3]
    assert str(found).startswith("9 labels have come, of which 6 count")
    assert str(evidence(store, shadow, "1", 1.0)) == "9 labels have come"
    assert evidence(store, shadow, "another version", 1.0) == ([], 0)


def test_a_row_counts_once_however_often_it_is_asked_about(tmp_path: Path) -> None:
    store, table = Store(tmp_path / "predictions.db"), load_table()
    shadow = labelled(store, ["administrator"] * 3)
    example = [*table.example.values()]
    with closing(store.writer()) as writer:
        writer.insert([row(f"again{n}", "r", 9.0, "1", example, 2.0, 1.0, 3.0) for n in range(60)])
        writer.insert_labels([Sent(f"again{n}", 2.0 + n / 100, sure=True) for n in range(60)], "crm", table)
    made = store.newest_predictions(60)
    shadows.add_values(store, shadow, [Value(each.id, 2.1, 1.0, 3.0) for each in made], made[0].id)
    found = evidence(store, shadow, "1", 1.0)
    assert (len(found.rows), found.came) == (3, 63)
    assert found.rows[0].actual == 2.59  # its newest label


def test_what_nobody_bounds_stays_whole() -> None:
    counts = {"administrator": 9, "ops (admin)": 4, "before senders": 2}
    assert bounded(counts, 0.1) == counts
    assert bounded({"shop": 100}, 0.5) == {"shop": 0}
    assert bounded({"shop": 100}, 0.5, others=40) == {"shop": 40}
