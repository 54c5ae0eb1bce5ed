"""The compiled scorer in the service: the registered model's answers, and scikit-learn where its files are broken."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest
from mlflow.models import infer_signature

from pipeline.stage_runner import load_params
from pipeline.train import new_model
from tableloop.model.onnx_export import write_scorer
from tableloop.model.onnx_scorer import DIRECTORY, TREES
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import FEATURE_NAMES, load_table
from tests.integration.service.conftest import (
    NAME,
    POLL_SECONDS,
    ROOT,
    Registry,
    Service,
    StartService,
    free_port,
    training_rows,
)


@pytest.fixture(scope="module")
def published(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a version of the shipped spatial model with its scorer, as `register` stores it; it is promoted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        params = load_params()["train"]
    X, y = training_rows()
    model = new_model("spatial", params, load_table())
    model.fit(X[:12_000], y[:12_000]).calibrate(X[12_000:16_000], y[12_000:16_000])
    frame = pd.DataFrame(X[:12_000], columns=list(FEATURE_NAMES))
    files = tmp_path_factory.mktemp("scorer")
    write_scorer(model, X[16_000:16_050], files / DIRECTORY)
    with mlflow.start_run(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, about pandas and about its type hints
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name=NAME,
            signature=infer_signature(frame[:5], model.predict(frame[:5])),
            input_example=frame[:5],
            skops_trusted_types=list(TRUSTED_TYPES),
            pip_requirements=["scikit-learn"],
            metadata={
                "family": "spatial",
                "training_range": {name: [float(frame[name].min()), float(frame[name].max())] for name in frame},
                "interval_coverage": 0.9,
                "limits": {"far_km": 5.0},
            },
        )
    registry.client.log_model_artifacts(info.model_id, str(files))
    version = str(info.registered_model_version)
    registry.promote(version)
    return version


@pytest.fixture(scope="module")
def service(registry: Registry, published: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    state_dir = tmp_path_factory.mktemp("service") / "state"
    state_dir.mkdir()
    service = Service(state_dir, {"MLFLOW_TRACKING_URI": registry.uri, "MODEL_POLL_SECONDS": POLL_SECONDS})
    service.start()
    assert service.get("/ready").json()["model_version"] == published
    yield service
    service.stop()


def test_it_answers_as_the_registered_model(service: Service, published: str) -> None:
    rows = training_rows()[0][16_000:17_000]
    model = mlflow.sklearn.load_model(f"models:/{NAME}/{published}")
    expected = np.stack(model.predict_interval(rows), axis=1)
    batch = [dict(zip(FEATURE_NAMES, row, strict=True)) for row in rows.tolist()]
    singly = [service.client.post("/predict", json=row).json() for row in batch]
    for answers in (singly, service.client.post("/predict/batch", json=batch).json()):
        given = [
            (answer["predicted_median_house_value"], answer["interval"]["low"], answer["interval"]["high"])
            for answer in answers
        ]
        np.testing.assert_allclose(given, expected, atol=1e-6)


def test_the_model_page_names_the_engine_and_nothing_of_scikit_learn_is_loaded(service: Service) -> None:
    card = service.get("/model").json()
    assert (card["engine"], card["limits"]["far_km"]) == ("compiled", 5.0)
    loaded = {Path(file.path).name for file in psutil.Process(service.process.pid).memory_maps()}
    assert any("onnxruntime" in name for name in loaded)
    assert not any("sklearn" in name or name.startswith("_hist_gradient") for name in loaded)


def test_a_place_far_from_all_training_places_is_warned_of(service: Service) -> None:
    assert service.predict().json()["warnings"] == []
    desert = service.predict(Latitude=36.9, Longitude=-115.2).json()["warnings"]
    assert len(desert) == 1
    assert desert[0].startswith("nearest_training_km 1")


@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_a_broken_scorer_leaves_the_work_to_scikit_learn_with_a_warning(
    service: Service, start_service: StartService, tmp_path: Path, damage: str
) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(service.state_dir / "champion", state_dir / "champion")
    (trees,) = state_dir.glob(f"champion/*/{DIRECTORY}/{TREES}")
    if damage == "missing":
        trees.unlink()
    else:
        trees.write_bytes(trees.read_bytes()[:-1000])
    second = start_service(state_dir, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert second.get("/model").json()["engine"] == "scikit-learn"
    assert second.output().count("scikit-learn serves") == 1
    ours, theirs = (each.predict().json()["predicted_median_house_value"] for each in (second, service))
    assert ours == pytest.approx(theirs, abs=1e-6)
    far = second.predict(Latitude=36.9, Longitude=-115.2).json()["warnings"]
    assert far == service.predict(Latitude=36.9, Longitude=-115.2).json()["warnings"]
