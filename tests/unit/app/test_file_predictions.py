"""CSV and Parquet in and out of `/predict/batch`."""

from __future__ import annotations

import io
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from app import middleware
from app.champion import dummy_champion
from app.main import create_app
from tableloop.settings import Settings
from tests.unit.app.conftest import EXAMPLE

CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
ADDED = ["predicted_median_house_value", "low", "high", "model_version", "prediction_id"]


def frame(rows: int) -> pd.DataFrame:
    """Return valid rows, each with its number (from 1) as median income, and with an extra column."""
    table = pd.DataFrame([EXAMPLE] * rows)
    table["MedInc"] = [float(row % 900 + 1) for row in range(rows)]
    return table.assign(town=[f"town {row}" for row in range(rows)])


def content(table: pd.DataFrame, media_type: str) -> bytes:
    file = io.BytesIO()
    table.to_csv(file, index=False) if media_type == CSV else table.to_parquet(file, index=False)
    return file.getvalue()


def table_of(answer: bytes, media_type: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(answer)) if media_type == CSV else pd.read_parquet(io.BytesIO(answer))


def logged(settings: Settings) -> list[tuple[str, float]]:
    with sqlite3.connect(settings.state_dir / "predictions.db") as connection:
        return connection.execute("SELECT prediction_id, MedInc FROM predictions ORDER BY id").fetchall()


@pytest.mark.parametrize(
    ("sent", "accept", "got"),
    [
        (CSV, None, CSV),
        (PARQUET, "*/*", PARQUET),
        (CSV, PARQUET, PARQUET),
        (PARQUET, f"text/html, {CSV};q=0.5", CSV),
        (f"{CSV}; charset=utf-8", f"{PARQUET};q=0, text/*", CSV),
        (CSV, f"{CSV};q=0.4, {PARQUET};q=0.9", PARQUET),
    ],
)
def test_a_file_is_answered_by_a_file(
    client: TestClient, settings: Settings, sent: str, accept: str | None, got: str
) -> None:
    table = frame(5000 if sent == got == CSV else 3)
    headers = {"Content-Type": sent} | ({"Accept": accept} if accept else {})
    answer = client.post("/predict/batch", content=content(table, sent.split(";", maxsplit=1)[0]), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].split(";")[0] == got
    result = table_of(answer.content, got)
    assert list(result.columns) == [*table.columns, *ADDED]
    pd.testing.assert_frame_equal(result[list(table.columns)], table, check_dtype=False)
    assert result["predicted_median_house_value"].tolist() == pytest.approx(table["MedInc"].tolist())
    assert (result["low"] < result["high"]).all()
    assert set(result["model_version"]) == {"dummy"}
    assert logged(settings) == list(zip(result["prediction_id"], table["MedInc"], strict=True))
    assert list((settings.state_dir / "spool").iterdir()) == []


def test_files_are_counted_like_other_predictions(client: TestClient) -> None:
    client.post("/predict/batch", content=content(frame(7), CSV), headers={"Content-Type": CSV})
    assert 'predictions_total{model_version="dummy"} 7.0' in client.get("/metrics").text


@pytest.mark.parametrize("media_type", [CSV, PARQUET])
def test_a_wrong_row_far_down_refuses_the_file_before_anything_is_answered_or_logged(
    client: TestClient, settings: Settings, media_type: str
) -> None:
    table = frame(9000)
    table["MedInc"] = 1.0
    table.loc[8765, "AveRooms"] = -1.0
    answer = client.post("/predict/batch", content=content(table, media_type), headers={"Content-Type": media_type})
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == ["body", "row 8766", "AveRooms"]
    line = " (line 8767 of the file)" if media_type == CSV else ""
    assert problem["msg"] == f"the least possible is 0.01{line}"
    assert float(problem["input"]) == -1.0
    assert logged(settings) == []


def test_missing_columns_are_named(client: TestClient) -> None:
    table = frame(3).drop(columns=["Latitude", "Longitude"])
    answer = client.post("/predict/batch", content=content(table, CSV), headers={"Content-Type": CSV})
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == ["body"]
    assert problem["msg"].startswith(
        "the columns Latitude and Longitude are missing; the file has MedInc, HouseAge, "
    )


def test_what_is_not_listed_is_counted(client: TestClient) -> None:
    table = frame(5_000).assign(Latitude=91.0)
    for media_type in (CSV, PARQUET):
        answer = client.post(
            "/predict/batch", content=content(table, media_type), headers={"Content-Type": media_type}
        )
        *listed, last = answer.json()["detail"]
        assert len(listed) == 100
        assert last == {"type": "more", "loc": ["body"], "msg": "4900 more problems are not listed"}


def test_what_the_answer_cannot_hold_is_refused_before_it_begins(client: TestClient, settings: Settings) -> None:
    table = frame(3).assign(blob=[b"a", b"\xff", b"c"])
    headers = {"Content-Type": PARQUET, "Accept": CSV}
    answer = client.post("/predict/batch", content=content(table, PARQUET), headers=headers)
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["loc"] == ["body", "blob"]
    assert logged(settings) == []


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", "UTF-16", "utf-8", "us-ascii"])
def test_the_charset_of_a_file_is_read(client: TestClient, charset: str) -> None:
    table = frame(4_000).assign(town="Canada" if charset == "us-ascii" else "Cañada")
    sent = content(table, CSV).decode().encode(charset)
    answer = client.post("/predict/batch", content=sent, headers={"Content-Type": f'{CSV}; charset="{charset}"'})
    assert answer.status_code == 200, answer.text
    assert set(table_of(answer.content, CSV)["town"]) == set(table["town"])


@pytest.mark.parametrize(
    ("parameter", "why"),
    [
        ("charset=klingon", "the charset klingon is not read"),
        ("charset=base64", "the charset base64 is not read"),
        ("header=absent", "a CSV file needs a header"),
    ],
)
def test_what_a_content_type_says_is_not_ignored(client: TestClient, parameter: str, why: str) -> None:
    answer = client.post(
        "/predict/batch", content=content(frame(1), CSV), headers={"Content-Type": f"{CSV}; {parameter}"}
    )
    assert answer.status_code == 415
    assert why in answer.json()["detail"]


def test_text_that_is_not_in_its_charset(client: TestClient) -> None:
    headers = {"Content-Type": f"{CSV}; charset=utf-16"}
    answer = client.post("/predict/batch", content=content(frame(1), CSV) + b"x", headers=headers)
    assert answer.status_code == 422
    assert "not in the charset that it names" in answer.json()["detail"][0]["msg"]


def test_an_answer_that_nobody_accepts(client: TestClient) -> None:
    headers = {"Content-Type": CSV, "Accept": "application/json"}
    answer = client.post("/predict/batch", content=content(frame(1), CSV), headers=headers)
    assert answer.status_code == 406
    assert "text/csv or application/vnd.apache.parquet" in answer.json()["detail"]


def test_files_have_a_limit_of_their_own(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    eleven_mb = content(frame(1), CSV) + b"\n" * 11 * 1024**2
    assert client.post("/predict/batch", content=eleven_mb, headers={"Content-Type": CSV}).status_code == 200
    assert client.post("/predict", content=eleven_mb, headers={"Content-Type": CSV}).status_code == 413
    monkeypatch.setattr(middleware, "MAX_FILE_BYTES", 10 * 1024**2)
    for chunked in (eleven_mb, (eleven_mb[start : start + 2**20] for start in range(0, len(eleven_mb), 2**20))):
        answer = client.post("/predict/batch", content=chunked, headers={"Content-Type": CSV})
        assert answer.status_code == 413


def test_another_type_of_file_is_refused_by_naming_those_there_are(client: TestClient) -> None:
    answer = client.post("/predict/batch", content=b"x", headers={"Content-Type": "application/x-parquet"})
    assert answer.status_code == 415
    assert "application/json, text/csv or application/vnd.apache.parquet" in answer.json()["detail"]


def test_without_a_log_files_are_answered_too(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(state_dir=tmp_path, test_mode=True, prediction_log=False))) as client:
        answer = client.post("/predict/batch", content=content(frame(4), CSV), headers={"Content-Type": CSV})
    assert len(table_of(answer.content, CSV)) == 4
    assert not (tmp_path / "predictions.db").exists()


def test_a_failing_model_cuts_the_answer_off_and_what_was_answered_is_logged(settings: Settings) -> None:
    app = create_app(settings)
    dummy = dummy_champion()
    sick = replace(dummy, predict=lambda rows: dummy.predict(rows * np.nan if rows[0, 0] == 999 else rows))
    table = frame(5000)
    table.loc[4096, "MedInc"] = 999
    with TestClient(app) as client:
        app.state.parts.predictor.keeper.current = sick
        answer = client.post("/predict/batch", content=content(table, CSV), headers={"Content-Type": CSV})
    result = table_of(answer.content, CSV)
    assert len(result) == 4096
    assert [row[0] for row in logged(settings)] == result["prediction_id"].tolist()


def test_the_documentation_names_the_files(client: TestClient) -> None:
    call = client.get("/openapi.json").json()["paths"]["/predict/batch"]["post"]
    assert set(call["requestBody"]["content"]) == {"application/json", CSV, PARQUET}
    assert {CSV, PARQUET} <= set(call["responses"]["200"]["content"])
