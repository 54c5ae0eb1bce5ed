from __future__ import annotations

import dataclasses

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
