"""Every query of every dashboard, asked of a real Prometheus that has scraped a real appliance under traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from monitoring.health import ask
from tests.dashboards import DASHBOARDS, give_labels_and_rows, give_traffic, series
from tests.integration.conftest import ROOT, Appliance, wait_until

# Panels that are empty in a fresh appliance, each with a reference that is there already, or with a text.
NEEDS_LABELS = ("live_rmse", "live_mae", "live_interval_coverage")
NEEDS_PREDICTIONS = ("feature_drift", "drift_auc")
# What only shows while an alert fires, a version is in the shadow, or there is nothing else to show.
ONLY_THEN = ("ALERTS{", "shadow_", "absent(")


@pytest.fixture(scope="module")
def unused(new_appliance: Callable[..., Appliance], first_start: tuple[Appliance, str]) -> Appliance:
    """Return an appliance that nobody has used before."""
    appliance = new_appliance(state_of=first_start[0], DRIFT_INTERVAL_SECONDS="2")
    appliance.start()
    # A rate takes two scrapes; the appliance may be ready after the first.
    wait_until(lambda: series(appliance, "rate(predictions_total[8s])"), 20, "the second scrape")
    return appliance


@pytest.fixture(scope="module")
def asked(unused: Appliance) -> Appliance:
    """Return it after some traffic."""
    give_traffic(unused, seconds=12)
    return unused


@pytest.fixture(scope="module")
def known(asked: Appliance) -> Appliance:
    """Return it when it has been told the truth of some predictions, and has enough of them to look for drift."""
    give_labels_and_rows(asked)
    return asked


def draws(appliance: Appliance, panel: dict[str, Any]) -> list[bool]:
    return [series(appliance, target["expr"], instant=target["instant"]) > 0 for target in panel["targets"]]


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_before_the_first_prediction_every_empty_panel_says_why(unused: Appliance, uid: str) -> None:
    silent = [
        panel["title"]
        for panel in DASHBOARDS[uid]["panels"]
        if not panel["fieldConfig"]["defaults"].get("noValue") and not any(draws(unused, panel))
    ]
    assert silent == []


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_no_panel_is_empty_after_some_traffic(asked: Appliance, uid: str) -> None:
    empty = []
    for panel in DASHBOARDS[uid]["panels"]:
        drawn = draws(asked, panel)
        if not (any(drawn) or panel["fieldConfig"]["defaults"].get("noValue")):
            empty.append(panel["title"])
        for target, is_drawn in zip(panel["targets"], drawn, strict=True):
            if not (is_drawn or any(name in target["expr"] for name in NEEDS_LABELS + NEEDS_PREDICTIONS + ONLY_THEN)):
                empty.append(f"{panel['title']}: {target['expr']}")
    assert empty == []


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_every_query_answers_once_there_are_labels_and_enough_predictions(known: Appliance, uid: str) -> None:
    silent = [
        f"{panel['title']}: {target['expr']}"
        for panel in DASHBOARDS[uid]["panels"]
        for target, is_drawn in zip(panel["targets"], draws(known, panel), strict=True)
        if not (is_drawn or any(name in target["expr"] for name in ONLY_THEN))
    ]
    assert silent == []


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_the_annotations_are_queries(asked: Appliance, uid: str) -> None:
    for annotation in DASHBOARDS[uid]["annotations"]["list"]:
        series(asked, annotation["target"]["expr"])


# What Grafana puts in for a quarter of an hour and for a day, longer than the first training came after the start.
@pytest.mark.parametrize("intervals", [("2s", "8s"), ("1m", "62s")], ids=["a quarter of an hour", "a day"])
@pytest.mark.parametrize(
    ("name", "label", "value"), [("Promotions", "version", "1"), ("Retrainings", "outcome", "promoted")]
)
def test_the_first_training_left_its_annotations(
    asked: Appliance, name: str, label: str, value: str, intervals: tuple[str, str]
) -> None:
    (expr,) = (
        annotation["target"]["expr"]
        for annotation in DASHBOARDS["overview"]["annotations"]["list"]
        if annotation["name"] == name
    )
    for variable, interval in zip(("$__interval", "$__rate_interval"), intervals, strict=True):
        expr = expr.replace(variable, interval)
    query = urlencode({"query": f"count_over_time(({expr})[1h:2s])"})
    found = ask(asked.services.prometheus, f"/api/v1/query?{query}")["data"]["result"]
    assert {one["metric"][label] for one in found} == {value}


def test_prometheus_has_loaded_the_rules_and_none_fails(asked: Appliance) -> None:
    groups = ask(asked.services.prometheus, "/api/v1/rules")["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    written = yaml.safe_load((ROOT / "monitoring/prometheus/rules.yml").read_text())["groups"]
    assert len(rules) == sum(len(group["rules"]) for group in written)
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
