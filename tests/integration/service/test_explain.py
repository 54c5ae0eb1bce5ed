"""Reasons of real versions: a spatial one with its scorer, the same without it, and a linear one."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from app.explanations import MOST_OF_ONE
from tableloop.drift.reference import REFERENCE_FILE, Reference
from tableloop.model import manifest
from tableloop.model.shapley import BACKGROUND_ROWS, representative
from tableloop.table import load_table
from tableloop.version_files import SCORER
from tests.integration.service.conftest import (
    ALIAS,
    EXAMPLE,
    KEY,
    NAME,
    POLL_SECONDS,
    Load,
    Registry,
    Service,
    StartService,
    training_rows,
)
from tests.waiting import free_port

TABLE = load_table()
ANSWER = TABLE.answer


@pytest.fixture(scope="module")
def service(registry: Registry, spatial_version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    before = registry.client.get_model_version_by_alias(NAME, ALIAS).version
    registry.promote(spatial_version)
    state_dir = tmp_path_factory.mktemp("service") / "state"
    state_dir.mkdir()
    service = Service(state_dir, {"MLFLOW_TRACKING_URI": registry.uri, "MODEL_POLL_SECONDS": POLL_SECONDS})
    service.start()
    assert service.get("/ready").json()["model_version"] == spatial_version
    yield service
    service.stop()
    registry.promote(before)  # which other files know


def explained(service: Service, row: dict[str, float]) -> dict[str, Any]:
    answer = service.client.post("/explain", json=row)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def rows_of_houses(count: int) -> list[dict[str, float]]:
    rows = training_rows()[0][16_000 : 16_000 + count].tolist()
    return [dict(zip(TABLE.feature_names, row, strict=True)) for row in rows]


def test_the_parts_add_up_to_the_prediction(service: Service) -> None:
    bases = set()
    for row in rows_of_houses(10):
        why, predicted = explained(service, row), service.client.post("/predict", json=row).json()
        assert why[ANSWER] == pytest.approx(predicted[ANSWER], abs=1e-6)
        assert why["interval"] == pytest.approx(predicted["interval"], abs=1e-6)
        parts = sum(part["contribution"] for part in why["contributions"])
        assert why["base_value"] + parts == pytest.approx(predicted[ANSWER], abs=1e-6)
        bases.add(why["base_value"])
    (base,) = bases
    # The average over a few rows is near that of all rows.
    assert base == pytest.approx(training_rows()[1].mean(), rel=0.05)


def test_a_dear_place_and_a_high_income_are_the_reasons_for_a_high_value(service: Service) -> None:
    palo_alto = EXAMPLE | {"MedInc": 9.0, "Latitude": 37.44, "Longitude": -122.14}
    parts = {part["title"]: part["contribution"] for part in explained(service, palo_alto)["contributions"]}
    assert parts["Place"] == max(parts.values())
    assert parts["Place"] > 0.5
    assert parts["Median income"] > 0.2
    poor = explained(service, palo_alto | {"MedInc": 1.5})["contributions"]
    assert {part["title"]: part["contribution"] for part in poor}["Median income"] < 0


def test_neighbours_carry_the_kriging_estimate(service: Service, spatial_version: str) -> None:
    model = mlflow.sklearn.load_model(f"models:/{NAME}/{spatial_version}")
    features = model.estimator[0]
    X, y = training_rows()
    for row in rows_of_houses(5):
        near = explained(service, row)["neighbours"]
        assert sum(neighbour["weight"] for neighbour in near) == pytest.approx(1.0, abs=1e-9)
        assert [neighbour["weight"] for neighbour in near] == sorted((n["weight"] for n in near), reverse=True)
        estimate = sum(neighbour["weight"] * neighbour["actual_value"] for neighbour in near)
        assert estimate == pytest.approx(features.transform(np.array([[*row.values()]]))[0, -1], abs=1e-5)
        for neighbour in near:  # each is a row of the training
            same = (np.abs(X[:12_000, 6] - neighbour["latitude"]) < 1e-9) & (
                np.abs(X[:12_000, 7] - neighbour["longitude"]) < 1e-9
            )
            assert neighbour["actual_value"] in y[:12_000][same]


def test_what_is_far_or_unlike_the_training_data_is_named_as_a_reason(service: Service) -> None:
    desert = explained(service, EXAMPLE | {"Latitude": 36.9, "Longitude": -115.2})["interval_reasons"]
    reasons = {reason["name"]: reason for reason in desert["reasons"]}
    assert reasons["nearest_km"]["value"] > 100 * max(0.01, reasons["nearest_km"]["usual"])
    assert reasons["nearest_km"]["effect"] == "wider"
    odd = explained(service, EXAMPLE | {"AveRooms": 100.0, "AveOccup": 200.0, "Population": 30_000.0})
    alike = {reason["name"]: reason for reason in odd["interval_reasons"]["reasons"]}["rows_alike"]
    assert alike["value"] < alike["usual"]
    assert alike["effect"] == "wider"


def test_nothing_heavy_is_loaded_for_it(service: Service) -> None:
    explained(service, EXAMPLE)
    loaded = {Path(file.path).name for file in psutil.Process(service.process.pid).memory_maps()}
    assert not any(name.startswith(("_hist_gradient", "_kdtree")) or "sklearn" in name for name in loaded)


def test_a_flood_is_bounded_and_every_prediction_is_answered(service: Service) -> None:
    statuses: list[int] = []

    def flood(number: int) -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=30) as client:
            for income in range(5):
                answer = client.post("/explain", json=EXAMPLE | {"MedInc": 1 + income + number / 100})
                statuses.append(answer.status_code)
                assert answer.status_code != 503 or answer.headers["retry-after"] == "5"

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(3 * MOST_OF_ONE)]
    with Load(service.port, threads=2) as load:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200, 503}
    assert len(load.answers) > 50
    assert {status for status, _ in load.answers} == {200}


def test_without_its_scorer_a_version_has_the_same_reasons(
    service: Service, start_service: StartService, tmp_path: Path
) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(service.state_dir / "champion", state_dir / "champion")
    (scorer,) = state_dir.glob(f"champion/*/{SCORER}")
    shutil.rmtree(scorer)
    manifest.write(scorer.parent, {})
    KEY.sign(scorer.parent, service.get("/model").json()["run_id"])
    second = start_service(state_dir, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    assert second.get("/model").json()["engine"] == "scikit-learn"
    slow, fast = explained(second, EXAMPLE), explained(service, EXAMPLE)
    assert slow["base_value"] == pytest.approx(fast["base_value"], abs=1e-6)
    for one, other in zip(slow["contributions"], fast["contributions"], strict=True):
        assert one["name"] == other["name"]
        assert one["contribution"] == pytest.approx(other["contribution"], abs=1e-6)
    assert slow["neighbours"] == []


def test_contributions_of_a_linear_model_are_its_terms(
    registry: Registry, start_service: StartService, service: Service, spatial_version: str
) -> None:
    version = registry.publish(offset=0.5)
    registry.promote(version)
    try:
        linear = start_service(MLFLOW_TRACKING_URI=registry.uri)
        why = explained(linear, EXAMPLE)
    finally:
        registry.promote(spatial_version)
    assert why["model_version"] == version
    model = mlflow.sklearn.load_model(f"models:/{NAME}/{version}")
    reference = Reference.load(next(linear.state_dir.glob(f"champion/v*/{REFERENCE_FILE}")), TABLE.feature_names).rows
    background = reference[representative(model.predict(reference), BACKGROUND_ROWS)]
    scaler, regression = model.estimator[-2], model.estimator[-1]
    terms = regression.coef_ / scaler.scale_ * (np.array([*EXAMPLE.values()]) - background.mean(axis=0))
    for part in why["contributions"]:
        columns = [TABLE.feature_names.index(name) for name in part["values"]]
        assert part["contribution"] == pytest.approx(terms[columns].sum(), abs=1e-6)
    assert why["neighbours"] == []
