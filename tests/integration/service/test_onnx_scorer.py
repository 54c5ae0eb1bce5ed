"""The compiled scorer in the service: the registered model's answers, and scikit-learn where its files are broken."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest

from tableloop.model import manifest
from tableloop.model.onnx_scorer import TREES
from tableloop.table import load_table
from tableloop.version_files import SCORER
from tests.integration.service.conftest import (
    ALIAS,
    KEY,
    NAME,
    POLL_SECONDS,
    Registry,
    Service,
    StartService,
    clean_environment,
    training_rows,
)
from tests.waiting import free_port, wait_for

FEATURE_NAMES = load_table().feature_names


@pytest.fixture(scope="module")
def published(registry: Registry, spatial_version: str) -> Iterator[str]:
    """Yield a version of the shipped spatial model with its scorer, while it is promoted."""
    before = registry.client.get_model_version_by_alias(NAME, ALIAS).version
    registry.promote(spatial_version)
    yield spatial_version
    registry.promote(before)


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


def test_a_scored_folder_has_the_answers_of_predict_batch(
    service: Service, registry: Registry, published: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.parquet"
    pd.DataFrame(training_rows()[0][:9000], columns=list(FEATURE_NAMES)).to_parquet(file)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.score", str(file.parent), str(tmp_path / "out")],
        env=clean_environment(STATE_DIR=service.state_dir, MLFLOW_TRACKING_URI=registry.uri),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    headers = {"Content-Type": "application/vnd.apache.parquet"}
    answer = service.client.post("/predict/batch", content=file.read_bytes(), headers=headers, timeout=60)
    scored, answered = pd.read_parquet(tmp_path / "out" / "a.parquet"), pd.read_parquet(io.BytesIO(answer.content))
    pd.testing.assert_frame_equal(
        scored.drop(columns="prediction_id"), answered.drop(columns="prediction_id"), check_exact=True
    )
    assert set(scored["model_version"]) == {published}


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


@pytest.mark.parametrize("damage", ["another format", "missing"])
def test_without_a_scorer_that_this_code_reads_the_versions_own_code_answers(
    service: Service, start_service: StartService, tmp_path: Path, damage: str
) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(service.state_dir / "champion", state_dir / "champion")
    (trees,) = state_dir.glob(f"champion/*/{SCORER}/{TREES}")
    if damage == "missing":
        trees.unlink()
    else:
        trees.write_bytes(trees.read_bytes()[:-1000])
    manifest.write(trees.parents[1], {})
    KEY.sign(trees.parents[1], service.get("/model").json()["run_id"])
    second = start_service(state_dir, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert second.get("/model").json()["engine"] == "scikit-learn"
    assert second.output().count("scikit-learn serves") == 1
    ours, theirs = (each.predict().json()["predicted_median_house_value"] for each in (second, service))
    assert ours == pytest.approx(theirs, abs=1e-6)
    far = second.predict(Latitude=36.9, Longitude=-115.2).json()["warnings"]
    assert far == service.predict(Latitude=36.9, Longitude=-115.2).json()["warnings"]

    # scikit-learn is in the process beside, which is started again when it dies and ends with the service
    loaded = {Path(file.path).name for file in psutil.Process(second.process.pid).memory_maps()}
    assert not any("sklearn" in name or name.startswith("_hist_gradient") for name in loaded)
    (beside,) = psutil.Process(second.process.pid).children()
    beside.kill()
    assert second.predict().status_code == 200
    (beside,) = psutil.Process(second.process.pid).children()
    second.process.send_signal(signal.SIGKILL)
    wait_for("the end of the process beside", lambda: not psutil.pid_exists(beside.pid))


def test_files_that_are_not_those_of_the_manifest_do_not_serve(
    service: Service, start_service: StartService, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(service.state_dir / "champion", state_dir / "champion")
    (trees,) = state_dir.glob(f"champion/*/{SCORER}/{TREES}")
    trees.write_bytes(trees.read_bytes()[:-1000])
    second = start_service(state_dir, ready=False, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    wait_for("the refusal", lambda: f"{SCORER}/{TREES} was changed" in second.output())
    assert second.predict().status_code == 503
