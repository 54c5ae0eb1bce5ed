"""An appliance with a real Grafana, and questions to it over its HTTP API."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tableloop.credentials import read_password
from tableloop.state.layout import Layout
from tests.dashboards import SECONDS, give_labels_and_rows, give_traffic
from tests.integration.conftest import Appliance, wait_until


@dataclass(frozen=True)
class Grafana:
    """A running Grafana, asked as a visitor who has not logged in, or as `admin` with a password."""

    url: str
    password: str

    def call(self, method: str, path: str, body: object = None, *, password: str | None = None) -> httpx.Response:
        login = None if password is None else ("admin", password)
        return httpx.request(method, self.url + path, json=body, auth=login, timeout=30)

    def get(self, path: str, *, password: str | None = None) -> Any:
        answer = self.call("GET", path, password=password)
        assert answer.status_code == http.client.OK, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def is_healthy(self) -> bool:
        try:
            return bool(self.get("/api/health")["database"] == "ok")
        except httpx.TransportError:
            return False

    def series(self, target: dict[str, Any]) -> int:
        """Return how many series a visitor's browser would draw for a panel's query, of the last `SECONDS`."""
        asked = target | {"intervalMs": 2000, "maxDataPoints": 1000}
        body = {"queries": [asked], "from": f"now-{SECONDS}s", "to": "now"}
        answer = self.call("POST", "/api/ds/query", body)
        assert answer.status_code == http.client.OK, f"{target['expr']}: {answer.status_code} {answer.text}"
        result = answer.json()["results"][target["refId"]]
        assert "error" not in result, f"{target['expr']}: {result['error']}"
        return drawn(result["frames"])


def drawn(frames: list[dict[str, Any]]) -> int:
    """Return how many columns but the first, the time, hold a number; NaN and infinity are null there."""
    columns = [column for frame in frames for column in frame["data"]["values"][1:]]
    return sum(any(value is not None for value in column) for column in columns)


@pytest.fixture(scope="session")
def appliance(new_appliance: Callable[..., Appliance]) -> Appliance:
    """Return an appliance after its first start, with nothing predicted yet."""
    appliance = new_appliance(DRIFT_INTERVAL_SECONDS="2")
    appliance.start()
    return appliance


@pytest.fixture(scope="session")
def grafana(appliance: Appliance) -> Grafana:
    grafana = Grafana(appliance.services.grafana, read_password(Layout(appliance.state).admin_password))
    wait_until(grafana.is_healthy, 60, "Grafana")
    return grafana


@pytest.fixture(scope="session")
def used(appliance: Appliance, grafana: Grafana) -> Grafana:
    """Return it when there are predictions, labels and a drift report to show."""
    give_traffic(appliance, seconds=12)
    give_labels_and_rows(appliance)
    return grafana
