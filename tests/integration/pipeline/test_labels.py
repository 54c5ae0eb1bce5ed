"""Labels become a new version: the story of a market that rose, with all that can come between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from tableloop.state.database import Retraining
from tableloop.state.label_batches import read_batches
from tableloop.table import load_table
from tests.integration.pipeline.conftest import Project, kill_all, label, wait_for_line

TARGET = load_table().target


@pytest.fixture
def serving(trained: Project, tmp_path: Path) -> Project:
    """Return a project of its own, its version 1 serving."""
    project = trained.copy(tmp_path)
    project.model = f"Labels{tmp_path.name}"
    project.retrain()
    return project


def held_back(project: Project) -> pd.DataFrame:
    """Return the test rows in an order of chance."""
    rows = pd.read_parquet(project.workspace / "data/processed/test.parquet")
    return rows.sample(frac=1, random_state=0, ignore_index=True)


def history(project: Project) -> list[Retraining]:
    """Return the retrainings, the newest first."""
    return project.store.retrainings(10)


def registration(project: Project) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((project.workspace / "reports/registration.json").read_text())
    return report


def serves(project: Project) -> str:
    version = MlflowClient(project.uri, project.uri).get_model_version_by_alias(project.model, "Production")
    return str(version.version)


def test_labels_of_a_risen_market_make_a_version_that_can_be_reproduced_and_rolled_back(serving: Project) -> None:
    risen = held_back(serving).head(400)
    risen[TARGET.name] *= 1.5
    label(serving, risen, 1000)
    serving.retrain("--trigger", "drift", "--reason", "prices rose")
    report = registration(serving)
    assert (report["gate"], report["decided_by"], report["version"]) == ("promoted", "labels", "2")
    assert 60 <= report["labels"] <= 120
    assert report["challenger_label_rmse"] < 0.7 * report["champion_label_rmse"]
    assert report["challenger_rmse"] > report["champion_rmse"]  # on the old rows: both are told
    assert serves(serving) == "2"
    last = history(serving)[0]
    assert (last.trigger, last.cause, last.outcome, last.version) == ("drift", "prices rose", "promoted", "2")
    assert last.reason == report["reason"]
    assert list(last.seconds) == ["preprocess", "train", "register"]
    version = MlflowClient(serving.uri, serving.uri).get_model_version(serving.model, "2")
    assert version.tags["feedback_batches"] == "1"
    assert version.tags["gate_decided_by"] == "labels"
    assert f"on {report['labels']} labels held out" in version.description  # not on the prices of the census
    run = MlflowClient(serving.uri, serving.uri).get_run(version.run_id)
    assert run.data.tags["feedback_md5"] == version.tags["feedback_md5"]
    assert 0.8 <= run.data.metrics["gate_interval_coverage"] <= 0.98

    code, output = serving.run("reproduce", "2")
    assert code == 0, output
    assert "all " in output.splitlines()[-1]
    assert "gate_rmse" in output
    source = serving.root / "tableloop/evaluation/scores.py"
    original = source.read_text()
    source.write_text(f"{original}# changed\n")
    code, output = serving.run("reproduce", "2")
    assert code == 2
    assert "the code here is another" in output
    source.write_text(original)

    code, output = serving.run("rollback", "--reason", "a test")
    assert code == 0, output
    assert serves(serving) == "1"
    serving.retrain()
    assert registration(serving)["reason"] == "it was rolled back: a test"
    assert serves(serving) == "1"
    code, output = serving.run("rollback")
    assert code == 1
    assert "version 1 is the first that served" in output


def test_a_version_trained_on_shuffled_labels_does_not_take_the_alias(serving: Project) -> None:
    rows = held_back(serving).head(400)
    old = rows.index < 280  # the newest, which decide, are right
    rows.loc[old, TARGET.name] = rows.loc[old, TARGET.name].sample(frac=1, random_state=0).to_numpy()
    rows.loc[old, TARGET.name] *= 2
    label(serving, rows, 1000)
    serving.retrain()
    report = registration(serving)
    assert (report["gate"], report["decided_by"]) == ("rejected", "labels")
    assert report["share_no_worse"] < 0.05
    assert serves(serving) == "1"
    assert history(serving)[0].outcome == "rejected"
    version = MlflowClient(serving.uri, serving.uri).get_model_version(serving.model, report["version"])
    assert version.tags["gate"] == "rejected"


def test_false_labels_of_one_key_neither_decide_nor_take_over(serving: Project) -> None:
    """The attack of the field: one client labels a whole region with what it likes, and has the model promoted."""
    false = held_back(serving).head(1240)
    false["HouseAge"] += 0.37  # rows of the test part would be set aside anyway
    false[TARGET.name] = 0.2
    label(serving, false, 1000, sender="crm")
    serving.retrain("--trigger", "drift")
    report = registration(serving)
    assert (report["gate"], report["decided_by"], report["labels"]) == ("rejected", "test rows", 0)
    assert serves(serving) == "1"


def test_revoked_labels_are_in_no_later_training_and_the_earlier_one_can_be_reproduced(serving: Project) -> None:
    rows = held_back(serving).head(600)
    rows[TARGET.name] *= 1.5
    label(serving, rows.head(300), 1000, sender="erp (admin)")
    label(serving, rows.tail(300), 2000)
    serving.retrain()
    assert serves(serving) == "2"
    code, output = serving.run("revoke", "--sender", "erp (admin)", "--dry-run")
    assert (code, output) == (
        0,
        "would revoke 300 labels (erp (admin) 300); 300 of them were taken for trainings: "
        "make retrain makes a version without them\n",
    )
    code, output = serving.run("revoke", "--sender", "erp (admin)", "--reason", "a broken interface")
    assert code == 0
    assert output.startswith("revoked 300 labels (erp (admin) 300)")
    assert serving.run("revoke", "--sender", "erp (admin)")[0] == 1
    assert serving.run("revoke")[0] == 1
    serving.retrain("--force", "--reason", "without the revoked labels")
    feedback = pd.read_parquet(serving.workspace / "data/processed/feedback.parquet")
    assert set(feedback["sender"]) == {"administrator"}
    assert len(feedback) == 300
    version = MlflowClient(serving.uri, serving.uri).get_model_version(serving.model, serves(serving))
    assert (version.version, version.tags["revocations"]) == ("3", "1")
    for number in ("2", "3"):
        code, output = serving.run("reproduce", number)
        assert code == 0, output


def test_killed_at_any_moment_the_champion_serves_and_the_next_retraining_works(serving: Project) -> None:
    risen = held_back(serving).head(300)
    risen[TARGET.name] *= 1.5
    label(serving, risen, 1000)
    for moment in ("new labels: ", "Running stage 'train'", "are on the server already"):
        process = serving.start("retrain")
        wait_for_line(process, moment)
        process.kill()
        kill_all(serving.state)
        process.communicate(timeout=20)
        assert serves(serving) == "1"
    serving.retrain()
    assert registration(serving)["gate"] == "promoted"
    assert serves(serving) == registration(serving)["version"]
    batches = read_batches(serving.workspace / "data/feedback")
    assert len(batches) == batches["prediction_id"].nunique() == 300
    assert np.all(batches["batch"] == 1)
    assert serving.store.count_unused_labels() == 0
