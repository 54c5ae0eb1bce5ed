from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.gate import Held, judge, share_no_worse
from pipeline.mlflow_runs import Candidate, Lineage, flatten
from pipeline.stage_runner import best_of


def test_the_lowest_rmse_wins() -> None:
    metrics = {
        "a": {"custom_rmse": 0.5, "custom_r2_score": 0.9},
        "b": {"custom_rmse": 0.4, "custom_r2_score": 0.1},
    }
    assert best_of(metrics) == "b"


def test_ties_go_to_the_highest_r2() -> None:
    metrics = {
        "a": {"custom_rmse": 0.4, "custom_r2_score": 0.1},
        "b": {"custom_rmse": 0.4, "custom_r2_score": 0.2},
    }
    assert best_of(metrics) == "b"


@pytest.mark.parametrize(
    ("challenger", "gate"),
    [(0.39, "promoted"), (0.4, "promoted"), (0.404, "promoted"), (0.405, "rejected"), (float("nan"), "rejected")],
)
def test_the_gate_lets_nothing_worse_than_the_tolerance_pass(challenger: float, gate: str) -> None:
    decision = judge(challenger, 0.4, "7", tolerance=0.01)
    assert decision.gate == gate
    assert "0.4000 of version 7" in decision.reason
    assert "0.4040 passes" in decision.reason


def test_nested_parameters_become_flat() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": "f"}) == {"a.b": "1", "a.c.d": "None", "e": "f"}


def test_the_fingerprint_changes_with_whatever_makes_the_model() -> None:
    lineage = Lineage("data", "code", None, ("scikit-learn==1.9.0",))
    candidate = Candidate("linear", {"seed": "1"}, {"custom_rmse": 0.5}, started_at=0.0, train_seconds=1.0)
    same = dataclasses.replace(candidate, started_at=5.0, train_seconds=2.0)
    known = candidate.fingerprint(lineage)
    assert same.fingerprint(dataclasses.replace(lineage, git_commit="another")) == known
    others = [
        dataclasses.replace(candidate, name="other").fingerprint(lineage),
        dataclasses.replace(candidate, params={"seed": "2"}).fingerprint(lineage),
        candidate.fingerprint(dataclasses.replace(lineage, data_md5="new")),
        candidate.fingerprint(dataclasses.replace(lineage, code_digest="new")),
        candidate.fingerprint(dataclasses.replace(lineage, requirements=("scikit-learn==1.9.1",))),
    ]
    assert len({known, *others}) == 6


def held(champion_error: float, challenger_error: float, rows: int = 200) -> Held:
    """Return labels that both miss by so much, in random directions."""
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
    decision = judge(0.7, 0.4, "7", tolerance=0.005, held=held(champion_error, challenger_error))
    assert (decision.gate, decision.decided_by, decision.labels) == (gate, "labels", 200)
    assert "on 200 labels that neither was trained on" in decision.reason
    assert "On the old rows: test RMSE 0.7000 against 0.4000 of version 7" in decision.reason


def test_without_labels_the_test_rows_decide() -> None:
    assert judge(0.7, 0.4, "7", tolerance=0.005).decided_by == "test rows"


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    random = np.random.default_rng(1)
    hard = random.exponential(1.0, 100)  # the same rows are hard for both, so a small gain is still seen
    assert share_no_worse(hard * 0.95, hard, 0.0) == 1.0
    assert share_no_worse(hard, hard * 0.95, 0.0) == 0.0
    noise = hard + random.normal(0, 0.1, 100)
    assert 0.0 < share_no_worse(noise, hard, 0.0) == share_no_worse(noise, hard, 0.0) < 1.0
