"""Every branch of the gate's decision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.gate import (
    Challenger,
    Forced,
    Held,
    Limits,
    NotScored,
    Scores,
    ask_first,
    decide,
    decide_unscored,
    judge,
    share_no_worse,
)

CHALLENGER = Challenger(0.4)
BETTER, WORSE = Scores(0.5), Scores(0.3)
FORCED = Forced("ada", "the market moved")
LIMITS = Limits(0.01)


def test_the_version_that_serves_already_is_unchanged() -> None:
    decision = decide(replace(CHALLENGER, serves=True), "8", None, LIMITS, FORCED)
    assert (decision.gate, decision.champion_version, decision.forced_by) == ("unchanged", "8", None)


def test_the_first_version_is_promoted() -> None:
    assert decide(CHALLENGER, None, None, LIMITS).reason == "no version served before"


@pytest.mark.parametrize("champion", [None, "7"])
@pytest.mark.parametrize("forced", [None, FORCED])
def test_an_unsound_scorer_is_rejected_even_when_forced(champion: str | None, forced: Forced | None) -> None:
    challenger = replace(CHALLENGER, scorer_failure="the compiled scorer is off")
    decision = decide(challenger, champion, BETTER, LIMITS, forced)
    assert (decision.gate, decision.reason) == ("rejected", "the compiled scorer is off")


def test_a_version_that_was_rolled_back_does_not_pass_again() -> None:
    decision = decide(replace(CHALLENGER, rolled_back="slow"), "7", WORSE, LIMITS)
    assert (decision.gate, decision.reason) == ("rejected", "it was rolled back: slow")


def test_a_version_that_was_rejected_by_hand_does_not_pass_again() -> None:
    decision = decide(replace(CHALLENGER, rejected="by ada: not now"), "7", BETTER, LIMITS)
    assert (decision.gate, decision.reason) == ("rejected", "it was rejected by ada: not now")


def test_what_would_be_promoted_waits_where_a_person_has_the_last_word() -> None:
    decision = ask_first(decide(CHALLENGER, "7", BETTER, LIMITS), "8")
    assert decision.gate == "waiting"
    assert decision.reason.endswith("It waits for make promote VERSION=8 or make reject VERSION=8")
    assert ask_first(decide(CHALLENGER, "7", WORSE, LIMITS), "8").gate == "rejected"
    assert ask_first(decide(CHALLENGER, None, None, LIMITS), "8").gate == "promoted"  # else nothing would serve


def test_a_champion_that_cannot_be_scored_is_a_failed_gate() -> None:
    decision = decide(CHALLENGER, "7", NotScored("did not load within 60 s"), LIMITS)
    assert (decision.gate, decision.champion_version) == ("rejected", "7")
    assert decision.reason == "version 7 could not be scored: did not load within 60 s"


@pytest.mark.parametrize(
    ("challenger", "scores", "otherwise"),
    [
        (CHALLENGER, NotScored("it died"), "version 7 could not be scored: it died"),
        (CHALLENGER, WORSE, "test RMSE 0.4000 against 0.3000 of version 7"),
        (replace(CHALLENGER, rolled_back="slow"), None, "it was rolled back: slow"),
    ],
)
def test_a_person_may_overrule_a_rejection(
    challenger: Challenger, scores: Scores | NotScored | None, otherwise: str
) -> None:
    decision = decide(challenger, "7", scores, LIMITS, FORCED)
    assert (decision.gate, decision.forced_by, decision.forced_reason) == ("promoted", "ada", "the market moved")
    assert decision.reason.startswith(f"forced by ada: the market moved. Otherwise rejected: {otherwise}")


def test_what_passes_anyway_is_not_noted_as_forced() -> None:
    decision = decide(CHALLENGER, "7", BETTER, LIMITS, FORCED)
    assert (decision.gate, decision.forced_by) == ("promoted", None)
    assert decision.decided_by == "test rows"


def test_without_labels_the_test_rows_decide_and_with_labels_they_do() -> None:
    assert decide(CHALLENGER, "7", WORSE, LIMITS).gate == "rejected"
    decision = decide(CHALLENGER, "7", replace(WORSE, held=held(1.0, 0.5)), LIMITS)
    assert (decision.gate, decision.decided_by) == ("promoted", "labels")


def test_only_a_comparison_needs_the_champions_scores() -> None:
    assert decide_unscored(CHALLENGER, "7") is None
    assert decide_unscored(CHALLENGER, None) is not None
    assert decide_unscored(replace(CHALLENGER, serves=True), "8") is not None


@pytest.mark.parametrize(
    ("challenger", "gate"),
    [(0.39, "promoted"), (0.4, "promoted"), (0.404, "promoted"), (0.405, "rejected"), (float("nan"), "rejected")],
)
def test_the_gate_lets_nothing_worse_than_the_tolerance_pass(challenger: float, gate: str) -> None:
    decision = judge(challenger, 0.4, "7", Limits(0.01))
    assert decision.gate == gate
    assert "0.4000 of version 7" in decision.reason
    assert "0.4040 passes" in decision.reason


def held(champion_error: float, challenger_error: float, rows: int = 200) -> Held:
    """Return labels that both versions miss by the given errors, in random directions."""
    random = np.random.default_rng(0)
    actual = random.uniform(1, 4, rows)
    return Held(
        actual,
        actual + challenger_error * random.standard_normal(rows),
        actual + champion_error * random.standard_normal(rows),
    )


@pytest.mark.parametrize(
    ("champion_error", "challenger_error", "gate"),
    [(1.0, 0.5, "promoted"), (0.5, 1.0, "rejected"), (0.5, 0.5, "rejected"), (0.5, float("nan"), "rejected")],
)
def test_labels_decide_where_there_are_some(champion_error: float, challenger_error: float, gate: str) -> None:
    decision = judge(0.7, 0.4, "7", Limits(0.005), held(champion_error, challenger_error))
    assert (decision.gate, decision.decided_by, decision.labels) == (gate, "labels", 200)
    assert "on 200 labels that neither was trained on" in decision.reason
    assert "On the old rows: test RMSE 0.7000 against 0.4000 of version 7" in decision.reason


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    random = np.random.default_rng(1)
    hard = random.exponential(1.0, 100)  # the same rows are hard for both, so a small gain is still seen
    assert share_no_worse(hard * 0.95, hard, 0.0) == 1.0
    assert share_no_worse(hard, hard * 0.95, 0.0) == 0.0
    noise = hard + random.normal(0, 0.1, 100)
    assert 0.0 < share_no_worse(noise, hard, 0.0) == share_no_worse(noise, hard, 0.0) < 1.0


def test_the_senders_of_the_labels_are_named_the_most_first() -> None:
    senders = {"crm": 20, "administrator": 140, **{f"small{number}": 1 for number in range(6)}}
    reason = judge(0.4, 0.4, "7", LIMITS, replace(held(1.0, 0.5), senders=senders)).reason
    assert "The labels are of: administrator 140, crm 20, small0 1, small1 1, small2 1 and 3 more" in reason


@pytest.mark.parametrize(
    ("challenger", "gate", "words"),
    [
        (0.49, "promoted", ""),
        (0.6, "promoted", "NOTE: on the old rows it falls to 1.5 times the RMSE"),
        (1.21, "rejected", "ON THE OLD ROWS IT FALLS TO 3.0 times the RMSE; at most 3 times passes"),
    ],
)
def test_a_fall_on_the_old_rows_is_said_and_beyond_a_bound_needs_a_person(
    challenger: float, gate: str, words: str
) -> None:
    limits = Limits(0.01, most_fall=3.0)
    scores = Scores(0.4, held(1.0, 0.5))
    decision = decide(Challenger(challenger), "7", scores, limits)
    assert decision.gate == gate
    assert words in decision.reason
    if gate == "rejected":
        assert "make retrain FORCE=1" in decision.reason
        assert decide(Challenger(challenger), "7", scores, limits, FORCED).gate == "promoted"
