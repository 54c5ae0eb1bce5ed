"""The page of versions: reached from the front page, read by eye, ear and keyboard; texts of strangers do no harm."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import expect

from monitoring.health import ask
from tests.browser.conftest import FrontPage, OpenPage
from tests.browser.test_page import DARK_PHONE, dollars
from tests.integration.conftest import Appliance, wait_until

MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"
LONG = (
    f"RMSE 0.5898 against 1.2835 of version 1 on 572 labels that neither was trained on. {MARKUP} {'and so on ' * 20}"
)


def gate(outcome: str, reason: str, **more: object) -> dict[str, object]:
    return {
        **{"gate": outcome, "reason": reason, "decided_by": None, "champion_version": None, "labels": 0},
        **{"promoted_by": None, "forced": None},
        **more,
    }


def version(number: int, **more: object) -> dict[str, Any]:
    """Return a version as the service describes it."""
    return {
        **{"version": str(number), "serves": False, "aliases": [], "family": "spatial", "run_id": f"{number}" * 32},
        "link": f"http://localhost:5002/#/models/HousePriceModel/versions/{number}",
        **{"registered_at": "2026-11-20T08:00:00+00:00", "data_md5": "9a" * 16, "label_batches": 0},
        **{"revocations": 0, "trained_until": None, "live": None, "shadow": [], "gate": None, "history": []},
        "scores": {"test_rmse": 0.37 - number / 100, "test_mae": 0.22, "test_r2": 0.89},
        **{"rolled_back": None, "rejected": None, "git_commit": "c0ffee" * 6, "code_digest": "5e" * 16},
        **more,
    }


def event(name: str, detail: str) -> dict[str, str]:
    return {"at": "2026-11-22T08:00:00+00:00", "event": name, "detail": detail}


FOUND: dict[str, Any] = {
    **{"name": "HousePriceModel", "alias": "Production", "serves": "2", "problem": None},
    "asked_at": "2026-11-23T08:00:00+00:00",
    "versions": [
        version(
            4,
            aliases=["Shadow"],
            label_batches=2,
            revocations=1,
            trained_until="2026-11-19T08:00:00+00:00",
            gate=gate("waiting", LONG, decided_by="labels", labels=572, champion_version="2"),
            shadow=[
                {
                    **{"began_at": "2026-11-22T08:00:00+00:00", "ended_at": None, "outcome": None, "reason": ""},
                    **{"problem": "", "scored": 1204},
                    "live": {"rmse": 0.34, "coverage": 0.91, "labels": 120},
                    "answered": {"rmse": 0.37, "coverage": 0.88, "labels": 120},
                }
            ],
        ),
        version(
            3,
            gate=gate("rejected", MARKUP, decided_by="test rows", champion_version="2"),
            rejected=f"by {MARKUP}",
        ),
        version(
            2,
            serves=True,
            aliases=["Production"],
            live={"rmse": 0.362, "coverage": 0.912, "labels": 312},
            gate=gate("promoted", "test RMSE 0.3671 against 0.3834", decided_by="test rows", champion_version="1"),
            history=[
                event("serves", ""),
                event("promoted", "test RMSE 0.3671 against 0.3834"),
                event("rolled back", MARKUP),
            ],
        ),
        version(
            1, rolled_back="too high near the coast", scores={}, data_md5=None, git_commit=None, code_digest=None
        ),
    ],
}


def open_versions(page: FrontPage, found: dict[str, Any] | None = None) -> None:
    """Go from the front page to the versions, with what the service would say of them if there were several."""
    if found is not None:
        page.page.route("**/versions?*format=json", lambda route: route.fulfill(json=found))
    page.page.get_by_role("link", name="All versions side by side").click()
    expect(page("#asked")).to_contain_text("as of")


def cell(page: FrontPage, row: str, column: int) -> str:
    """Return the text of a cell, in the column of the newest version (1) or of an older one."""
    name = re.compile(f"^{row}")
    return (
        page("#rows tr")
        .filter(has=page.page.get_by_role("rowheader", name=name))
        .locator("td")
        .nth(column - 1)
        .inner_text()
    )


def test_the_front_page_leads_to_the_versions_and_back(page: FrontPage, running: Appliance) -> None:
    open_versions(page)
    model = ask(running.services.api, "/model")
    heads = page("#heads th")
    expect(heads).to_have_count(1)
    expect(heads).to_contain_text("Version 1")
    expect(heads).to_contain_text("Production")
    mlflow = f"http://localhost:{running.ports['MLFLOW_PORT']}/"
    expect(heads.locator("a")).to_have_attribute("href", f"{mlflow}#/models/HousePriceModel/versions/1")
    assert dollars(model["scores"]["test_rmse"]) in cell(page, "Test error", 1)
    assert f"{model['scores']['test_r2']:.3f}" in cell(page, "Test error", 1)
    assert cell(page, "Family", 1) == model["family"]
    assert model["data_md5"][:12] in cell(page, "Trained on", 1)
    assert model["code_digest"][:12] in cell(page, "Code", 1)
    assert "promoted" in cell(page, "The gate", 1)
    assert "no version served before" in cell(page, "The gate", 1)
    assert "serves" in cell(page, "History", 1)
    expect(page("#missing")).to_be_hidden()
    page.page.get_by_role("link", name=re.compile("^Back")).click()
    expect(page("#pulse")).to_have_attribute("data-state", "up")


def test_versions_are_compared_column_by_column(page: FrontPage) -> None:
    open_versions(page, FOUND)
    expect(page("#heads th")).to_have_text(
        ["Version 4 Shadow", "Version 3", "Version 2 Production", "Version 1"], use_inner_text=True
    )
    assert [cell(page, "Test error", column).split("\n")[0] for column in (1, 2, 3, 4)] == [
        *(dollars(0.37 - number / 100) for number in (4, 3, 2)),
        "not known",
    ]
    assert "the table and 2 batches of labels" in cell(page, "Trained on", 1)
    assert "in it now" in cell(page, "In the shadow", 1)
    assert cell(page, "In the shadow", 2) == "never"
    assert cell(page, "Live error", 1) == "no labels"
    assert "$34,000 against $37,000 of what was answered" in cell(page, "In the shadow", 1)
    assert "91 % and 88 % in range, on the same 120 labels" in cell(page, "In the shadow", 1)
    assert "1,204 requests scored" in cell(page, "In the shadow", 1)
    assert "by 572 labels, against version 2" in cell(page, "The gate", 1)
    assert "RMSE 0.362 from 312 labels" in cell(page, "Live error", 3)
    assert "too high near the coast" in cell(page, "Taken back", 4)
    assert "rolled back to" in cell(page, "History", 3)
    assert cell(page, "History", 3).count("0.3671") == 0  # the gate's words stand above already


def test_texts_of_strangers_are_shown_as_they_are(page: FrontPage) -> None:
    open_versions(page, FOUND)
    assert MARKUP in cell(page, "The gate", 2)
    assert MARKUP in cell(page, "Taken back", 2)
    assert MARKUP in cell(page, "History", 3)
    page("details summary").first.press("Enter")
    assert LONG.strip() in cell(page, "The gate", 1)
    expect(page("#compared img")).to_have_count(0)


def test_a_row_that_nobody_needs_is_left_out(page: FrontPage) -> None:
    open_versions(page, FOUND | {"versions": [version(1)]})
    titles = page("#rows th").all_inner_texts()
    assert "Registered" in titles
    assert not {"In the shadow", "Taken back"} & {*titles}


def test_a_registry_that_does_not_answer_is_told(page: FrontPage) -> None:
    open_versions(page, FOUND | {"problem": "the registry does not answer (refused): scores are missing"})
    expect(page("#missing")).to_have_text("The registry does not answer (refused): scores are missing.")
    expect(page("#heads th")).to_have_count(4)


def test_without_an_answer_it_says_why(open_page: OpenPage) -> None:
    page = open_page(expected="status of 503")
    page.page.route("**/versions?*", lambda route: route.fulfill(status=503, json={"detail": "database is locked"}))
    page.page.get_by_role("link", name="All versions side by side").click()
    expect(page("#refusal")).to_have_text("Database is locked.")
    expect(page("#compared")).to_be_hidden()


@pytest.mark.parametrize("options", [{"color_scheme": "light"}, DARK_PHONE], ids=["light", "dark phone"])
def test_axe_finds_no_fault_in_versions(open_page: OpenPage, options: dict[str, object]) -> None:
    page = open_page(**options)
    open_versions(page, FOUND)
    page("details summary").first.press("Enter")
    width = page.page.viewport_size
    assert width is not None
    assert page.page.evaluate("document.documentElement.scrollWidth") == width["width"]
    faults = Axe().run(page.page).response["violations"]
    assert [(fault["id"], fault["impact"], [node["html"] for node in fault["nodes"]]) for fault in faults] == []


def test_a_wide_table_scrolls_in_its_box_by_keyboard_and_keeps_its_titles(open_page: OpenPage) -> None:
    page = open_page(**DARK_PHONE)
    open_versions(page, FOUND)
    box = page.page.get_by_role("region", name="Versions of HousePriceModel")
    title = page("#rows th").first
    before = title.bounding_box()
    box.focus()
    expect(box).to_be_focused()
    for _ in range(5):
        page.page.keyboard.press("ArrowRight")
    wait_until(lambda: box.evaluate("box => box.scrollLeft") > 50, 10, "the table to scroll")
    after = title.bounding_box()
    assert before
    assert after
    assert after["x"] == before["x"]
