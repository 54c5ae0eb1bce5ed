"""Health, readiness, model page, metrics, documentation, request ids, crashes."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from loguru import logger

from app import main, prediction_writer
from app.champion import Champion, dummy_champion
from app.main import create_app
from tableloop.model.intervals import Answers
from tableloop.settings import Settings
from tableloop.state.layout import Layout
from tests.unit.app.conftest import EXAMPLE
from tests.waiting import wait_for


def test_ready_and_model_name_the_model(client: TestClient) -> None:
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert (ready.json()["model_version"], ready.json()["source"]) == ("dummy", "dummy")
    card = client.get("/model").json()
    assert (card["name"], card["alias"], card["version"]) == ("HousePriceModel", "Production", "dummy")
    assert (card["engine"], card["limits"]) == ("dummy", None)


def test_ready_says_that_predictions_cannot_be_stored_though_nobody_asks_for_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "STORE_SECONDS", 0.1)
    monkeypatch.setattr(prediction_writer, "TRY_SECONDS", 0.1)
    with (
        TestClient(create_app(settings)) as client,
        closing(sqlite3.connect(Layout(settings.state_dir).database)) as other,
    ):
        assert "prediction_log_writable 1.0" in client.get("/metrics").text
        other.execute("BEGIN IMMEDIATE")
        wait_for("a word about it", lambda: client.get("/ready").status_code == 503)
        ready = client.get("/ready").json()
        assert (ready["status"], ready["model_version"]) == ("not ready", "dummy")
        assert "predictions.db cannot be written (" in ready["detail"] == ready["prediction_log"]
        assert "prediction_log_writable 0.0" in client.get("/metrics").text
        assert client.get("/overview").json()["ready"]["status"] == "not ready"
        assert client.get("/health").status_code == 200
        other.execute("ROLLBACK")
        wait_for("the end of it", lambda: client.get("/ready").status_code == 200)
        assert "prediction_log_writable 1.0" in client.get("/metrics").text


def test_a_state_that_is_gone_is_not_made_again_by_the_look_at_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_writer, "TRY_SECONDS", 0.1)
    with TestClient(create_app(settings)) as client:
        shutil.rmtree(settings.state_dir)
        wait_for("a word about it", lambda: client.get("/ready").status_code == 503)
        assert "No such file or directory" in client.get("/ready").json()["detail"]
        assert not settings.state_dir.exists()


def test_health_passes_on_what_the_watchdog_saw(client: TestClient, settings: Settings) -> None:
    assert client.get("/health").json() == {"status": "ok", "checked_at": None, "services": {}}
    services = {"grafana": {"state": "missing", "detail": "no grafana on PATH", "address": ""}}
    services |= {"mlflow": {"state": "up", "detail": "", "address": ""}}
    used = {"memory_bytes": 5_000_000, "cpu_seconds": 1.5, "uptime_seconds": 60.0}
    report = {"checked_at": "2026-01-01T00:00:00+00:00", "services": services, "processes": {"mlflow": used}}
    (settings.state_dir / "run").mkdir()
    (settings.state_dir / "run" / "health.json").write_text(json.dumps(report))
    shown = {name: value for name, value in report.items() if name != "processes"}
    assert client.get("/health").json() == {"status": "ok", **shown}
    metrics = client.get("/metrics").text
    assert 'service_up{service="grafana"}' not in metrics  # what is not run here is not down
    assert 'service_up{service="mlflow"} 1.0' in metrics
    assert 'service_memory_bytes{service="mlflow"} 5e+06' in metrics
    assert 'service_cpu_seconds_total{service="mlflow"} 1.5' in metrics
    assert 'service_uptime_seconds{service="mlflow"} 60.0' in metrics
    (settings.state_dir / "run" / "health.json").write_text("{")
    assert client.get("/health").json()["services"] == {}
    assert client.get("/metrics").status_code == 200


def test_metrics_count_predictions(client: TestClient) -> None:
    client.post("/predict", json=EXAMPLE)
    client.post("/predict/batch", json=[EXAMPLE] * 3)
    client.post("/predict", json={})
    client.get("/nowhere")
    lines = client.get("/metrics").text.splitlines()
    assert 'predictions_total{model_version="dummy"} 4.0' in lines
    assert "predicted_house_value_count 4.0" in lines
    assert 'model_info{family="dummy",run_id="none",version="dummy"} 1.0' in lines
    assert 'http_requests_total{handler="/predict",method="POST",status="200"} 1.0' in lines
    assert 'http_requests_total{handler="/predict",method="POST",status="422"} 1.0' in lines
    assert 'http_requests_total{handler="none",method="GET",status="404"} 1.0' in lines
    assert any(line.startswith('http_request_duration_highr_seconds_bucket{le="0.0005"}') for line in lines)
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert 'model_interval_coverage{model_version="dummy"} 0.9' in lines
    size = next(float(line.split()[1]) for line in lines if line.startswith("state_disk_total_bytes "))
    free = next(float(line.split()[1]) for line in lines if line.startswith("state_disk_free_bytes "))
    assert 0 < free < size


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/"])
def test_pages_load_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert not re.search(r"https?://|[\"'(]//", page.text)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loaded
    for resource in loaded:
        if not resource.startswith("data:"):
            assert client.get(f"/{resource.lstrip('/')}").status_code == 200


def test_a_sane_request_id_is_kept_and_another_is_replaced(client: TestClient) -> None:
    assert client.get("/health", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    for bad in ("a b", "x" * 129, '"', ""):
        made = client.get("/health", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert client.get("/nowhere").headers["x-request-id"]


def test_a_model_that_fails_is_a_500_with_the_request_id_and_one_traceback(settings: Settings) -> None:
    app: FastAPI = create_app(settings)
    messages: list[str] = []
    sink = logger.add(messages.append, format="{message}")
    with TestClient(app, raise_server_exceptions=False) as client:
        app.state.parts.predictor.keeper.current = failing(dummy_champion())
        answer = client.post("/predict", json=EXAMPLE, headers={"X-Request-ID": "crash-1"})
        batch = client.post("/predict/batch", json=[EXAMPLE])
    logger.remove(sink)
    assert answer.status_code == batch.status_code == 500
    assert "crash-1" in answer.json()["detail"]
    told = [message for message in messages if "crash-1" in message and "request crash-1 failed" in message]
    assert len(told) == 1
    assert "ArithmeticError" in told[0]


def failing(champion: Champion) -> Champion:
    from dataclasses import replace

    nothing = np.array([np.nan])
    return replace(champion, predict=lambda _rows: Answers(nothing, nothing, nothing, None))
