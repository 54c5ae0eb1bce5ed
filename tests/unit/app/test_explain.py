"""`/explain` with the dummy model: what it answers, whom it refuses, and what it remembers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.champion import Champion, Matrix
from app.explanations import MOST_OF_ONE, REMEMBERED
from app.main import create_app
from tableloop import api_keys
from tableloop.model.intervals import Answers
from tableloop.settings import Settings
from tableloop.table import load_table
from tests.unit.app.conftest import EXAMPLE

TABLE = load_table()
ANSWER = TABLE.answer


def sum_of_squares(rows: Matrix) -> Answers:
    values = (rows**2).sum(axis=1) / 1e6
    return Answers(values, values - 1, values + 1, None)


def serving(
    client: TestClient, predict: Callable[[Matrix], Answers] = sum_of_squares, version: str = "7"
) -> Champion:
    """Have the service serve a model, and return it."""
    app = client.app
    assert isinstance(app, FastAPI)
    keeper = app.state.parts.predictor.keeper
    random = np.random.default_rng(0)
    reference = keeper.current.reference * random.uniform(0.5, 1.5, (200, len(TABLE.features)))
    keeper.current = replace(keeper.current, predict=predict, version=version, reference=reference)
    champion: Champion = keeper.current
    return champion


def test_the_contributions_and_the_average_are_the_prediction(client: TestClient) -> None:
    serving(client)
    predicted = client.post("/predict", json=EXAMPLE).json()
    answer = client.post("/explain", json=EXAMPLE).json()
    assert answer[ANSWER] == pytest.approx(predicted[ANSWER], rel=1e-12)
    assert answer["interval"] == predicted["interval"]
    parts = [part["contribution"] for part in answer["contributions"]]
    assert answer["base_value"] + sum(parts) == pytest.approx(answer[ANSWER], abs=1e-9)
    assert parts == sorted(parts, key=lambda part: -abs(part))
    assert {part["standard_error"] for part in answer["contributions"]} == {None}
    assert answer["model_version"] == "7"
    assert answer["prediction_id"] is answer["answered_by"] is None


def test_the_columns_of_a_place_are_one_input(client: TestClient) -> None:
    answer = client.post("/explain", json=EXAMPLE).json()
    names = {part["name"]: set(part["values"]) for part in answer["contributions"]}
    assert len(names) == 7
    assert names["Latitude_Longitude"] == {"Latitude", "Longitude"}


def test_an_earlier_prediction_is_explained_by_the_version_that_serves_now(client: TestClient) -> None:
    serving(client, version="7")
    prediction_id = client.post("/predict", json=EXAMPLE).json()["prediction_id"]
    answer = client.post("/explain", json={"prediction_id": prediction_id}).json()
    assert (answer["prediction_id"], answer["answered_by"], answer["warnings"]) == (prediction_id, "7", [])
    serving(client, version="8")
    later = client.post("/explain", json={"prediction_id": prediction_id}).json()
    assert (later["model_version"], later["answered_by"]) == ("8", "7")
    (warning,) = later["warnings"]
    assert warning.startswith("version 7 answered")


def test_what_is_not_there_cannot_be_explained(client: TestClient) -> None:
    answer = client.post("/explain", json={"prediction_id": "nobody"})
    assert (answer.status_code, answer.json()) == (404, {"detail": "there is no prediction nobody in the log"})
    champion = serving(client)
    client.app.state.parts.predictor.keeper.current = replace(champion, reference=None)  # type: ignore[attr-defined]
    answer = client.post("/explain", json=EXAMPLE)
    assert answer.status_code == 404
    assert "keeps no training rows" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"prediction_id": 5}, ["body", "prediction", "prediction_id"]),
        ({"prediction_id": "x", "MedInc": 3}, ["body", "prediction", "MedInc"]),
        (EXAMPLE | {"MedInc": -1}, ["body", "row", "MedInc"]),
        ([EXAMPLE], ["body", "row"]),
    ],
    ids=["no id", "both", "impossible", "a list"],
)
def test_what_is_neither_a_row_nor_an_id_is_refused(client: TestClient, body: object, where: list[str]) -> None:
    answer = client.post("/explain", json=body)
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, where)


def test_nothing_is_logged(client: TestClient) -> None:
    client.post("/explain", json=EXAMPLE)
    assert client.app.state.parts.store.count_predictions() == 0  # type: ignore[attr-defined]


def test_who_may_not_predict_gets_no_reasons(settings: Settings) -> None:
    api_keys.add(settings, "crm", "predict")
    with TestClient(create_app(settings)) as client:
        assert client.post("/explain", json=EXAMPLE).status_code == 401


def test_a_row_is_computed_once_for_a_version(client: TestClient) -> None:
    calls: list[int] = []

    def counted(rows: Matrix) -> Answers:
        calls.append(len(rows))
        return sum_of_squares(rows)

    serving(client, counted)
    first, after = client.post("/explain", json=EXAMPLE).json(), len(calls)
    assert client.post("/explain", json=EXAMPLE).json() == first
    assert len(calls) == after
    serving(client, counted, version="8")
    client.post("/explain", json=EXAMPLE)
    assert len(calls) > after


def test_what_is_remembered_is_bounded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.explanations.REMEMBERED", 3)
    for income in range(1, 9):
        assert client.post("/explain", json=EXAMPLE | {"MedInc": income}).status_code == 200
    assert len(client.app.state.parts.explanations._newest) == 3  # type: ignore[attr-defined]
    assert REMEMBERED < 10_000


def test_a_flood_is_refused_and_predictions_go_on(client: TestClient) -> None:
    going, may_end = threading.Event(), threading.Event()

    def slow(rows: Matrix) -> Answers:
        if len(rows) > 1:
            going.set()
            may_end.wait(30)
        return sum_of_squares(rows)

    serving(client, slow)

    def ask(income: int) -> int:
        return int(client.post("/explain", json=EXAMPLE | {"MedInc": income}).status_code)

    with ThreadPoolExecutor(MOST_OF_ONE) as others:
        asked = [others.submit(ask, income) for income in range(1, 1 + MOST_OF_ONE)]
        assert going.wait(30)
        parts = client.app.state.parts  # type: ignore[attr-defined]
        while parts.explanations._bound._held.total() < MOST_OF_ONE:
            assert not any(answer.done() for answer in asked)
        refused = client.post("/explain", json=EXAMPLE)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert f"{MOST_OF_ONE} explanations" in refused.json()["detail"]
        assert client.post("/predict", json=EXAMPLE).status_code == 200
        may_end.set()
        assert [answer.result() for answer in asked] == [200] * MOST_OF_ONE
    assert client.post("/explain", json=EXAMPLE).status_code == 200


# -- files -----------------------------------------------------------------------------------------------------------

HEADER = ",".join(TABLE.feature_names)
CSV = {"content-type": "text/csv"}


def lines(*rows: dict[str, float]) -> str:
    return "\n".join([HEADER, *(",".join(str(row[name]) for name in TABLE.feature_names) for row in rows), ""])


def test_a_file_is_answered_with_the_same_contributions(client: TestClient) -> None:
    serving(client)
    rows = [EXAMPLE | {"MedInc": float(income)} for income in range(1, 46)]  # more than are sent together
    answer = client.post("/predict/batch?explain=true", content=lines(*rows), headers=CSV)
    assert answer.status_code == 200
    head, *written = (line.split(",") for line in answer.text.replace('"', "").splitlines())
    assert len(written) == len(rows)
    for row, values in zip(rows, written, strict=True):
        found = dict(zip(head, values, strict=True))
        why = client.post("/explain", json=row).json()
        assert float(found["base_value"]) == why["base_value"]
        for part in why["contributions"]:
            assert float(found[f"contribution_{part['name']}"]) == part["contribution"]
    assert client.app.state.parts.store.count_predictions() == len(rows)  # type: ignore[attr-defined]
    plain = client.post("/predict/batch?explain=false", content=lines(*rows), headers=CSV)
    assert "base_value" not in plain.text


def test_too_many_rows_for_reasons_are_refused_before_any_is_predicted(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.file_predictions.EXPLAINED_ROWS", 2)
    answer = client.post("/predict/batch?explain=true", content=lines(*[EXAMPLE] * 3), headers=CSV)
    assert answer.status_code == 422
    assert "at most 2 rows; there are 3" in answer.json()["detail"][0]["msg"]
    assert client.app.state.parts.store.count_predictions() == 0  # type: ignore[attr-defined]


def test_reasons_are_for_files_and_their_columns_must_be_free(client: TestClient) -> None:
    listed = client.post("/predict/batch?explain=true", json=[EXAMPLE]).json()
    assert listed[0].keys() == client.post("/predict", json=EXAMPLE).json().keys()
    for explain, body, headers in (
        ("maybe", json.dumps([EXAMPLE]), {"content-type": "application/json"}),
        ("maybe", lines(EXAMPLE), CSV),
    ):
        answer = client.post(f"/predict/batch?explain={explain}", content=body, headers=headers)
        assert answer.status_code == 422
    taken = f"{HEADER},base_value\n{','.join(str(value) for value in EXAMPLE.values())},1\n"
    answer = client.post("/predict/batch?explain=true", content=taken, headers=CSV)
    assert answer.json()["detail"][0]["loc"] == ["body", "base_value"]
    assert client.post("/predict/batch", content=taken, headers=CSV).status_code == 200
