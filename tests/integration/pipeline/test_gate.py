"""In a real registry the gate compares with what serves, whatever happened to the alias and the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from tests.integration.pipeline.conftest import Project

ALIAS = "Production"


@pytest.fixture
def serving(trained: Project, tmp_path: Path) -> Project:
    """Return a project of its own, its version 1 serving."""
    project = trained.copy(tmp_path)
    project.model = f"Gate{tmp_path.name}"
    project.retrain()
    return project


def client_of(project: Project) -> MlflowClient:
    return MlflowClient(project.uri, project.uri)


def serves(project: Project) -> str:
    return str(client_of(project).get_model_version_by_alias(project.model, ALIAS).version)


def registration(project: Project) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((project.workspace / "reports/registration.json").read_text())
    return report


def worsen(project: Project) -> None:
    project.change("train", candidates={"linear": {}})


def test_a_deleted_alias_is_given_back_to_what_serves(serving: Project) -> None:
    client_of(serving).delete_registered_model_alias(serving.model, ALIAS)
    serving.retrain()
    assert (registration(serving)["gate"], serves(serving)) == ("unchanged", "1")

    client_of(serving).delete_registered_model_alias(serving.model, ALIAS)
    worsen(serving)
    serving.retrain()
    report = registration(serving)
    assert (report["gate"], report["champion_version"], serves(serving)) == ("rejected", "1", "1")


def test_a_version_waits_until_a_person_promotes_or_rejects_it(serving: Project) -> None:
    serving.promote = "ask"
    serving.change("register", tolerance=9.0)  # worse passes
    worsen(serving)
    serving.retrain()
    report, client = registration(serving), client_of(serving)
    assert (report["gate"], report["version"], report["serving_version"]) == ("waiting", "2", "1")
    assert client.get_model_version_by_alias(serving.model, "Shadow").version == "2"
    assert serves(serving) == "1"

    code, output = serving.run("promote", "2", "--reason", "agreed")
    assert (code, output) == (0, "version 2 serves instead of 1: agreed\n")
    assert serves(serving) == "2"
    version = client.get_model_version(serving.model, "2")
    assert version.aliases == ["Production"]
    assert version.tags["gate_promoted_by"].endswith(": agreed")
    assert serving.run("promote", "2")[1] == "version 2: it serves already\n"
    assert "make rollback" in serving.run("promote", "2", "--reject")[1]
    assert serving.run("rollback")[0] == 0  # knows what served before
    assert serves(serving) == "1"

    code, output = serving.run("promote", "2", "--reject", "--reason", "not now")
    assert (code, output) == (0, "version 2 is rejected: not now\n")
    client.delete_model_version_tag(serving.model, "2", "rolled_back")
    serving.retrain()
    report = registration(serving)
    assert report["gate"] == "rejected"
    assert report["reason"].endswith(": not now")
    assert "no such version" in serving.run("promote", "7")[1]


@pytest.fixture
def damaged(serving: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Yield the project while the model file of its version is another; other tests have versions of the same run."""
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serving.uri)
    client = client_of(serving)
    model_id = client.get_model_version(serving.model, "1").source.removeprefix("models:/")
    where = client.get_model_version_download_uri(serving.model, "1")
    sound = Path(download_artifacts(f"{where}/model.skops", dst_path=str(tmp_path / "sound"))).parent
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/model.skops").write_bytes(b"damaged")
    client.log_model_artifacts(model_id, str(tmp_path / "damaged"))
    yield serving
    client.log_model_artifacts(model_id, str(sound))


def test_a_champion_that_cannot_be_scored_stays_until_a_person_says_otherwise(damaged: Project) -> None:
    serving, client = damaged, client_of(damaged)
    serving.change("train", candidates={"hist_gradient_boosting": {"max_iter": 30, "features": {}}})
    serving.retrain()
    report = registration(serving)
    assert (report["gate"], serves(serving)) == ("rejected", "1")
    assert report["reason"].startswith("version 1 could not be scored: its files are not those it was made with")
    assert report["reason"].endswith("model.skops was changed")
    store = serving.store
    (last, *_) = store.retrainings(1)
    assert (last.outcome, last.reason) == ("rejected", report["reason"])

    code, output = serving.run("retrain", "--force")
    assert code == 2
    assert "--force needs --reason" in output
    serving.retrain("--force", "--reason", "the files of version 1 are lost")
    assert (registration(serving)["gate"], serves(serving)) == ("promoted", "2")
    tags = client.get_model_version(serving.model, "2").tags
    assert tags["gate_forced_reason"] == "the files of version 1 are lost"
    assert tags["gate_forced_by"]
    champion = store.serving_champion(serving.model)
    assert champion is not None
    assert (champion.version, champion.event) == ("2", "promoted")


def test_what_was_deleted_in_mlflows_pages_is_restored_or_made_anew(serving: Project) -> None:
    client = client_of(serving)
    serving.change("register", experiment=serving.model)
    serving.retrain()
    experiment = client.get_experiment_by_name(serving.model)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    assert f"the experiment {serving.model} had been deleted in MLflow and is restored" in serving.retrain()
    assert (registration(serving)["gate"], len(client.search_runs([experiment.experiment_id]))) == ("unchanged", 2)

    client.delete_registered_model(serving.model)
    assert f"there was no model {serving.model} in the registry: it is made" in serving.retrain()
    assert serves(serving) == "1"


def test_a_rollback_takes_the_alias_from_a_version_that_does_not_serve(serving: Project) -> None:
    client = client_of(serving)
    version = client.get_model_version(serving.model, "1")
    model_id = version.source.removeprefix("models:/")  # as somebody registers a model of their own
    client.create_model_version(serving.model, source=version.source, model_id=model_id)
    client.set_registered_model_alias(serving.model, ALIAS, "2")
    code, output = serving.run("rollback", "--reason", "set by mistake")
    assert code == 0, output
    assert "version 1 serves again instead of 2: set by mistake" in output
    assert serves(serving) == "1"


def test_a_rollback_goes_by_what_served_not_by_who_moved_the_alias(serving: Project) -> None:
    serving.change("train", candidates={"hist_gradient_boosting": {"max_iter": 30, "features": {}}})
    serving.retrain()
    assert serves(serving) == "2"
    worsen(serving)
    serving.retrain()
    # Somebody sets the alias by hand, and the service says that it serves this version.
    client = client_of(serving)
    client.set_registered_model_alias(serving.model, ALIAS, "3")
    run_id = client.get_model_version(serving.model, "3").run_id
    store = serving.store
    store.record_serving(serving.model, "3", run_id, "serves")
    for former in ("2", "1"):
        code, output = serving.run("rollback", "--reason", "a test")
        assert code == 0, output
        assert serves(serving) == former
    code, output = serving.run("rollback")
    assert code == 1
    assert "version 1 is the first that served" in output
