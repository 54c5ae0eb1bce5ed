"""What goes in and what comes out of the prediction routes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from app.champion import dummy_champion
from app.main import create_app
from app.schemas import MAX_BATCH_ROWS, Features
from tableloop.settings import Settings
from tableloop.table import load_table
from tests.unit.app.conftest import EXAMPLE

JSON = {"content-type": "application/json"}


def logged(settings: Settings) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(settings.state_dir / "predictions.db")
    try:
        return connection.execute("SELECT * FROM predictions ORDER BY id").fetchall()
    finally:
        connection.close()


def test_a_prediction_has_value_interval_version_and_id(client: TestClient, settings: Settings) -> None:
    answer = client.post("/predict", json=EXAMPLE, headers={"X-Request-ID": "mine-1"})
    assert answer.status_code == 200
    body = answer.json()
    value = body["predicted_median_house_value"]
    assert value == pytest.approx(EXAMPLE["MedInc"])
    assert body["interval"] == {"low": value - 0.5, "high": value + 0.5, "coverage": 0.9}
    assert body["model_version"] == "dummy"
    assert body["warnings"] == []
    (row,) = logged(settings)
    assert row[1:3] == (body["prediction_id"], "mine-1")
    assert row[4:] == ("dummy", *EXAMPLE.values(), value, value - 0.5, value + 0.5)


def test_the_order_of_the_fields_does_not_matter(client: TestClient, settings: Settings) -> None:
    client.post("/predict", json=dict(reversed(EXAMPLE.items())))
    assert logged(settings)[0][5:13] == tuple(EXAMPLE.values())


def test_whole_numbers_are_numbers(client: TestClient) -> None:
    assert client.post("/predict", json=EXAMPLE | {"HouseAge": 41}).status_code == 200


def test_a_batch_is_answered_in_its_order_by_one_version(client: TestClient, settings: Settings) -> None:
    batch = [EXAMPLE | {"MedInc": number / 10} for number in range(2500)]
    answers = client.post("/predict/batch", json=batch).json()
    assert [answer["predicted_median_house_value"] for answer in answers] == [n / 10 for n in range(2500)]
    ids = [answer["prediction_id"] for answer in answers]
    assert len(set(ids)) == 2500
    assert [row[1] for row in logged(settings)] == ids


def test_a_feature_outside_the_training_range_is_answered_with_a_warning(settings: Settings) -> None:
    app: FastAPI = create_app(settings)
    ranges = [(32.5, 42.0) if name == "Latitude" else (-1000.0, 1000.0) for name in EXAMPLE]
    app.state.parts.predictor.keeper.current = replace(dummy_champion(), known=tuple(ranges))
    with TestClient(app) as client:
        answer = client.post("/predict", json=EXAMPLE | {"Latitude": 47.6})
    assert answer.status_code == 200
    assert answer.json()["warnings"] == ["Latitude 47.6 is outside the training range 32.5 to 42"]


def body(**changes: object) -> str:
    return json.dumps(EXAMPLE | changes)


BAD_BODIES = {
    "missing": (json.dumps({k: v for k, v in EXAMPLE.items() if k != "AveRooms"}), "AveRooms"),
    "extra": (body(Colour=1.0), "Colour"),
    "string": (body(MedInc="8.3"), "MedInc"),
    "NaN": (body(MedInc=float("nan")), "MedInc"),
    "infinity": (body(MedInc=float("inf")), "MedInc"),
    "overflow": (body(MedInc=0).replace('"MedInc": 0', '"MedInc": 1e999'), "MedInc"),
    "long integer": (body(MedInc=10**400), "MedInc"),
    "boolean": (body(HouseAge=True), "HouseAge"),
    "null": (body(HouseAge=None), "HouseAge"),
    "negative count": (body(Population=-1), "Population"),
    "latitude 91": (body(Latitude=91), "Latitude"),
    "empty body": ("", "body"),
    "not JSON": ('{"MedInc": ', "body"),
    "a list": ("[]", "body"),
    "a number": ("1", "body"),
    "lone surrogate": (body(Colour=1)[:-1] + ', "\\ud800": 1}', "body"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bad_input_is_refused_by_name_and_not_logged(client: TestClient, settings: Settings, case: str) -> None:
    content, named = BAD_BODIES[case]
    answer = client.post("/predict", content=content, headers=JSON)
    assert answer.status_code == 422
    detail = json.loads(answer.content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["detail"]
    assert named in [part for problem in detail for part in problem["loc"]]
    assert logged(settings) == []


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"\x80", b"[" * 60_000, b'{"MedInc": ' + b"1" * 5000 + b"}"])
def test_json_that_cannot_be_read_is_refused_in_the_form_of_all_refusals(client: TestClient, content: bytes) -> None:
    answer = client.post("/predict", content=content, headers=JSON)
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["type"] == "json_invalid"
    assert problem["msg"].startswith("the body is not JSON: ")


def test_a_wrong_row_of_a_batch_is_named(client: TestClient, settings: Settings) -> None:
    answer = client.post("/predict/batch", json=[EXAMPLE, EXAMPLE | {"Latitude": 91}])
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", 1, "Latitude"]
    assert logged(settings) == []


def test_a_batch_full_of_errors_is_answered_in_short(client: TestClient) -> None:
    answer = client.post("/predict/batch", json=[{}] * 1000)
    assert answer.status_code == 422
    assert len(answer.json()["detail"]) == 101
    assert "7900 more" in answer.json()["detail"][-1]["msg"]


@pytest.mark.parametrize("rows", [0, MAX_BATCH_ROWS + 1])
def test_a_batch_of_no_or_too_many_rows_is_refused(client: TestClient, rows: int) -> None:
    assert client.post("/predict/batch", json=[EXAMPLE] * rows).status_code == 422


@pytest.mark.parametrize("sent", ["text/plain", "application/x-www-form-urlencoded", "text/csv"])
def test_another_content_type_is_refused(client: TestClient, settings: Settings, sent: str) -> None:
    answer = client.post("/predict", content=body(), headers={"content-type": sent})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]
    assert logged(settings) == []


def test_another_method_is_refused(client: TestClient) -> None:
    answer = client.get("/predict")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "most", "words"),
    [("/predict", 64 << 10, "64 KB"), ("/feedback", 1 << 20, "1 MB"), ("/predict/batch", 10 << 20, "10 MB")],
)
def test_a_body_over_the_limit_is_refused(
    client: TestClient, settings: Settings, path: str, most: int, words: str
) -> None:
    announced = client.post(path, content=b" " * (most + 1), headers=JSON)
    counted = client.post(path, content=(b" " * (most // 8) for _ in range(9)), headers=JSON)
    for answer in (announced, counted):
        assert answer.status_code == 413
        assert words in answer.json()["detail"]
    assert logged(settings) == []


def test_without_a_log_predictions_are_answered_and_no_file_is_made(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, test_mode=True, prediction_log=False)
    with TestClient(create_app(settings)) as client:
        assert client.post("/predict", json=EXAMPLE).status_code == 200
        assert client.get("/ready").json()["prediction_log"] == "off"
    assert not (tmp_path / "predictions.db").exists()


def test_the_schema_of_requests_is_the_one_of_the_table() -> None:
    table = load_table()
    rows = TypeAdapter(Features)
    schema = rows.json_schema()
    assert schema["title"] == table.type == "HouseFeatures"
    assert tuple(schema["properties"]) == tuple(schema["required"]) == table.feature_names
    assert schema["additionalProperties"] is False
    for column in table.features:
        field = schema["properties"][column.name]
        assert (field["minimum"], field["maximum"]) == (column.minimum, column.maximum)
        assert column.unit in field["description"]
    assert rows.validate_python(schema["examples"][0]) == EXAMPLE
