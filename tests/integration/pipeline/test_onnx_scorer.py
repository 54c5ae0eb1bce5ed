"""The compiled scorer at registration: checked and stored with the version, or the version is not promoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from tableloop.model.conformal import as_matrix
from tableloop.model.onnx_scorer import TOLERANCE, Scorer
from tableloop.table import load_table
from tableloop.version_files import SCORER
from tests.integration.pipeline.conftest import ROOT, SQLITE, Project

# What is stored where makes no difference to a scorer.
pytestmark = pytest.mark.parametrize("trained", [SQLITE], indirect=True)


@pytest.fixture
def spatial(trained: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project that trains the spatial candidate with few trees, for the registry of the trained one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    project = trained.copy(tmp_path)
    project.model = "Spatial"
    candidate: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["candidates"]["spatial"]
    candidate["budgets"]["default"][0]["trees"]["max_iter"] = 20
    project.change("train", candidates={"spatial": candidate})
    return project


def test_a_scorer_that_answers_otherwise_is_not_stored_and_its_version_not_promoted(
    spatial: Project, tmp_path: Path
) -> None:
    compiler = spatial.root / "tableloop" / "model" / "onnx_export.py"
    sound = compiler.read_text()
    compiler.write_text(sound.replace('"factor": model.factor_,', '"factor": model.factor_ * 1.01,'))
    code, output = spatial.run("retrain")
    assert code == 1
    last = output.strip().splitlines()[-1]
    assert last.startswith("training failed in stage register: version 1 (spatial) is rejected and no other serves")
    client = MlflowClient()
    version = client.get_model_version("Spatial", "1")
    assert (version.tags["scorer"], version.tags["gate"], version.aliases) == ("failed", "rejected", [])
    assert "compiled scorer" in version.tags["gate_reason"]
    files = Path(download_artifacts("models:/Spatial/1", dst_path=str(tmp_path / "1")))
    assert not (files / SCORER).exists()

    # The compiler is repaired: what it makes answers as the model, comes with a download, and its figures are told.
    compiler.write_text(sound)
    client.delete_model_version("Spatial", "1")
    spatial.retrain()
    version = client.get_model_version_by_alias("Spatial", "Production")
    assert (version.tags["scorer"], version.tags["gate"]) == ("passed", "promoted")
    assert client.get_run(version.run_id).data.metrics["scorer_largest_difference"] < TOLERANCE / 10
    files = Path(download_artifacts(f"models:/Spatial/{version.version}", dst_path=str(tmp_path / "2")))
    rows = as_matrix(pd.read_parquet(spatial.workspace / "data/processed/test.parquet"), load_table().feature_names)
    answers = Scorer.load(files / SCORER).predict(rows)
    assert len(answers.values) == len(rows)
    metadata = yaml.safe_load((files / "MLmodel").read_text())["metadata"]
    assert metadata["limits"] == json.loads((spatial.workspace / "reports/limits.json").read_text())
    assert "What it cannot do" in version.description


def test_other_families_have_a_scorer_too(trained: Project) -> None:
    version = MlflowClient(trained.uri, trained.uri).get_model_version_by_alias("HousePriceModel", "Production")
    assert version.tags["scorer"] == "passed"
    assert "of the largest value from scikit-learn on" in version.tags["scorer_reason"]
