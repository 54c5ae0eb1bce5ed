"""A real Grafana and what is provisioned in it: `make test-grafana`, and not `make test`."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.dashboards import DASHBOARDS, series
from tests.grafana.conftest import Grafana
from tests.integration.conftest import Appliance, wait_until

REFUSED = {http.client.UNAUTHORIZED, http.client.FORBIDDEN}
NEW_DASHBOARD = {"dashboard": {"title": "by a visitor", "panels": []}, "overwrite": True}
NEW_SOURCE = {"name": "by a visitor", "type": "prometheus", "access": "proxy", "url": "http://127.0.0.1:9"}


def test_its_data_source_reaches_prometheus(grafana: Grafana) -> None:
    answer = grafana.get("/api/datasources/uid/prometheus/health", password=grafana.password)
    assert answer["status"] == "OK", answer


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_before_the_first_prediction_every_query_is_answered_and_every_empty_panel_says_why(
    grafana: Grafana, uid: str
) -> None:
    for panel in DASHBOARDS[uid]["panels"]:
        drawn = [grafana.series(target) for target in panel["targets"]]
        assert any(drawn) or panel["fieldConfig"]["defaults"].get("noValue"), panel["title"]


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_every_query_shows_what_prometheus_has(appliance: Appliance, used: Grafana, uid: str) -> None:
    for panel in DASHBOARDS[uid]["panels"]:
        for target in panel["targets"]:

            def is_what_prometheus_has(target: dict[str, Any] = target) -> bool:
                return used.series(target) == series(appliance, target["expr"], instant=target["instant"])

            # not at once where a series begins or ends between the two questions
            wait_until(is_what_prometheus_has, 20, f"{panel['title']}: {target['expr']}")


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_the_annotations_are_answered(used: Grafana, uid: str) -> None:
    for annotation in DASHBOARDS[uid]["annotations"]["list"]:
        used.series(annotation["target"])


def test_there_is_no_error_in_its_log_before_anything_is_refused(appliance: Appliance, used: Grafana) -> None:
    lines = [line for line in appliance.console().splitlines() if line.startswith("grafana ")]
    assert [line for line in lines if re.search(r"level=(error|crit|fatal)|\b(EROR|ERROR|CRIT)\b", line)] == []


def test_a_visitor_sees_the_overview_first_and_finds_every_dashboard(grafana: Grafana) -> None:
    assert grafana.get("/api/dashboards/home")["dashboard"]["title"] == DASHBOARDS["overview"]["title"]
    found = {one["uid"]: one["title"] for one in grafana.get("/api/search?type=dash-db")}
    assert found == {uid: dashboard["title"] for uid, dashboard in DASHBOARDS.items()}
    for uid, dashboard in DASHBOARDS.items():
        loaded = grafana.get(f"/api/dashboards/uid/{uid}")["dashboard"]
        assert [panel["title"] for panel in loaded["panels"]] == [panel["title"] for panel in dashboard["panels"]]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/dashboards/db", NEW_DASHBOARD),
        ("DELETE", "/api/dashboards/uid/overview", None),
        ("POST", "/api/folders", {"title": "by a visitor"}),
        ("POST", "/api/datasources", NEW_SOURCE),
        ("DELETE", "/api/datasources/uid/prometheus", None),
        ("POST", "/api/admin/users", {"login": "visitor", "password": "a visitor's"}),
        ("GET", "/api/admin/settings", None),
    ],
)
def test_a_visitor_changes_nothing(grafana: Grafana, method: str, path: str, body: object) -> None:
    assert grafana.call(method, path, body).status_code in REFUSED


def test_only_the_administrators_password_logs_in(grafana: Grafana) -> None:
    assert grafana.get("/api/user", password=grafana.password)["isGrafanaAdmin"] is True
    assert grafana.call("GET", "/api/user", password="admin").status_code in REFUSED


def test_a_later_password_logs_in_and_the_former_one_does_not(
    appliance: Appliance, new_appliance: Callable[..., Appliance], grafana: Grafana
) -> None:
    again = new_appliance(state_of=appliance, ADMIN_PASSWORD="another-password")
    again.start()
    renewed = Grafana(again.services.grafana, "another-password")
    wait_until(renewed.is_healthy, 60, "Grafana")
    assert renewed.get("/api/user", password=renewed.password)["isGrafanaAdmin"] is True
    assert renewed.call("GET", "/api/user", password=grafana.password).status_code in REFUSED


def test_not_even_the_administrator_changes_what_is_provisioned(grafana: Grafana) -> None:
    changed = {
        "dashboard": DASHBOARDS["overview"] | {"title": "changed"},
        "folderUid": "tableloop",
        "overwrite": True,
    }
    answer = grafana.call("POST", "/api/dashboards/db", changed, password=grafana.password)
    assert answer.status_code >= http.client.BAD_REQUEST, answer.text
