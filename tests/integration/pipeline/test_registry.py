"""What a real registry holds after a training, and after everything that can interrupt one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, load_text
from skops import io as skops_io

from pipeline.preprocess import place_in_split
from pipeline.stage_runner import raw_data
from tableloop.drift.reference import REFERENCE_FILE, Reference
from tableloop.mlflow_http import wait_until_healthy
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import load_table
from tests.integration.pipeline.conftest import PARTS, POSTGRESQL, SMALL, SQLITE, Project

FEATURE_NAMES = load_table().feature_names
TARGET = load_table().target

RAW_DATA = raw_data(load_table())
BEST = "hist_gradient_boosting"
DECILE_METRICS = ("rmse_by_value_decile", "coverage_by_value_decile")


@pytest.fixture
def client(trained: Project, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return MlflowClient()


def registration(project: Project) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((project.workspace / "reports/registration.json").read_text())
    return report


def experiment_of(project: Project) -> str:
    name: str = yaml.safe_load((project.root / "params.yaml").read_text())["register"]["experiment"]
    return name


def runs_of(client: MlflowClient, project: Project) -> list[Any]:
    experiment = client.get_experiment_by_name(experiment_of(project))
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_every_candidate_is_a_complete_run(trained: Project, client: MlflowClient) -> None:
    runs = {run.data.tags["family"]: run for run in runs_of(client, trained)}
    assert set(runs) == set(SMALL)
    recorded = json.loads((trained.workspace / "reports/metrics.json").read_text())
    timings = json.loads((trained.workspace / "reports/timings.json").read_text())
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.info.run_name.startswith(f"{name}-")
        seconds = timings[name]["train_seconds"]
        by_decile = {name: run.data.metrics.pop(name) for name in DECILE_METRICS}
        difference = run.data.metrics.pop("scorer_largest_difference")
        assert difference < 1e-6
        assert run.data.metrics == pytest.approx(recorded[name] | {"train_seconds": seconds})
        for metric in by_decile:
            steps = client.get_metric_history(run.info.run_id, metric)
            assert sorted(entry.step for entry in steps) == list(range(1, 11))
        assert run.data.tags["mlflow.note.content"].startswith(f"{name}: ")
        assert (run.info.end_time - run.info.start_time) / 1000 == pytest.approx(seconds, abs=0.002)
        assert run.data.params["seed"] == "42"
        assert run.data.params["preprocess.test_fraction"] == "0.2"
        assert run.data.params["fitted_on"] == ("train and validation" if name == BEST else "train")
        assert {"data_md5", "code_digest", "params_digest", "training.fingerprint"} <= set(run.data.tags)
        inputs = {tag.value: entry.dataset for entry in run.inputs.dataset_inputs for tag in entry.tags}
        assert set(inputs) == {"training", "validation", "test"}
        assert len({dataset.digest for dataset in inputs.values()}) == 3
        plots = {file.path for file in client.list_artifacts(run.info.run_id, "plots")}
        assert len(plots) == 3
        (output,) = run.outputs.model_outputs
        model = client.get_logged_model(output.model_id)
        assert model.status.value == "READY"
        assert {metric.key: metric.dataset_name for metric in model.metrics} == {
            "scorer_largest_difference": None
        } | {
            metric: f"california_housing-{part}"
            for prefix, part in zip(("train", "custom", "test"), PARTS, strict=True)
            for metric in recorded[name] | {"train_seconds": seconds}
            if metric.startswith(prefix)
        }


def test_the_registered_version_can_be_traced_and_reproduced(trained: Project, client: MlflowClient) -> None:
    report = registration(trained)
    version = client.get_model_version_by_alias("HousePriceModel", "Production")
    assert (report["candidate"], report["gate"], report["version"]) == (BEST, "promoted", version.version)
    lock = yaml.safe_load((trained.workspace / "dvc.lock").read_text())
    dependencies = {entry["path"]: entry for entry in lock["stages"]["preprocess"]["deps"]}
    data_md5 = dependencies[str(RAW_DATA)]["md5"]
    assert version.tags["data_md5"] == data_md5
    assert version.tags["gate"] == "promoted"
    assert version.tags["gate_reason"] == "no version served before"
    assert data_md5 in version.description
    model = yaml.safe_load(load_text(f"models:/HousePriceModel/{version.version}/MLmodel"))
    scores = json.loads((trained.workspace / "reports/metrics.json").read_text())[BEST]
    parts = [pd.read_parquet(trained.workspace / f"data/processed/{part}.parquet") for part in PARTS[:2]]
    train = pd.concat(parts)
    assert model["metadata"]["family"] == BEST
    assert model["metadata"]["interval_coverage"] == 0.9
    assert model["metadata"]["data_md5"] == data_md5
    assert model["metadata"]["scores"].items() <= scores.items()
    assert model["metadata"]["training_range"]["Latitude"] == [train["Latitude"].min(), train["Latitude"].max()]
    columns = json.loads(model["signature"]["inputs"])
    assert [(column["name"], column["type"]) for column in columns] == [(name, "double") for name in FEATURE_NAMES]
    assert model["flavors"]["sklearn"]["serialization_format"] == "skops"


def test_the_pages_of_the_registry_describe_model_version_and_experiment(
    trained: Project, client: MlflowClient
) -> None:
    model = client.get_registered_model("HousePriceModel")
    assert "| `MedInc`" in model.description
    assert model.tags["task"] == "regression"
    version = client.get_model_version_by_alias("HousePriceModel", "Production")
    card = version.description
    for heading in ("Data", "Use", "Error by region", "Error by value", "Coverage by quarter", "Limits"):
        assert f"### {heading}" in card, card
    assert f"`make reproduce VERSION={version.version}`" in card
    test = pd.read_parquet(trained.workspace / "data/processed/test.parquet")
    assert f"on {len(test):,} test rows" in card
    for table in ("region", "US dollars of 1990", "quarter, lowest first"):
        _, _, *rows = card[card.index(f"| {table}&emsp;") :].partition("\n\n")[0].splitlines()
        assert sum(int(row.split("|")[2].removesuffix("&emsp; ").replace(",", "")) for row in rows) == len(test)

    experiment = client.get_experiment_by_name(experiment_of(trained))
    assert experiment
    tags = experiment.tags
    (address,) = re.findall(r"\[the candidates compared\]\((\S+)\)", tags["mlflow.note.content"])
    assert address in model.description
    assert address in card


def test_a_client_with_nothing_but_the_address_loads_the_model_and_predicts_the_same(
    trained: Project, tmp_path: Path
) -> None:
    test = pd.read_parquet(trained.workspace / "data/processed/test.parquet").head(1000)
    test[list(FEATURE_NAMES)].to_parquet(tmp_path / "rows.parquet")
    script = """
import mlflow, numpy, pandas
rows = pandas.read_parquet("rows.parquet")
model = mlflow.pyfunc.load_model("models:/HousePriceModel@Production")
numpy.save("predicted.npy", model.predict(rows))
"""
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MLFLOW_TRACKING_URI": trained.uri}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=bare, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    model = skops_io.load(trained.workspace / f"models/{BEST}.skops", trusted=list(TRUSTED_TYPES))
    expected = model.predict(test)
    np.testing.assert_allclose(np.load(tmp_path / "predicted.npy"), expected, atol=1e-6)
    assert np.std(expected) > 0.5


def test_training_again_gives_equal_metrics(trained: Project, tmp_path: Path) -> None:
    again = trained.copy(tmp_path)
    for stage in ("preprocess", "train"):
        code, output = again.run(stage, cwd=again.workspace)
        assert code == 0, output
    for name in ("reports/metrics.json", "reports/data.json", "data/processed/train.parquet"):
        assert (again.workspace / name).read_bytes() == (trained.workspace / name).read_bytes(), name


def test_retraining_on_the_same_inputs_changes_nothing(
    trained: Project, client: MlflowClient, tmp_path: Path
) -> None:
    again = trained.copy(tmp_path)
    before = len(runs_of(client, again))
    output = again.retrain()
    assert "Running stage 'train'" not in output
    assert registration(again)["gate"] == "unchanged"
    assert registration(again)["version"] == registration(trained)["version"]
    assert len(runs_of(client, again)) == before


def test_nothing_is_trained_when_a_version_serves(trained: Project) -> None:
    assert "nothing to train" in trained.retrain("--unless-registered")


def test_a_fresh_server_with_an_old_lock_file_is_filled(
    trained: Project, new_server: Callable[[str], str], tmp_path: Path
) -> None:
    moved = trained.copy(tmp_path)
    moved.uri = new_server(POSTGRESQL if trained.postgres else SQLITE)
    assert wait_until_healthy(moved.uri, 60)
    output = moved.retrain("--unless-registered")
    assert "Running stage 'train'" not in output
    assert registration(moved)["gate"] == "promoted"
    assert len(runs_of(MlflowClient(moved.uri, moved.uri), moved)) == len(SMALL)


def test_outputs_restored_from_dvcs_cache_still_fill_a_registry(trained: Project, tmp_path: Path) -> None:
    restored = trained.copy(tmp_path)
    restored.model = "Restored"
    restored.change("register", experiment="restored")
    (restored.workspace / "dvc.lock").unlink()
    for name in ("data/processed", "models", "reports"):
        shutil.rmtree(restored.workspace / name)
    output = restored.retrain()
    assert "Stage 'train' is cached - skipping run, checking out outputs" in output
    report = registration(restored)
    assert (report["model"], report["version"], report["gate"]) == ("Restored", "1", "promoted")


def test_a_challenger_trained_on_shuffled_labels_does_not_take_the_alias(
    trained: Project, client: MlflowClient, tmp_path: Path
) -> None:
    worse = trained.copy(tmp_path)
    raw = pd.read_csv(worse.root / RAW_DATA)
    not_test = place_in_split(raw, FEATURE_NAMES) >= 0.2
    raw.loc[not_test, TARGET.name] = raw.loc[not_test, TARGET.name].sample(frac=1, random_state=0).to_numpy()
    raw.to_csv(worse.root / RAW_DATA, index=False)
    worse.change("train", candidates={"linear": {}})
    worse.retrain()
    report = registration(worse)
    assert report["gate"] == "rejected"
    assert report["challenger_rmse"] > 1.1 > report["champion_rmse"]
    serving = client.get_model_version_by_alias("HousePriceModel", "Production").version
    assert serving == report["champion_version"] == registration(trained)["version"]
    version = client.get_model_version("HousePriceModel", report["version"])
    assert version.tags["gate"] == "rejected"
    assert f"of version {serving} on the same rows" in version.tags["gate_reason"]
    code, output = worse.run("register", cwd=worse.workspace)
    assert code == 0, output
    assert registration(worse) == report


def test_a_half_finished_log_is_not_taken_for_done(trained: Project, client: MlflowClient, tmp_path: Path) -> None:
    project = trained.copy(tmp_path)
    done = client.get_run(registration(project)["run_id"])
    fingerprint = {"training.fingerprint": done.data.tags["training.fingerprint"]}
    client.delete_run(done.info.run_id)
    half = client.create_run(done.info.experiment_id, tags=fingerprint)
    code, output = project.run("register", cwd=project.workspace)
    assert code == 0, output
    assert f"{len(SMALL) - 1} of {len(SMALL)} runs are on the server already" in output
    assert client.get_run(half.info.run_id).info.status == "KILLED"
    again = [run for run in runs_of(client, project) if run.data.tags.items() >= fingerprint.items()]
    assert sorted(run.info.status for run in again) == ["FINISHED", "KILLED"]
    again = [run for run in again if run.info.status == "FINISHED"]
    assert registration(project)["run_id"] == again[0].info.run_id


def test_the_drift_reference_comes_with_the_version(trained: Project, client: MlflowClient, tmp_path: Path) -> None:
    version = client.get_model_version_by_alias("HousePriceModel", "Production")
    file = download_artifacts(f"models:/HousePriceModel/{version.version}/{REFERENCE_FILE}", dst_path=str(tmp_path))
    assert Path(file).stat().st_size < 300_000
    reference = Reference.load(Path(file), FEATURE_NAMES)
    train, validation, test = (
        pd.read_parquet(trained.workspace / f"data/processed/{part}.parquet") for part in PARTS
    )
    scores = json.loads((trained.workspace / "reports/metrics.json").read_text())[BEST]
    assert reference.test_rmse == scores["test_rmse"]
    assert list(reference.counts) == pytest.approx([len(train) + len(validation)] * 8 + [len(test)])
    places = pd.concat([train, validation])["Latitude"]
    assert np.median(reference.quantiles[6]) == pytest.approx(places.median(), abs=0.01)
