"""Every query of every dashboard, asked of a real Prometheus that has scraped a real appliance under traffic."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import pandas as pd
import pytest
import yaml

from monitoring.grafana.dashboards import DIRECTORY
from monitoring.health import ask
from tableloop.table import load_table
from tests.integration.conftest import ROOT, Appliance, wait_until

FEATURE_NAMES = load_table().feature_names
TARGET = load_table().target

SECONDS_OF_TRAFFIC = 12.0
DASHBOARDS = {file.stem: json.loads(file.read_text()) for file in sorted(DIRECTORY.glob("*.json"))}
# What a fresh appliance has nothing to say about; beside it stands what it will be compared with, or a text.
NEEDS_LABELS = ("live_rmse", "live_mae", "live_interval_coverage")
NEEDS_PREDICTIONS = ("feature_drift_psi", "feature_drift_distance", "clamp_min(feature_drift_ks_pvalue", "drift_auc")
Houses = Iterator[dict[str, float]]


@pytest.fixture(scope="module")
def asked(new_appliance: Callable[..., Appliance], first_start: tuple[Appliance, str]) -> Appliance:
    """Return an appliance that nobody has used before, after some traffic."""
    appliance = new_appliance(state_of=first_start[0], DRIFT_INTERVAL_SECONDS="2")
    appliance.start()
    houses = some_houses()
    until = time.monotonic() + SECONDS_OF_TRAFFIC
    while time.monotonic() < until:
        assert send(appliance, "/predict", features(next(houses)))[0] == http.client.OK
        time.sleep(0.1)
    return appliance


@pytest.fixture(scope="module")
def known(asked: Appliance) -> Appliance:
    """Return it when it has been told the truth of some predictions, and has enough of them to look for drift."""
    houses = some_houses()
    for house in itertools.islice(houses, 20):
        _, answer = send(asked, "/predict", features(house))
        label = {"prediction_id": answer["prediction_id"], "actual_value": house[TARGET.name]}
        assert send(asked, "/feedback", label)[0] == http.client.CREATED
    status, _ = send(asked, "/predict/batch", [features(house) for house in itertools.islice(houses, 500)])
    assert status == http.client.OK
    wait_until(lambda: answers(asked, "feature_drift_psi"), 60, "a drift report")
    return asked


def some_houses() -> Houses:
    table = pd.read_csv(ROOT / "data" / "raw" / "california_housing.csv").sample(2000, random_state=1)
    return ({str(name): float(value) for name, value in row.items()} for row in table.to_dict("records"))


def features(house: dict[str, float]) -> dict[str, float]:
    return {name: house[name] for name in FEATURE_NAMES}


def send(appliance: Appliance, path: str, body: object) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(appliance.services.api).netloc, timeout=30)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def answers(appliance: Appliance, expr: str) -> bool:
    """Return whether Grafana would draw something: one number at least in the last minute; an error fails."""
    expr = expr.replace("$__rate_interval", "8s").replace("$__interval", "10s")
    assert "$" not in expr
    now = time.time()
    query = urlencode({"query": expr, "start": now - 30, "end": now, "step": 2})
    answer = ask(appliance.services.prometheus, f"/api/v1/query_range?{query}")
    assert answer["status"] == "success", expr
    return any(math.isfinite(float(value)) for series in answer["data"]["result"] for _, value in series["values"])


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_no_panel_is_empty_after_some_traffic(asked: Appliance, uid: str) -> None:
    empty = []
    for panel in DASHBOARDS[uid]["panels"]:
        drawn = [answers(asked, target["expr"]) for target in panel["targets"]]
        if not (any(drawn) or panel["fieldConfig"]["defaults"].get("noValue")):
            empty.append(panel["title"])
        for target, draws in zip(panel["targets"], drawn, strict=True):
            if not (draws or target["expr"].startswith(NEEDS_LABELS + NEEDS_PREDICTIONS)):
                empty.append(f"{panel['title']}: {target['expr']}")
    assert empty == []


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_every_query_answers_once_there_are_labels_and_enough_predictions(known: Appliance, uid: str) -> None:
    silent = [
        f"{panel['title']}: {target['expr']}"
        for panel in DASHBOARDS[uid]["panels"]
        for target in panel["targets"]
        if not answers(known, target["expr"])
    ]
    assert silent == []


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_the_annotations_are_queries(asked: Appliance, uid: str) -> None:
    for annotation in DASHBOARDS[uid]["annotations"]["list"]:
        answers(asked, annotation["target"]["expr"])


@pytest.mark.parametrize(
    ("name", "label", "value"), [("Promotions", "version", "1"), ("Retrainings", "outcome", "promoted")]
)
def test_the_first_training_left_its_annotations(asked: Appliance, name: str, label: str, value: str) -> None:
    (expr,) = (
        annotation["target"]["expr"]
        for annotation in DASHBOARDS["overview"]["annotations"]["list"]
        if annotation["name"] == name
    )
    query = urlencode({"query": f"count_over_time(({expr.replace('$__interval', '10s')})[1h:2s])"})
    series = ask(asked.services.prometheus, f"/api/v1/query?{query}")["data"]["result"]
    assert {one["metric"][label] for one in series} == {value}


def test_prometheus_has_loaded_the_rules_and_none_fails(asked: Appliance) -> None:
    groups = ask(asked.services.prometheus, "/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    written = yaml.safe_load((ROOT / "monitoring/prometheus/rules.yml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in written)
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
