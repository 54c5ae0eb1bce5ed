from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from monitoring.grafana.dashboards import GREY, as_json, dashboards
from monitoring.grafana.for_table import DIRECTORY, filled
from tableloop.table import Table, load_table

FILES = sorted(DIRECTORY.glob("*.json"))
TABLE = load_table()
SOURCE = {"type": "prometheus", "uid": "prometheus"}


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def dashboard(request: pytest.FixtureRequest) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(filled(TABLE)[request.param.name])
    assert content["uid"] == request.param.stem
    return content


def panels(table: Table) -> dict[str, dict[str, Any]]:
    contents = [json.loads(text) for text in filled(table).values()]
    return {panel["title"]: panel for content in contents for panel in content["panels"]}


def test_the_files_are_what_the_source_makes() -> None:
    assert {file.stem: file.read_text() for file in FILES} == {
        uid: as_json(dashboard) for uid, dashboard in dashboards().items()
    }, "make dashboards writes them"


def test_every_word_in_capitals_is_filled_in() -> None:
    left = {word for text in filled(TABLE).values() for word in re.findall(r"\b[A-Z]+_[A-Z_]+\b", text)}
    assert left <= {"STATE_DIR", "DRIFT_INTERVAL_SECONDS"}  # settings


def test_of_california_the_dashboards_say_its_metric_and_unit() -> None:
    values = panels(TABLE)
    assert "predicted_house_value_bucket[15m]" in values["Quantiles of the predictions"]["targets"][0]["expr"]
    assert values["Predicted values"]["description"].endswith("fell where, in 100,000 US dollars of 1990")
    assert values["Live error now"]["fieldConfig"]["defaults"]["decimals"] == 3
    assert (
        values["Quantiles of the predictions"]["fieldConfig"]["defaults"] | {"decimals": 2, "min": 0}
        == (values["Quantiles of the predictions"]["fieldConfig"]["defaults"])
    )


def test_of_another_table_they_say_its_own() -> None:
    table = Table.model_validate(
        {
            "name": "heat",
            "path": "raw/heat.csv",
            "fields": [
                {"name": "plant", "type": "string", "categories": ["a", "b"], "example": "a"},
                {
                    "name": "power",
                    "title": 'Net "power"',
                    "example": -3000,
                    "constraints": {"minimum": -50000, "maximum": 50000},
                },
            ],
            "target": "power",
            "metric": "predicted_power",
        }
    )
    values = panels(table)
    described = values["Quantiles of the predictions"]
    assert "predicted_power_bucket[15m]" in described["targets"][0]["expr"]
    assert described["description"].startswith('Of the last quarter of an hour, in units of net "power", interp')
    defaults = described["fieldConfig"]["defaults"]
    assert (defaults["decimals"], defaults["min"]) == (0, None)
    assert "chi-squared" in values["Significance by feature"]["description"]


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


def test_what_says_now_asks_for_no_range(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        now = panel["type"] in ("stat", "bargauge")
        assert {(target["instant"], target["range"]) for target in panel["targets"]} == {(now, not now)}, panel[
            "title"
        ]


def test_a_panel_without_a_value_is_neither_good_nor_bad(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        if panel["options"].get("colorMode", "none") != "none":
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"] == GREY, panel["title"]


def test_bytes_are_counted_in_thousands_everywhere(dashboard: dict[str, Any]) -> None:
    units = {panel["fieldConfig"]["defaults"].get("unit") for panel in dashboard["panels"]}
    assert not units & {"bytes", "binBps", "kbytes", "mbytes", "gbytes"}  # 1024


def test_promotions_and_retrainings_show_on_every_dashboard(dashboard: dict[str, Any]) -> None:
    annotations = {annotation["name"]: annotation for annotation in dashboard["annotations"]["list"]}
    assert set(annotations) == {"Promotions", "Retrainings"}
    for annotation in annotations.values():
        assert annotation["enable"] is True
        assert annotation["datasource"] == SOURCE
        assert set(re.findall(r"\$\w+", annotation["target"]["expr"])) <= {"$__interval", "$__rate_interval"}


def test_every_dashboard_links_to_the_others(dashboard: dict[str, Any]) -> None:
    (link,) = dashboard["links"]
    assert link["type"] == "dashboards"
    assert set(link["tags"]) <= set(dashboard["tags"])
    assert "placement" not in link  # the schema knows only the one that hides them in a menu
