"""The short way of a good request and FastAPI's whole way say the same."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.unit.app.conftest import EXAMPLE

SHORT, WHOLE = "application/json", "application/json; charset=utf-8"


def answer(client: TestClient, path: str, body: Any, content_type: str) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else None
    extra = {"content": content} if content is not None else {"json": body}
    response = client.post(path, headers={"content-type": content_type}, **extra)
    said = response.json()
    for prediction in said if isinstance(said, list) else [said]:
        prediction.pop("prediction_id", None)
    return response.status_code, said


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/predict", EXAMPLE, 200),
        ("/predict", EXAMPLE | {"HouseAge": 30}, 200),  # a whole number is a number
        ("/predict", dict(reversed(EXAMPLE.items())), 200),
        ("/predict", EXAMPLE | {"Latitude": 91}, 422),
        ("/predict", EXAMPLE | {"Latitude": "37.8"}, 422),
        ("/predict", EXAMPLE | {"Latitude": True}, 422),
        ("/predict", [EXAMPLE], 422),
        ("/predict", b"{", 422),
        ("/predict", b'{"MedInc": NaN}', 422),
        ("/predict", b"\xff", 422),
        ("/predict", b"", 422),
        ("/predict/batch", [EXAMPLE, EXAMPLE | {"MedInc": 2}], 200),
        ("/predict/batch", [], 422),
        ("/predict/batch", [EXAMPLE, EXAMPLE | {"Population": -1}], 422),
    ],
)
def test_both_ways_give_the_same_answer(client: TestClient, path: str, body: Any, status: int) -> None:
    short = answer(client, path, body, SHORT)
    assert short == answer(client, path, body, WHOLE)
    assert short[0] == status
