"""Texts sent as levels of a category, and questions about curves: nothing of it runs, breaks or stays out."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import hires
from tests.integration.service.conftest import Service, StartService

EXAMPLE = {field["name"]: field["example"] for field in hires.TABLE["fields"] if field["name"] != "hires"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def service(start_service: StartService, tmp_path: Path) -> Service:
    return start_service(TABLE=hires.write(tmp_path / "table"))


@pytest.mark.parametrize(
    "level",
    [
        "'; DROP TABLE predictions; --",
        "<script>alert(1)</script>",
        "=HYPERLINK(1)",
        "a\nb\r\n\x00\x1b[31m",
        "\u202eright to left",
        "x" * 200,
    ],
)
def test_a_strange_level_is_answered_with_a_warning_and_stored_as_it_is(service: Service, level: str) -> None:
    answer = service.client.post("/predict", json=EXAMPLE | {"weather": level})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["warnings"]) == 1
    (row,) = service.log_rows()
    assert row["weather"] == level
    assert service.get("/rows/alike").status_code == 405  # it answers on
    assert level not in (service.state_dir / "logs" / "app.log").read_text()
    assert service.client.post("/predict/batch", json=[EXAMPLE | {"weather": level}] * 2).status_code == 200


@pytest.mark.parametrize("level", ['"\\ud800"', '"' + "x" * 201 + '"', "7", "[]", "{}", "true", "1e999"])
def test_what_is_no_text_of_a_level_is_refused(service: Service, level: str) -> None:
    body = json.dumps(EXAMPLE | {"weather": "LEVEL"}).replace('"LEVEL"', level)
    for path, sent in (("/predict", body), ("/predict/batch", f"[{body}]"), ("/curves", body), ("/rows/alike", body)):
        answer = service.client.post(path, content=sent, headers=JSON)
        assert answer.status_code == 422, (path, answer.text)
    assert service.log_rows() == []


def test_a_fraction_of_an_integer_is_refused_in_plain_words(service: Service) -> None:
    answer = service.client.post("/predict", json=EXAMPLE | {"gusts": 1.5})
    assert answer.json()["detail"][0]["msg"] == "Input should be a whole number"


def test_many_questions_about_curves_leave_others_their_answers(service: Service) -> None:
    until = time.monotonic() + 3

    def flood() -> int:
        count = 0
        with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=20) as client:
            while time.monotonic() < until:
                assert client.post("/curves", json=EXAMPLE).status_code == 200
                count += 1
        return count

    with ThreadPoolExecutor(16) as pool:
        floods = [pool.submit(flood) for _ in range(16)]
        slowest, asked = 0.0, 0
        while time.monotonic() < until - 0.5:
            started = time.monotonic()
            assert service.client.post("/predict", json=EXAMPLE).status_code == 200
            slowest, asked = max(slowest, time.monotonic() - started), asked + 1
        assert sum(future.result() for future in floods) > 16
    assert slowest < 2
    assert len(service.log_rows()) == asked  # curves are written nowhere
