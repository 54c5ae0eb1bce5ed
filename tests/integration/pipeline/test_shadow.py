"""A version in the shadow scores what another one answers, and labels of that promote or reject it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from app.champion import Matrix, Model, Version
from app.model_loader import MlflowRegistry
from monitoring import shadow_scoring
from tableloop.model.intervals import Answers
from tableloop.settings import Settings
from tableloop.state import prediction_rows, shadows
from tableloop.state.layout import Layout
from tableloop.state.shadow_evidence import MOST_FAILURES
from tableloop.table import load_table
from tests.integration.pipeline.conftest import ROOT, Project

TABLE = load_table()
LEFT = 4


@pytest.fixture(scope="module")
def templates() -> dict[str, Project]:
    """Return the projects that have trained a second version, a worse one, by the address of their registry."""
    return {}


@pytest.fixture
def template(trained: Project, templates: dict[str, Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return the one of this registry, trained when it is first asked for."""
    if trained.uri not in templates:
        project = trained.copy(tmp_path_factory.mktemp("template"))
        project.model, project.promote = "ShadowTemplate", "shadow"
        project.retrain()
        project.change("train", candidates={"linear": {}})
        assert "It is in the shadow until" in project.retrain()
        templates[trained.uri] = project
    return templates[trained.uri]


@pytest.fixture
def waiting(template: Project, tmp_path: Path) -> Project:
    """Return a project of its own whose version 2 waits in the shadow of version 1; the files are of the template."""
    project = template.copy(tmp_path)
    project.model, project.promote = f"Shadow{tmp_path.name}", "shadow"
    client = client_of(project)
    client.create_registered_model(project.model)
    for number in ("1", "2"):
        made = client.get_model_version(template.model, number)
        client.create_model_version(
            project.model,
            source=made.source,
            run_id=made.run_id,
            tags=made.tags,
            model_id=made.source.removeprefix("models:/"),
        )
        if number == "1":
            client.set_registered_model_alias(project.model, "Production", number)
            project.store.record_serving(project.model, number, made.run_id, "promoted")
        else:
            client.set_registered_model_alias(project.model, "Shadow", number)
            shadows.begin(project.store, project.model, number, made.run_id)
    return project


def client_of(project: Project) -> MlflowClient:
    return MlflowClient(project.uri, project.uri)


def current(project: Project) -> shadows.Shadow:
    found = shadows.current(project.store, project.model)
    assert found is not None
    return found


def check(project: Project, **variables: str) -> tuple[int, str]:
    """Run one check as the drift monitor does, and return its exit code and what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "monitoring.shadow_check"],
        cwd=ROOT,
        env=project.environment | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def look(project: Project) -> int:
    """Look in this process, whose environment is the project's."""
    with ThreadPoolExecutor(1) as writer:
        return shadow_scoring.look(Settings(promote="ask"), writer)


def answer(
    project: Project, error: float, count: int = 80, *, labels: bool = True, sender: str = "administrator"
) -> None:
    """Log answers of version 1 to random rows of the table that err by about so much, and label them."""
    frame = pd.read_csv(ROOT / "data/raw/california_housing.csv").sample(count, random_state=count)
    actual = frame[TABLE.target_name].to_numpy()
    answers = actual + error * np.random.default_rng(count).normal(size=count)
    rows = [
        prediction_rows.row(f"{count}-{n}", "r", float(n), "1", features, value, value - 1, value + 1)
        for n, (features, value) in enumerate(
            zip(frame[[*TABLE.feature_names]].to_numpy().tolist(), answers.tolist(), strict=True)
        )
    ]
    with closing(project.store.writer()) as writer:
        writer.insert(rows)
        if labels:
            pairs = zip(rows, actual.tolist(), strict=True)
            sent = [prediction_rows.Sent(name, value, sure=True) for (name, *_), value in pairs]
            writer.insert_labels(sent, sender, TABLE)


def test_a_worse_version_is_rejected_by_labels(waiting: Project) -> None:
    client = client_of(waiting)
    assert client.get_model_version_by_alias(waiting.model, "Shadow").version == "2"
    answer(waiting, 0.1, labels=False)
    assert check(waiting) == (0, "")
    assert current(waiting).scored == 80
    answer(waiting, 0.1, 81)
    code, output = check(waiting)
    assert code == LEFT, output
    assert "version 2 is rejected: RMSE 0." in output
    assert "of version 1 on 81 labels of requests" in output
    (over,) = shadows.history(waiting.store, waiting.model, 5)
    assert (over.version, over.outcome) == ("2", "rejected")
    version = client.get_model_version(waiting.model, "2")
    assert version.aliases == []
    assert (version.tags["gate"], version.tags["gate_decided_by"]) == ("rejected", "shadow")
    assert check(waiting) == (0, "")


def test_a_better_version_is_promoted_by_labels(waiting: Project) -> None:
    answer(waiting, 2.0)
    code, output = check(waiting)
    assert code == LEFT, output
    assert "version 2 serves instead of 1: RMSE 0." in output
    version = client_of(waiting).get_model_version(waiting.model, "2")
    assert version.aliases == ["Production"]
    assert version.tags["gate_decided_by"] == "shadow"
    (event, *_) = waiting.store.serving_history(waiting.model, 1)
    assert (event.version, event.event) == ("2", "promoted")
    assert waiting.run("rollback")[0] == 0  # knows what served before


def test_values_are_those_of_the_version(waiting: Project) -> None:
    answer(waiting, 0.1, labels=False)
    assert check(waiting, PROMOTE="ask")[0] == 0
    shadow = current(waiting)
    frame = pd.read_csv(ROOT / "data/raw/california_housing.csv").sample(80, random_state=80)
    registry = MlflowRegistry(Settings(state_dir=waiting.state, mlflow_tracking_uri=waiting.uri), "Shadow")
    (files,) = Layout(waiting.state).shadow.iterdir()
    version = Version(shadow.version, shadow.run_id, None)
    expected = registry.load(files, version, trial=False).predict(TABLE.coding.frame(frame)).values
    values = [own for _, own in shadows.newest_pairs(waiting.store, shadow, 100)][::-1]
    assert np.abs(expected - values).max() < 1e-9


def test_few_labels_wait_and_time_that_is_over_rejects_for_good(waiting: Project) -> None:
    answer(waiting, 2.0, 59)
    assert check(waiting) == (0, "")
    code, output = check(waiting, SHADOW_DAYS="0.000001")
    assert code == LEFT
    assert "version 2 is rejected: SHADOW_DAYS=1e-06 are over" in output
    assert "59 labels have come" in output
    assert waiting.run("revoke", "--sender", "administrator", "--reason", "a test")[0] == 0  # else another is trained
    assert "it was rejected in the shadow: SHADOW_DAYS" in waiting.retrain()
    assert check(waiting) == (0, "")


def test_an_alias_that_was_taken_away_ends_it_and_one_given_by_hand_begins_it(waiting: Project) -> None:
    client = client_of(waiting)
    client.delete_registered_model_alias(waiting.model, "Shadow")
    assert check(waiting) == (LEFT, "version 2 has left the shadow\n")
    client.set_registered_model_alias(waiting.model, "Shadow", "2")
    assert check(waiting) == (0, "version 2 is in the shadow: it scores what version 1 answers\n")
    client.set_registered_model_alias(waiting.model, "Shadow", "1")
    assert check(waiting)[0] == 0  # it serves
    client.set_registered_model_alias(waiting.model, "Shadow", "2")
    assert waiting.run("promote", "2", "--reason", "agreed")[0] == 0
    assert shadows.history(waiting.store, waiting.model, 1)[0].outcome == "promoted"
    client.set_registered_model_alias(waiting.model, "Shadow", "2")  # as by hand, or as a killed verdict leaves it
    assert waiting.run("rollback", "--reason", "too high")[0] == 0
    assert client.get_model_version(waiting.model, "2").aliases == []


def test_a_version_that_was_rejected_does_not_come_back_by_its_alias(waiting: Project) -> None:
    assert waiting.run("promote", "2", "--reject", "--reason", "not this one")[0] == 0
    client_of(waiting).set_registered_model_alias(waiting.model, "Shadow", "2")
    assert check(waiting)[0] == 0
    answer(waiting, 2.0)
    code, output = check(waiting)
    assert code == LEFT, output
    assert "version 2 is rejected: it was rejected by" in output


def test_labels_of_one_bounded_sender_do_not_count_and_the_reason_says_so(waiting: Project) -> None:
    answer(waiting, 2.0, sender="shop")
    code, output = check(waiting, SHADOW_DAYS="0.000001")
    assert code == LEFT, output
    assert "80 labels have come, of which 0 count" in output
    assert "It is in the shadow until" in waiting.retrain()  # nothing was said against it


def test_files_that_were_changed_are_not_run_and_the_version_is_rejected(waiting: Project) -> None:
    answer(waiting, 2.0)
    assert check(waiting, PROMOTE="ask")[0] == 0
    (files,) = Layout(waiting.state).shadow.iterdir()
    next((files / "scorer").iterdir()).write_bytes(b"changed")
    shadows.note_problem(waiting.store, current(waiting), MOST_FAILURES - 1, "")
    answer(waiting, 2.0, 10, labels=False)
    code, output = check(waiting)
    assert code == LEFT, output
    assert "it could not score requests: its files are not those it was made with" in output


class Spoilt(MlflowRegistry):
    """A registry whose version answers what is no number for every second row."""

    def load(self, directory: Path, version: Version, *, trial: bool) -> Model:
        sound = super().load(directory, version, trial=trial)

        def predict(rows: Matrix) -> Answers:
            answers = sound.predict(rows)
            if len(rows) > len(sound.example):
                answers.values[::2] = np.nan
            return answers

        return Model(predict, sound.engine, sound.metadata, sound.example, sound.reference)


def test_values_that_are_no_numbers_are_not_kept_and_count_as_a_failure(
    waiting: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(waiting, 2.0)
    for name, value in waiting.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shadow_scoring, "MlflowRegistry", Spoilt)
    assert look(waiting) == 0
    shadow = current(waiting)
    assert shadow.scored == 40
    assert (shadow.failures, shadow.problem) == (MOST_FAILURES, "it predicts values that are not finite")


def test_one_that_is_killed_goes_on_where_it_was(waiting: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(waiting, 2.0, 200, labels=False)
    for name, value in waiting.environment.items():
        monkeypatch.setenv(name, value)

    class KilledError(BaseException):
        pass

    def killed(_: float) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(shadow_scoring, "ROWS_PER_COMMIT", 50)
        patched.setattr("time.sleep", killed)  # after the first commit
        with pytest.raises(KilledError):
            look(waiting)
    assert current(waiting).scored == 50
    assert look(waiting) == 0
    assert current(waiting).scored == 200
