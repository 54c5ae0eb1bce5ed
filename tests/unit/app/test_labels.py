"""Labels: what is stored, what is refused, and what the live metrics say of them."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import main, prediction_writer
from app.main import create_app
from app.prediction_writer import PredictionLog
from tableloop.settings import Settings
from tableloop.state import postgres_rows, prediction_rows, sqlite_rows
from tableloop.state.database import Store
from tests.unit.app.conftest import EXAMPLE, IN_EACH_STORE, LOGIN


def predict(client: TestClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.post("/predict", json=EXAMPLE).json()
    return answer


def metric(client: TestClient, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(name + "{"))
    return float(line.rpartition(" ")[2])


@IN_EACH_STORE
def test_a_label_is_answered_with_what_was_stored(client: TestClient) -> None:
    prediction = predict(client)
    answer = client.post("/feedback", json={"prediction_id": prediction["prediction_id"], "actual_value": 8.5})
    assert answer.status_code == 201
    stored = answer.json()
    assert stored.pop("received_at").endswith("+00:00")
    assert stored == {
        "prediction_id": prediction["prediction_id"],
        "actual_value": 8.5,
        "model_version": "dummy",
        "predicted_median_house_value": prediction["predicted_median_house_value"],
        "inside_interval": True,
    }


@IN_EACH_STORE
def test_a_second_label_is_refused_and_the_first_one_stays(client: TestClient) -> None:
    label = {"prediction_id": predict(client)["prediction_id"], "actual_value": 3.5}
    client.post("/feedback", json=label)
    answer = client.post("/feedback", json=label | {"actual_value": 1.0})
    assert answer.status_code == 409
    assert "was labelled 3.5" in answer.json()["detail"]
    assert metric(client, "live_labels") == 1


@IN_EACH_STORE
def test_an_unknown_prediction_is_404(client: TestClient) -> None:
    answer = client.post("/feedback", json={"prediction_id": "nobody", "actual_value": 1.0})
    assert answer.status_code == 404
    assert "nobody" in answer.json()["detail"]


@pytest.mark.parametrize("value", ["-0.1", "1000.1", "NaN", "Infinity", "1e999", '"2.0"', "null", "true", "[1]"])
def test_an_impossible_value_is_422_and_names_the_field(client: TestClient, value: str) -> None:
    body = f'{{"prediction_id": "{predict(client)["prediction_id"]}", "actual_value": {value}}}'
    for text in (body, f"[{body}]"):
        answer = client.post("/feedback", content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][-1] == "actual_value"


@pytest.mark.parametrize("body", [{}, [], 1, "x", None, [[]], {"prediction_id": "a", "actual_value": 1, "more": 1}])
def test_another_shape_is_422(client: TestClient, body: Any) -> None:
    assert client.post("/feedback", json=body).status_code == 422


@IN_EACH_STORE
def test_every_label_of_a_list_is_for_itself(client: TestClient) -> None:
    ids = [predict(client)["prediction_id"] for _ in range(3)]
    client.post("/feedback", json={"prediction_id": ids[0], "actual_value": 3.0})
    labels = [{"prediction_id": name, "actual_value": 2.0} for name in (ids[1], ids[0], "nobody", ids[2], ids[2])]
    answer = client.post("/feedback", json=labels)
    assert answer.status_code == 207
    report = answer.json()
    assert (report["stored"], report["refused"]) == (2, 3)
    assert [outcome["status"] for outcome in report["outcomes"]] == [201, 409, 404, 201, 409]
    assert [outcome["prediction_id"] for outcome in report["outcomes"]] == [ids[1], ids[0], "nobody", ids[2], ids[2]]


@pytest.mark.parametrize("value", [45.26, 452.6, 999.0])
def test_a_value_in_another_unit_is_refused_unless_the_sender_is_sure(client: TestClient, value: float) -> None:
    labels = [{"prediction_id": predict(client)["prediction_id"], "actual_value": number} for number in (value, 5.0)]
    answer = client.post("/feedback", json=labels[0])
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == ["body", "one", "actual_value"]
    assert problem["input"] == value
    assert "is it in 100,000 US dollars of 1990?" in problem["msg"]
    answer = client.post("/feedback", json=labels)
    assert answer.status_code == 207
    assert [outcome["status"] for outcome in answer.json()["outcomes"]] == [422, 201]
    assert "far from the interval 7.8252 to 8.8252" in answer.json()["outcomes"][0]["detail"]
    assert client.post("/feedback", json=labels[0] | {"accept_unusual": True}).json()["actual_value"] == value
    assert client.post("/feedback", json=labels[0]).status_code == 409


@pytest.mark.parametrize("value", [0.0, 0.45, 5.0, 11.0])
def test_a_value_that_the_table_may_have_is_stored_however_wrong_the_model_is(
    client: TestClient, value: float
) -> None:
    answer = client.post("/predict", json=EXAMPLE | {"MedInc": 500}).json()
    assert answer["interval"]["low"] > 400
    label = {"prediction_id": answer["prediction_id"], "actual_value": value}
    assert client.post("/feedback", json=label).status_code == 201


@IN_EACH_STORE
def test_a_list_that_is_stored_whole_is_201(client: TestClient) -> None:
    ids = [item["prediction_id"] for item in client.post("/predict/batch", json=[EXAMPLE] * 1200).json()]
    answer = client.post("/feedback", json=[{"prediction_id": name, "actual_value": 2.0} for name in ids])
    assert answer.status_code == 201
    assert (answer.json()["stored"], answer.json()["refused"]) == (1200, 0)
    assert metric(client, "feedback_total") == 1200
    assert metric(client, "live_labels") == 500


@IN_EACH_STORE
def test_the_live_errors_are_those_of_the_labels_also_after_a_restart(settings: Settings) -> None:
    with TestClient(create_app(settings), headers=LOGIN) as client:
        answers = [predict(client) for _ in range(4)]
        errors = [0.1, -0.2, 0.3, 2.0]
        for answer, error in zip(answers, errors, strict=True):
            actual = answer["predicted_median_house_value"] + error
            client.post("/feedback", json={"prediction_id": answer["prediction_id"], "actual_value": actual})
        before = [metric(client, name) for name in ("live_rmse", "live_mae", "live_interval_coverage")]
    assert before == pytest.approx([math.sqrt(sum(error**2 for error in errors) / 4), 0.65, 0.75])
    with TestClient(create_app(settings), headers=LOGIN) as client:
        after = [metric(client, name) for name in ("live_rmse", "live_mae", "live_interval_coverage")]
    assert after == pytest.approx(before)


def test_without_a_log_there_is_nothing_to_label(settings: Settings) -> None:
    settings = settings.model_copy(update={"prediction_log": False})
    with TestClient(create_app(settings), headers=LOGIN) as client:
        label = {"prediction_id": predict(client)["prediction_id"], "actual_value": 3.5}
        answer = client.post("/feedback", json=label)
        assert answer.status_code == 404
        assert "PREDICTION_LOG is off" in answer.json()["detail"]
        assert client.post("/feedback", json=[label]).status_code == 207


def test_a_log_that_cannot_be_written_is_503(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "STORE_SECONDS", 0.1)
    with TestClient(create_app(settings), headers=LOGIN) as client:
        label = {"prediction_id": predict(client)["prediction_id"], "actual_value": 3.5}
        other = sqlite3.connect(settings.state_dir / "predictions.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            answer = client.post("/feedback", json=label)
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert answer.status_code == 503
        assert client.post("/feedback", json=label).status_code == 201


def test_old_predictions_go_and_labelled_ones_stay(place: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_rows, "PRUNED_AT_ONCE", 7)
    monkeypatch.setattr(postgres_rows, "DELETED_AT_ONCE", 7)
    monkeypatch.setattr(prediction_writer, "PRUNE_PAUSE_SECONDS", 0.001)
    now = time.time()
    features = [0.5] * len(EXAMPLE)
    rows = [
        prediction_rows.row(f"id-{n}", "request", now - (100 - n) * 86_400, "1", features, 2.0, 1.0, 3.0)
        for n in range(100)
    ]

    async def fill(log: PredictionLog) -> None:
        await log.write(rows)
        await log.label([prediction_rows.Sent(name, 2.0) for name in ("id-3", "id-50", "id-95")], "crm")

    unlimited = PredictionLog(Store(place))
    unlimited.start()
    asyncio.run(fill(unlimited))
    unlimited.stop()
    log = PredictionLog(Store(place), retention_days=20.5)
    log.start()
    expected = {"id-3", "id-50", *(f"id-{n}" for n in range(80, 100))}
    deadline = time.monotonic() + 5
    kept: set[str] = set()
    while kept != expected and time.monotonic() < deadline:
        kept = {row["prediction_id"] for part in log.store.predictions_with_labels(None, None) for row in part}
        time.sleep(0.01)
    log.stop()
    assert kept == expected
