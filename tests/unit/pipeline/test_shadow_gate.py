"""What the gate says of a version in the shadow, and how often chance misleads it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.gate import (
    CONFIDENCE,
    Challenger,
    Held,
    Limits,
    NotScored,
    Scores,
    confidence,
    decide,
    judge_shadow,
    try_first,
)

LIMITS = Limits(0.01, most_fall=2.0)
LEAST = 60


def held(ours: float, theirs: float, count: int = LEAST, seed: int = 0) -> Held:
    """Return labels on which both err independently, by these standard deviations."""
    random = np.random.default_rng(seed)
    actual = random.uniform(1, 3, count)
    return Held(actual, actual + ours * random.normal(size=count), actual + theirs * random.normal(size=count))


def label_gate(ours: float, theirs: float) -> Scores:
    return Scores(0.4, held(ours, theirs))


def test_what_would_be_promoted_is_tried_first() -> None:
    decision = try_first(decide(Challenger(0.4), "7", Scores(0.5), LIMITS), LIMITS, LEAST)
    assert decision.gate == "waiting"
    assert decision.reason.endswith("It is in the shadow until 60 or more labels of new requests judge it")
    assert try_first(decide(Challenger(0.4), None, None, LIMITS), LIMITS, LEAST).gate == "promoted"


def test_old_rows_alone_keep_no_version_from_being_tried_unless_it_fell_far() -> None:
    assert try_first(decide(Challenger(0.7), "7", Scores(0.4), LIMITS), LIMITS, LEAST).gate == "waiting"
    assert try_first(decide(Challenger(0.9), "7", Scores(0.4), LIMITS), LIMITS, LEAST).gate == "rejected"


@pytest.mark.parametrize(
    ("challenger", "scores"),
    [
        (Challenger(0.4), label_gate(0.9, 0.3)),
        (Challenger(0.4), NotScored("it died")),
        (Challenger(0.4, rejected="in the shadow: worse"), None),
        (Challenger(0.4, scorer_failure="it is off"), None),
        (Challenger(0.4, serves=True), None),
    ],
    ids=["labels held out", "not scored", "rejected before", "unsound", "serves"],
)
def test_what_else_the_gate_says_stays(challenger: Challenger, scores: Scores | NotScored | None) -> None:
    decision = decide(challenger, "7", scores, LIMITS)
    assert try_first(decision, LIMITS, LEAST) == decision


@pytest.mark.parametrize(
    ("ours", "theirs", "gate"), [(0.3, 0.9, "promoted"), (0.9, 0.3, "rejected"), (0.5, 0.5, "waiting")]
)
def test_labels_promote_reject_or_do_not_say_it_yet(ours: float, theirs: float, gate: str) -> None:
    decision = judge_shadow(held(ours, theirs), "7", 0, 0.01)
    assert (decision.gate, decision.decided_by, decision.labels) == (gate, "shadow", LEAST)
    assert decision.champion_version == "7"
    assert "on 60 labels of requests" in decision.reason


def test_a_version_that_answers_what_is_no_number_is_not_promoted() -> None:
    spoilt = held(0.1, 0.9)
    spoilt.challenger[0] = np.nan
    assert judge_shadow(spoilt, "7", 0, 0.01).gate != "promoted"


def test_all_looks_together_err_no_oftener_than_one() -> None:
    assert sum(1 - confidence(looks) for looks in range(50)) == pytest.approx(1 - CONFIDENCE)


def test_a_version_that_is_a_little_worse_is_seldom_promoted_however_often_one_looks() -> None:
    """Its RMSE is larger by twice the tolerance; four looks, each at twice the labels of the one before."""
    promoted = 0
    for seed in range(100):
        for looks in range(4):
            gate = judge_shadow(held(0.306 * 1.01, 0.3, LEAST << looks, seed), "7", looks, 0.01).gate
            if gate != "waiting":
                promoted += gate == "promoted"
                break
    assert promoted <= 8
