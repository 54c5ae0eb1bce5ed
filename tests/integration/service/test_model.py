"""The service and the registry: equal predictions, hot swap, what happens when either is broken."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from tableloop.table import load_table
from tests.integration.service.conftest import (
    ALIAS,
    NAME,
    POLL_SECONDS,
    Load,
    Registry,
    Service,
    StartService,
    training_rows,
)
from tests.waiting import free_port, wait_for

FEATURE_NAMES = load_table().feature_names


@pytest.fixture(scope="module")
def service(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    state_dir = tmp_path_factory.mktemp("service") / "state"
    state_dir.mkdir()
    service = Service(state_dir, {"MLFLOW_TRACKING_URI": registry.uri, "MODEL_POLL_SECONDS": POLL_SECONDS})
    service.start()
    yield service
    service.stop()


def served(service: Service) -> str:
    version: str = service.get("/ready").json()["model_version"]
    return version


def test_the_service_predicts_what_a_plain_mlflow_client_predicts(registry: Registry, service: Service) -> None:
    rows = training_rows()[0][:1000]
    plain = mlflow.pyfunc.load_model(f"models:/{NAME}@{ALIAS}")
    batch = [dict(zip(FEATURE_NAMES, row, strict=True)) for row in rows.tolist()]
    answers = service.client.post("/predict/batch", json=batch).json()
    expected = plain.predict(pd.DataFrame(rows, columns=list(FEATURE_NAMES)))
    assert [answer["predicted_median_house_value"] for answer in answers] == pytest.approx(expected, abs=1e-6)
    for row, value in zip(batch[:50], expected[:50], strict=True):
        answer = service.predict(**row).json()
        assert answer["predicted_median_house_value"] == pytest.approx(value, abs=1e-6)
        assert answer["interval"]["low"] < value < answer["interval"]["high"]


def test_the_model_page_traces_the_version(registry: Registry, service: Service) -> None:
    card = service.get("/model").json()
    version = registry.client.get_model_version(NAME, card["version"])
    assert card["run_id"] == version.run_id
    assert card["source"] == "registry"
    assert card["family"] == "linear"
    assert card["data_md5"] == "0" * 32
    assert card["code_digest"] == "1" * 64
    assert card["registered_at"]
    assert set(card["training_range"]) == set(FEATURE_NAMES)
    info = next(line for line in service.get("/metrics").text.splitlines() if line.startswith("model_info{"))
    assert f'version="{card["version"]}"' in info
    assert f'run_id="{card["run_id"]}"' in info


def test_a_promoted_version_is_swapped_in_under_load_without_a_failed_request(
    registry: Registry, service: Service
) -> None:
    old = served(service)
    new = registry.publish(offset=1.0)
    before = service.predict().json()["predicted_median_house_value"]
    with Load(service.port, threads=4) as load:
        wait_for("some answers", lambda: len(load.answers) > 50)
        registry.promote(new)
        wait_for("the new version", lambda: served(service) == new)
        seen = len(load.answers)
        wait_for("more answers", lambda: len(load.answers) > seen + 50)
    assert load.lost == 0
    assert {status for status, _ in load.answers} == {200}
    assert {answer["model_version"] for _, answer in load.answers} == {old, new}
    rows = service.log_rows("SELECT model_version, prediction, Population FROM predictions")
    assert {row["model_version"] for row in rows} == {old, new}
    assert service.predict().json()["predicted_median_house_value"] == pytest.approx(before + 1, abs=1e-6)
    # each answer is by the version it names: the new one predicts 1 more, the rows of the load differ by far less
    for _, answer in load.answers:
        assert (answer["predicted_median_house_value"] > before + 0.5) == (answer["model_version"] == new)
    kept = service.state_dir / "champion"
    wait_for("the local copy", lambda: sorted(path.name for path in kept.iterdir()) == ["current.json", f"v{new}"])


def test_a_broken_version_leaves_the_old_one_serving(registry: Registry, service: Service) -> None:
    old = served(service)
    broken = registry.publish(offset=2.0)
    model_file = next(registry.artifact_directory(broken).glob("model.*"))
    whole = model_file.read_bytes()
    model_file.write_bytes(whole[: len(whole) // 2])
    registry.promote(broken)
    wait_for("a word about it", lambda: f"version {broken} cannot be used" in service.get("/ready").text)
    assert service.predict().json()["model_version"] == old
    assert service.output().count(f"version {broken} cannot be used") == 1
    assert "Traceback" not in service.output()
    # the files are repaired: the service finds out by itself
    model_file.write_bytes(whole)
    wait_for("the repaired version", lambda: served(service) == broken)


def test_a_deleted_alias_leaves_the_version_serving(registry: Registry, service: Service) -> None:
    version = served(service)
    registry.client.delete_registered_model_alias(NAME, ALIAS)
    wait_for("a word about it", lambda: f"no {NAME}@{ALIAS}" in service.get("/ready").text)
    assert service.get("/ready").json()["matches_registry"] is False
    assert "\nmodel_matches_registry 0.0\n" in service.get("/metrics").text
    assert service.predict().status_code == 200
    registry.promote(version)
    wait_for("the registry's word", lambda: service.get("/ready").json()["matches_registry"])
    wait_for("the alias again", lambda: f"is the registry's {NAME}" in service.get("/ready").text)


def test_the_registry_can_die_and_come_back(registry: Registry, service: Service) -> None:
    version = served(service)
    registry.stop()
    try:
        wait_for("a word about it", lambda: "does not answer" in service.get("/ready").text)
        assert service.predict().json()["model_version"] == version
    finally:
        registry.start()
    wait_for("the registry again", lambda: "is the registry's" in service.get("/ready").text)


def test_starts_from_the_local_copy_when_the_registry_is_down(
    service: Service, start_service: StartService, tmp_path: Path
) -> None:
    wait_for("the local copy", (service.state_dir / "champion" / f"v{served(service)}").exists)
    state_dir = tmp_path / "moved"
    shutil.copytree(service.state_dir / "champion", state_dir / "champion")
    second = start_service(state_dir, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    ready = second.get("/ready").json()
    assert (ready["model_version"], ready["source"]) == (served(service), "local copy")
    assert second.predict().json()["predicted_median_house_value"] == pytest.approx(
        service.predict().json()["predicted_median_house_value"], abs=1e-12
    )
    assert second.get("/model").json()["registered_at"]


def test_without_any_model_it_says_what_it_waits_for(start_service: StartService, tmp_path: Path) -> None:
    (tmp_path / "state" / "champion").mkdir(parents=True)
    (tmp_path / "state" / "champion" / "current.json").write_text("{")
    uri = f"http://127.0.0.1:{free_port()}"
    service = start_service(tmp_path / "state", ready=False, MLFLOW_TRACKING_URI=uri)
    wait_for("the first try", lambda: "does not answer" in service.get("/ready").text)
    ready = service.get("/ready")
    assert ready.status_code == 503
    answer = service.predict()
    assert answer.status_code == 503
    assert "no model" in answer.json()["detail"]
    assert "registry does not answer" in answer.json()["detail"]
    assert service.log_rows() == []
