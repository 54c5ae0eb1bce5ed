"""When the drift monitor retrains, and what it waits for otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from monitoring.drift_decision import DRIFT, SCHEDULE, Memory, decide, on_schedule

POLICY = {
    "window": 1000, "sustained": 3, "fresh_share": 0.25, "live_labels": 200, "live_margin": 0.25, "new_labels": 200,
    "cooldown_seconds": 3600,
}  # fmt: skip
NOW = 1_000_000.0


def report(
    last_id: int, status: str = "drift", *, labels: int = 500, rmse: float = 0.4, **more: Any
) -> dict[str, Any]:
    return {
        "status": status,
        "summary": "MedInc up" if status == "drift" else "nothing moved",
        "version": "1",
        "policy": POLICY,
        "window": {"rows": 1000, "last_id": last_id},
        "new_labels": labels,
        "live": {"labels": 300, "rmse": rmse, "limit": 0.5, "worse": rmse > 0.5},
    } | more


def starts(reports: list[dict[str, Any]], *, on: bool = True, last: float | None = None) -> tuple[list[int], str]:
    """Return the reports after which a retraining would start, and the last message."""
    memory, started, says = Memory(), [], ""
    for number, item in enumerate(reports):
        decision = decide(memory, item, now=NOW, last_retraining=last, on=on)
        memory, says = decision.memory, decision.says
        if decision.start is not None:
            started.append(number)
    return started, says


def drifting(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [report(0, "no drift"), *(report(300 * (n + 1), **changes) for n in range(count))]


def test_three_windows_in_a_row_start_a_retraining() -> None:
    assert starts(drifting(2))[0] == []
    assert starts(drifting(3)) == ([3], "retrains: drift: MedInc up")


def test_a_calm_window_begins_the_count_anew() -> None:
    reports = [*drifting(2), report(900, "no drift"), report(1200), report(1500), report(1800)]
    assert starts(reports)[0] == [6]


def test_windows_of_the_same_rows_count_once() -> None:
    assert starts([report(0, "no drift"), *[report(300)] * 9, report(549)])[0] == []
    assert starts([report(0, "no drift"), report(300), report(500), report(550), report(800)])[0] == [4]


def test_an_error_above_the_promise_counts_like_drift() -> None:
    assert starts(drifting(3, status="no drift", rmse=0.49))[0] == []
    started, says = starts(drifting(3, status="no drift", rmse=0.51))
    assert started == [3]
    assert "live RMSE 0.510 of 300 labels above 0.500" in says
    assert starts(drifting(3, status="no drift", live=None))[0] == []


def test_an_error_counts_by_new_labels_when_nobody_predicts() -> None:
    reports = [
        report(9, "no drift", labels=400),
        *(report(9, "no drift", labels=n, rmse=1.0) for n in (450, 500, 550)),
    ]
    assert starts(reports)[0] == [3]


@pytest.mark.parametrize(
    ("changes", "on", "last", "awaited"),
    [
        ({"labels": 57}, True, None, "143 more labels"),
        ({}, False, None, "RETRAIN_ON_DRIFT=on"),
        ({}, True, NOW - 3599, "the end of the pause after the last retraining, 1970-01-12T13:46:41+00:00"),
    ],
)
def test_it_says_what_it_waits_for(changes: dict[str, Any], on: bool, last: float | None, awaited: str) -> None:
    started, says = starts(drifting(5, **changes), on=on, last=last)
    assert started == []
    assert says.endswith(f"before it retrains it waits for {awaited}")


def test_it_says_how_many_windows_are_missing() -> None:
    assert starts(drifting(1))[1].endswith("waits for 2 more windows like this in a row")
    assert starts(drifting(2))[1].endswith("waits for 1 more window like this in a row")


def test_after_the_pause_it_may_retrain_again() -> None:
    assert starts(drifting(3), last=NOW - 3601)[0] == [3]


def test_a_new_version_begins_anew_and_with_rows_of_its_own_time() -> None:
    reports = [*drifting(2), report(900, version="2"), report(1000, version="2"), report(1150, version="2")]
    assert starts(reports)[0] == []
    assert starts([*reports, report(1400, version="2"), report(1650, version="2")])[0] == [7]


def test_a_report_that_cannot_say_changes_nothing() -> None:
    blind = report(850, "not enough data", summary="version 1 has no reference")
    assert starts([*drifting(2), blind, report(900)])[0] == [4]
    failed = {"status": "check failed", "summary": "the drift check failed: no answer in 60 s"}
    assert starts([*drifting(2), failed, report(900)])[0] == [4]
    assert starts([failed])[1] == "nothing to do: the drift check failed: no answer in 60 s"


def test_while_its_own_retraining_runs_none_is_started() -> None:
    memory = Memory(version="1", windows=7, retraining_since=NOW - 60, retraining_reason="drift: MedInc up")
    decision = decide(memory, report(9000), now=NOW, last_retraining=None, on=True)
    assert decision.start is None
    assert decision.says == "a retraining runs since 1970-01-12T13:45:40+00:00: drift: MedInc up"


def test_it_says_until_when_it_pauses_even_when_there_is_nothing_to_do() -> None:
    calm = decide(Memory(), report(0, "no drift"), now=NOW, last_retraining=NOW - 600, on=True)
    assert calm.pauses_until == NOW + 3000
    drifting = decide(Memory(), report(0), now=NOW, last_retraining=NOW - 600, on=True)
    assert drifting.pauses_until == NOW + 3000
    assert decide(Memory(), report(0), now=NOW, last_retraining=NOW - 3600, on=True).pauses_until is None


def scheduled(due: float | None, *, running: bool = False, status: str = "no drift") -> tuple[str | None, str]:
    memory = Memory(retraining_since=NOW - 5 if running else None)
    decision = decide(memory, report(0, status, labels=0), now=NOW, last_retraining=NOW - 60, on=False)
    decision = on_schedule(decision, "7d", due, NOW)
    return decision.start, decision.trigger


def test_a_schedule_needs_neither_drift_nor_labels() -> None:
    assert scheduled(NOW - 1) == ("RETRAIN_EVERY=7d: due at 1970-01-12T13:46:39+00:00", SCHEDULE)
    assert scheduled(NOW + 1) == (None, DRIFT)
    assert scheduled(None) == (None, DRIFT)
    assert scheduled(NOW - 1, running=True) == (None, DRIFT)


def test_nothing_is_retrained_before_the_verdict_on_a_version_in_the_shadow() -> None:
    memory = Memory(version="1", windows=5, last_id=0, labels=0)
    waits = decide(memory, report(9_000), now=NOW, last_retraining=None, on=True, judging="2")
    assert (waits.start, waits.waits_for) == (None, ("the verdict on version 2 in the shadow",))
    scheduled = on_schedule(waits, "1d", NOW, NOW, judging="2")
    assert (scheduled.start, scheduled.waits_for) == (None, waits.waits_for)
    assert scheduled.says.endswith("before it retrains it waits for the verdict on version 2 in the shadow")
    assert on_schedule(waits, "1d", NOW, NOW).trigger == SCHEDULE
