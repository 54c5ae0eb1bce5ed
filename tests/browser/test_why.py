"""Why a value is what it is, as a visitor reads it: bars, words, neighbours, and what the model looks at."""

from __future__ import annotations

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Route, expect

from monitoring.health import ask
from tests.browser.conftest import FrontPage, OpenPage
from tests.browser.test_page import DARK_PHONE, dollars
from tests.integration.conftest import Appliance

MINUS = "\N{MINUS SIGN}"


def explained(page: FrontPage) -> dict[str, Any]:
    """Click the map, and return the explanation that comes."""
    with page.page.expect_response(re.compile("/explain$")) as answered:
        page.ask()
    found: dict[str, Any] = answered.value.json()
    expect(page("#why")).to_be_visible()
    expect(page("#why")).not_to_have_class(re.compile("stale"))
    return found


def change(value: float) -> str:
    return f"{MINUS if value < 0 else '+'}{dollars(abs(value))}"


def test_each_input_has_a_bar_and_its_dollars(page: FrontPage) -> None:
    expect(page("#why")).to_be_hidden()
    why = explained(page)
    bars = page("#why-bars li")
    expect(bars).to_have_count(7)
    for number, part in enumerate(why["contributions"]):
        expect(bars.nth(number)).to_contain_text(part["title"])
        expect(bars.nth(number).locator("b")).to_have_text(change(part["contribution"]))
        bar = bars.nth(number).locator(".bar span")
        expect(bar).to_have_class("less" if part["contribution"] < 0 else "more")
    widths = [box["width"] for bar in bars.locator(".bar span").all() if (box := bar.bounding_box())]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 20
    words = page("#why-sum").inner_text()
    assert words.startswith(f"The average is {dollars(why['base_value'])}. {why['contributions'][0]['title']} ")
    assert words.endswith(f"Together: {dollars(why['predicted_median_house_value'])}.")
    expect(page("#price")).to_have_text(dollars(why["predicted_median_house_value"]))


def test_the_width_of_the_range_has_its_reasons_and_its_neighbours(page: FrontPage) -> None:
    why = explained(page)
    expect(page("#range-width")).to_contain_text(f"a range of {dollars(why['interval_reasons']['width'])}")
    expect(page("#range-reasons li")).to_have_count(3)
    expect(page("#range-reasons")).to_contain_text("of the training data is like it")
    expect(page("#neighbours-heaviest tr")).to_have_count(5)
    heaviest = why["neighbours"][0]
    expect(page("#neighbours-heaviest tr").first).to_contain_text(dollars(heaviest["actual_value"]))
    expect(page("#neighbours-rest")).to_have_text(f"{len(why['neighbours']) - 5} more have smaller weights.")


def test_the_answer_does_not_wait_for_its_reasons(page: FrontPage) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.page.route("**/explain", hold)
    page.ask()
    expect(page("#comparable tr")).to_have_count(6)
    expect(page(".curve:visible")).to_have_count(8)
    expect(page("#why")).to_be_hidden()
    held[0].continue_()
    expect(page("#why")).to_be_visible()
    expect(page("#why")).not_to_have_class(re.compile("stale"))
    page("#field-MedInc").fill("7")
    page("#field-MedInc").press("Enter")
    expect(page("#why")).to_have_class(re.compile("stale"))  # until its own come
    expect(page("#news")).to_contain_text("between")


def test_without_reasons_the_answer_stands_alone(open_page: OpenPage) -> None:
    page = open_page(expected="status of 503")
    explained(page)
    page.page.route("**/explain", lambda route: route.fulfill(status=503, json={"detail": "too many"}))
    page("#field-MedInc").fill("7")
    page("#field-MedInc").press("Enter")
    expect(page("#why")).to_be_hidden()
    expect(page("#range")).to_be_hidden()
    expect(page("#refusal")).to_be_hidden()
    expect(page("#price")).to_have_text(re.compile(r"^\$"))


def test_reasons_are_heard_and_reached_without_a_mouse(page: FrontPage) -> None:
    explained(page)
    items = page.page.get_by_role("list", name="Why this value").get_by_role("listitem")
    expect(items).to_have_count(7)
    assert re.search(rf"[+{MINUS}]\$[\d,]+", items.first.inner_text())
    table = page.page.get_by_role("region", name="Which neighbours count")
    table.focus()
    expect(table).to_be_focused()


def test_what_the_model_looks_at_and_where_it_errs(page: FrontPage, running: Appliance) -> None:
    model = ask(running.services.api, "/model")
    assert {part["name"] for part in model["importance"]} >= {"MedInc", "Latitude_Longitude"}
    rises = [part["rmse_rise"] for part in model["importance"]]
    assert rises == sorted(rises, reverse=True)
    expect(page("#importance li")).to_have_count(len(model["importance"]))
    expect(page("#importance li").first).to_contain_text(model["importance"][0]["title"])
    assert model["error_by_region"]
    expect(page("#regions-errors tr")).to_have_count(len(model["error_by_region"]))
    expect(page("#regions-errors tr").first).to_contain_text(dollars(model["error_by_region"][0]["rmse"]))


@pytest.mark.parametrize("options", [{"color_scheme": "light"}, DARK_PHONE], ids=["light", "dark phone"])
def test_axe_finds_no_fault_in_reasons(open_page: OpenPage, options: dict[str, object]) -> None:
    page = open_page(**options)
    explained(page)
    width = page.page.viewport_size
    assert width is not None
    assert page.page.evaluate("document.documentElement.scrollWidth") == width["width"]
    faults = Axe().run(page.page).response["violations"]
    assert [(fault["id"], fault["impact"], [node["html"] for node in fault["nodes"]]) for fault in faults] == []
