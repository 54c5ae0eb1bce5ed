"""Whoever reaches the service's port tries to label, to guess, and to come under another name."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app import access
from app.main import create_app
from tableloop.api_keys import add, remove
from tableloop.credentials import basic, write_secret
from tableloop.settings import Settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.unit.app.test_drift_metrics import REPORT, write

EXAMPLE = load_table().example
PASSWORD = "the administrator's"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(access, "WRONG_LOGIN_SECONDS", 0.0)
    monkeypatch.setattr(access, "LOOK_SECONDS", 0.0)
    write_secret(Layout(tmp_path).admin_password, PASSWORD)
    return Settings(state_dir=tmp_path, test_mode=True)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


def label(client: TestClient, headers: dict[str, str]) -> httpx.Response:
    made = client.post("/predict", json=EXAMPLE, headers=headers).json()["prediction_id"]
    answer: httpx.Response = client.post(
        "/feedback", json={"prediction_id": made, "actual_value": 2.0}, headers=headers
    )
    return answer


def test_nobody_labels_without_a_key(client: TestClient, settings: Settings) -> None:
    key = add(settings, "shop", "predict")
    remove(settings, "shop")
    attempts: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer none"},
        {"Authorization": f"Bearer {key}"},
        {"X-API-Key": "none"},
        {"Authorization": basic("wrong")},
        {"Authorization": "Basic"},
        {"Authorization": "Negotiate abc"},
    )
    for headers in attempts:
        answer = label(client, headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "make key NAME=... SCOPE=label" in answer.json()["detail"]
    assert Store(settings.state_dir / "predictions.db").count_unused_labels() == 0


def test_a_key_labels_within_its_scope_and_the_label_has_its_name(client: TestClient, settings: Settings) -> None:
    keys = {name: add(settings, name, scope) for name, scope in (("crm", "label"), ("erp", "admin"))}
    assert label(client, {"Authorization": f"Bearer {keys['crm']}"}).status_code == 201
    assert label(client, {"X-API-Key": keys["erp"]}).status_code == 201
    assert label(client, {"Authorization": basic(PASSWORD)}).status_code == 201
    rows = Store(settings.state_dir / "predictions.db").labelled_rows("actual")
    assert [row["sender"] for row in rows] == ["crm", "erp (admin)", "administrator"]


def test_a_key_to_predict_closes_predicting_and_does_not_label(client: TestClient, settings: Settings) -> None:
    assert client.post("/predict", json=EXAMPLE).status_code == 200
    key = {"Authorization": f"Bearer {add(settings, 'shop', 'predict')}"}
    row = ",".join(EXAMPLE) + "\n" + ",".join(map(str, EXAMPLE.values()))
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        ("/predict", {"json": EXAMPLE}),
        ("/predict/batch", {"json": [EXAMPLE]}),
        ("/predict/batch", {"content": row, "headers": {"content-type": "text/csv"}}),
        ("/predict", {"json": {"not": "a row"}}),
    )
    for path, sent in calls:
        assert client.post(path, **sent).status_code == 401
        sent["headers"] = sent.get("headers", {}) | key
        assert client.post(path, **sent).status_code in (200, 422)
    assert client.get("/model").status_code == 200
    refused = client.post("/feedback", json={"prediction_id": "a", "actual_value": 2.0}, headers=key)
    assert refused.status_code == 403
    assert refused.json()["detail"] == "the key shop is of scope predict, and this call needs one of label"


def test_keys_of_the_setting_close_predicting_too(settings: Settings) -> None:
    given = settings.model_copy(update={"api_keys": f"shop:label:{'0' * 64}"})
    with TestClient(create_app(given)) as client:
        assert client.post("/predict", json=EXAMPLE).status_code == 401


def test_one_list_of_ids_tells_nothing_about_the_next(client: TestClient) -> None:
    """Their 74 random bits come from the system's own source, where a Mersenne Twister would give itself away."""
    random.seed(0)
    first, second = (
        {answer["prediction_id"][15:] for answer in client.post("/predict/batch", json=[EXAMPLE] * 700).json()}
        for _ in range(2)
    )
    assert len(first | second) == 1400
    assert "random" not in sys.modules["app.identifiers"].__dict__


@pytest.mark.parametrize("host", ["evil.example.com", "127.0.0.1.nip.io:8000", "printer.local", "[::1"])
def test_a_page_under_another_name_gets_nothing(client: TestClient, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/metrics"), ("POST", "/predict")):
        answer = client.request(method, path, json=EXAMPLE if method == "POST" else None, headers={"host": host})
        assert answer.status_code == 403
        assert "ALLOWED_HOSTS" in answer.json()["detail"]


def test_a_foreign_page_sends_nothing(client: TestClient) -> None:
    for origin in ("http://evil.example.com", "null"):
        answer = client.post("/predict", json=EXAMPLE, headers={"origin": origin})
        assert answer.status_code == 403
    assert client.post("/predict", json=EXAMPLE, headers={"origin": "http://testserver"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/drift?format=html"])
def test_every_page_says_what_it_may_load(client: TestClient, settings: Settings, path: str) -> None:
    if path.startswith("/drift"):
        write(settings, REPORT)
    policy = client.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy or "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy


def test_a_name_of_the_settings_is_answered(settings: Settings) -> None:
    named = settings.model_copy(update={"allowed_hosts": "ml.example.com"})
    with TestClient(create_app(named)) as client:
        assert client.get("/health", headers={"host": "ml.example.com"}).status_code == 200
