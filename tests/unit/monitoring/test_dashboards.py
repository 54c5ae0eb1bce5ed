from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from monitoring.grafana.dashboards import DIRECTORY, as_json, dashboards

FILES = sorted(DIRECTORY.glob("*.json"))
SOURCE = {"type": "prometheus", "uid": "prometheus"}


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(request.param.read_text())
    assert content["uid"] == request.param.stem
    return content


def test_the_files_are_what_the_source_makes() -> None:
    assert {file.stem: file.read_text() for file in FILES} == {
        uid: as_json(dashboard) for uid, dashboard in dashboards().items()
    }, "make dashboards writes them"


def test_what_provisioning_needs_is_there(dashboard: dict[str, Any]) -> None:
    assert dashboard["title"]
    assert dashboard["schemaVersion"] >= 39
    assert "id" not in dashboard  # the database's own
    assert "spec" not in dashboard  # a file of version 2 is rejected
    assert dashboard["editable"] is False
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", dashboard["uid"])
    assert dashboard["time"] == {"from": "now-15m", "to": "now"}


def test_titles_and_uids_are_unique() -> None:
    contents = [json.loads(file.read_text()) for file in FILES]
    assert len({content["title"] for content in contents}) == len(contents) == 5


def test_every_panel_has_a_place_of_its_own(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    # no gaps: every row is full
    assert sum(p["gridPos"]["w"] * p["gridPos"]["h"] for p in panels) == 24 * max(
        p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels
    )


def test_every_panel_explains_itself(dashboard: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"]
        has_unit = "unit" in panel["fieldConfig"]["defaults"] or panel["type"] == "state-timeline"
        assert has_unit, panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"]["id"] == "byFrameRefID":
                assert override["matcher"]["options"] in letters, panel["title"]


def test_every_query_goes_to_the_provisioned_source(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        assert panel["datasource"] == SOURCE
        for target in panel["targets"]:
            assert target["datasource"] == SOURCE
            assert set(re.findall(r"\$\w+", target["expr"])) <= {"$__rate_interval"}
    assert dashboard["templating"] == {"list": []}


def test_promotions_and_retrainings_show_on_every_dashboard(dashboard: dict[str, Any]) -> None:
    annotations = {annotation["name"]: annotation for annotation in dashboard["annotations"]["list"]}
    assert set(annotations) == {"Promotions", "Retrainings"}
    for annotation in annotations.values():
        assert annotation["enable"] is True
        assert annotation["datasource"] == SOURCE
        assert set(re.findall(r"\$\w+", annotation["target"]["expr"])) <= {"$__interval"}


def test_every_dashboard_links_to_the_others(dashboard: dict[str, Any]) -> None:
    (link,) = dashboard["links"]
    assert link["type"] == "dashboards"
    assert set(link["tags"]) <= set(dashboard["tags"])
    assert link["placement"] != "inControlsMenu"
