"""For tests of the dashboards: their files, traffic that fills them, and what Prometheus has for a query."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pandas as pd

from monitoring.grafana.for_table import filled
from monitoring.health import ask
from tableloop.credentials import basic, read_password
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.integration.conftest import ROOT, Appliance, wait_until

FEATURE_NAMES = load_table().feature_names
TARGET = load_table().target
DASHBOARDS: dict[str, dict[str, Any]] = {
    Path(name).stem: json.loads(text) for name, text in filled(load_table()).items()
}
SECONDS = 30  # of the ranges that are asked for


def give_traffic(appliance: Appliance, seconds: float) -> None:
    """Ask for single predictions, ten a second."""
    houses = some_houses()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert send(appliance, "/predict", features(next(houses)))[0] == http.client.OK
        time.sleep(0.1)


def give_labels_and_rows(appliance: Appliance) -> None:
    """Tell the truth of some predictions, and ask for so many that the drift monitor compares them."""
    houses = some_houses()
    for house in itertools.islice(houses, 20):
        _, answer = send(appliance, "/predict", features(house))
        label = {"prediction_id": answer["prediction_id"], "actual_value": house[TARGET.name]}
        assert send(appliance, "/feedback", label)[0] == http.client.CREATED
    status, _ = send(appliance, "/predict/batch", [features(house) for house in itertools.islice(houses, 500)])
    assert status == http.client.OK
    wait_until(lambda: series(appliance, "feature_drift_psi"), 60, "a drift report")


def some_houses() -> Iterator[dict[str, float]]:
    table = pd.read_csv(ROOT / "data" / "raw" / "california_housing.csv").sample(2000, random_state=1)
    return ({str(name): float(value) for name, value in row.items()} for row in table.to_dict("records"))


def features(house: dict[str, float]) -> dict[str, float]:
    return {name: house[name] for name in FEATURE_NAMES}


def send(appliance: Appliance, path: str, body: object) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(appliance.services.api).netloc, timeout=30)
    login = basic(read_password(Layout(appliance.state).admin_password))
    headers = {"Content-Type": "application/json", "Authorization": login}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def series(appliance: Appliance, expr: str, *, instant: bool = False) -> int:
    """Return how many series Grafana would draw, each with a number now or in the last `SECONDS`; an error fails."""
    expr = expr.replace("$__rate_interval", "8s").replace("$__interval", "2s")
    assert "$" not in expr
    now = time.time()
    times = {"time": now} if instant else {"start": now - SECONDS, "end": now, "step": 2}
    path = "query" if instant else "query_range"
    answer = ask(appliance.services.prometheus, f"/api/v1/{path}?{urlencode({'query': expr} | times)}")
    assert answer["status"] == "success", expr
    found = [one.get("values", [one.get("value")]) for one in answer["data"]["result"]]
    return sum(any(math.isfinite(float(value)) for _, value in samples) for samples in found)
