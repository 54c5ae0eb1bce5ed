"""The page of a table without places: a control for each type, a chart, curves, and files with text and dates."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, expect

from tests import hires
from tests.browser.conftest import FrontPage, OpenPage, pages
from tests.browser.test_page import DARK_PHONE, downloaded, drop
from tests.integration.service.conftest import Service

NAMES = [field["name"] for field in hires.TABLE["fields"]][:-1]
VALUE = re.compile(r"^[\d,]+ bicycles$")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service in TEST_MODE, whose model maps gusts of 0 to 12 to hires of 0 to 1,000."""
    directory = tmp_path_factory.mktemp("hires")
    (directory / "state").mkdir()
    service = Service(directory / "state", {"TEST_MODE": 1, "TABLE": hires.write(directory / "table")})
    yield service.start()
    service.stop()


@pytest.fixture
def open_page(chromium: Browser, service: Service) -> Iterator[OpenPage]:
    with pages(chromium, service.port, len(NAMES)) as open_one:
        yield open_one


@pytest.fixture
def page(open_page: OpenPage) -> FrontPage:
    return open_page()


def ask(page: FrontPage, across: float = 0.4, down: float = 0.5) -> dict[str, Any]:
    """Click the chart, and return the row that was asked about."""
    expect(page("#suggestions button")).to_have_count(3)
    box = page("#chart").bounding_box()
    assert box
    with page.page.expect_response(re.compile("/predict$")) as answered:
        page("#chart").click(position={"x": box["width"] * across, "y": box["height"] * down})
    expect(page("#curves")).to_be_visible()
    asked: dict[str, Any] = answered.value.request.post_data_json or {}
    return asked


def asked_after(page: FrontPage, change: Any) -> dict[str, Any]:
    with page.page.expect_response(re.compile("/predict$")) as answered:
        change()
    asked: dict[str, Any] = answered.value.request.post_data_json or {}
    return asked


def row_with(directory: Path, asked: dict[str, Any]) -> dict[str, str]:
    """Return the row of the raw data that was asked about."""

    def values(row: dict[str, str]) -> dict[str, Any]:
        texts = ("weather", "size", "station", "day", "seen")
        return {name: row[name] if name in texts else json.loads(row[name]) for name in NAMES if row[name]}

    with (directory / "raw" / "hires.csv").open(newline="") as file:
        return next(row for row in csv.DictReader(file) if values(row) == asked)


def test_a_click_in_the_chart_asks_about_a_row_of_the_data(page: FrontPage, service: Service) -> None:
    expect(page("#map")).to_be_hidden()
    expect(page("#axis")).to_have_value("gusts")  # what moves the prediction most
    expect(page("#suggestions button")).to_have_count(3)
    page("#chart").hover()
    expect(page("#point")).to_have_text(re.compile(r"^gusts \d: [\d,]+ bicycles in the data$"))
    asked = ask(page)
    row = row_with(Path(str(service.variables["TABLE"])), asked)
    expect(page("#price")).to_have_text(VALUE)
    expect(page("#truth")).to_contain_text(f"{row['hires']} bicycles in the data")
    expect(page("#field-weather option:checked")).to_have_text(row["weather"])
    expect(page("#field-day")).to_have_value(row["day"])
    expect(page("#near")).to_have_text("Most similar hours")
    expect(page("#comparable tr")).to_have_count(6)
    value = page("#comparable tr:nth-child(2) td:nth-child(2)").inner_text()
    page("#comparable tr:nth-child(2) button").click()
    expect(page("#truth b")).to_have_text(value)


def test_each_value_has_its_reason(page: FrontPage) -> None:
    with page.page.expect_response(re.compile("/explain$")) as answered:
        ask(page)
    parts = answered.value.json()["contributions"]
    assert {name for part in parts for name in part["values"]} == set(NAMES)
    expect(page("#why-bars li")).to_have_count(min(8, len(NAMES)))
    expect(page("#why-bars li").first).to_contain_text("gusts")  # the only one that this model looks at
    expect(page("#range")).to_be_visible()
    expect(page("#neighbours")).to_be_hidden()


def test_the_chart_shows_any_feature(page: FrontPage) -> None:
    for name, title in (
        ("weather", "weather"),
        ("works", "Road works"),
        ("seen", "Last counted"),
        ("temperature", "Air temperature"),
    ):
        page("#axis").select_option(value=name)
        expect(page("#chart")).to_have_attribute("aria-label", f"Chart of 400 hours: Hires by {title}")
        page("#chart").hover()
        expect(page("#point")).to_have_text(re.compile(f"^{title} .+: [\\d,]+ bicycles in the data$"))
        ask(page)
        expect(page("#truth")).to_be_visible()


def test_the_chart_works_without_a_mouse(page: FrontPage) -> None:
    page("#axis").focus()
    page.page.keyboard.press("Tab")
    expect(page("#chart")).to_be_focused()
    for key in ("ArrowUp", "ArrowLeft", "Shift+ArrowRight", "Shift+ArrowDown"):
        page.page.keyboard.press(key)
    said = page("#point").inner_text()
    expect(page("#news")).to_have_text(said)
    page.page.keyboard.press("Enter")
    expect(page("#truth b")).to_have_text(said.split(": ")[1].removesuffix(" in the data"))


def test_every_type_has_its_control(page: FrontPage) -> None:
    first = asked_after(page, lambda: page("#form button[type=submit]").click())
    assert first == {
        field["name"]: field["example"] for field in hires.TABLE["fields"][:-1] if field["example"] is not None
    }
    for name, range_ in (
        ("gusts", "0 to 12"),
        ("day", "2020-01-01 to 2030-12-31"),
        ("seen", "2020-01-01 to 2030-12-31"),
    ):
        expect(page(f"#field-{name}-range")).to_contain_text(f"{range_} in training")
    slider = page("#field-gusts ~ input[type=range]")
    assert asked_after(page, lambda: slider.press("End"))["gusts"] == 6
    assert asked_after(page, lambda: page("#field-holiday").select_option(label="yes"))["holiday"] is True
    assert asked_after(page, lambda: page("#field-works").select_option(label="no"))["works"] is False
    assert "works" not in asked_after(page, lambda: page("#field-works").select_option(label="missing"))
    assert (
        asked_after(page, lambda: page("#field-weather").select_option(label="snow, ice"))["weather"] == "snow, ice"
    )
    expect(page("#field-size option")).to_have_text(["small", "large"])  # no other is possible

    def write(selector: str, text: str) -> dict[str, Any]:
        page(selector).fill(text)
        return asked_after(page, lambda: page(selector).press("Enter"))

    assert write("#field-station", "Station 31")["station"] == "Station 31"
    expect(page("#field-station-levels option")).to_have_count(40)
    # A date is asked about as soon as it is whole.
    assert asked_after(page, lambda: page("#field-day").fill("2023-02-03"))["day"] == "2023-02-03"
    assert asked_after(page, lambda: page("#field-seen").fill("2023-02-03T04:05"))["seen"] == "2023-02-03T04:05"
    assert "seen" not in asked_after(page, lambda: page("#field-seen").fill(""))
    assert "temperature" not in write("#field-temperature", "")
    assert write("#field-temperature", "-2.5")["temperature"] == -2.5
    assert write("#field-gusts", "9")["gusts"] == 9
    expect(page("#price")).to_have_text("750 bicycles")


def test_a_year_can_be_typed_digit_by_digit(page: FrontPage) -> None:
    page("#field-day").focus()
    page.page.keyboard.type("07082023", delay=30)  # and no question on the way is refused
    expect(page("#field-day")).to_have_value("2023-07-08")
    expect(page("#price")).to_have_text(VALUE)


def test_an_unknown_level_is_answered_with_a_warning(page: FrontPage) -> None:
    page("#field-weather").select_option(label="another one…")
    other = page("#field-weather + input")
    expect(other).to_be_focused()
    other.fill("hail")
    assert asked_after(page, lambda: other.press("Enter"))["weather"] == "hail"
    expect(page("#warnings")).to_contain_text("weather 'hail'")


def test_what_is_refused_is_said_at_the_field(open_page: OpenPage) -> None:
    page = open_page(expected="status of 422")
    for name, wrong, message in (
        ("gusts", "2.5", "a whole number"),
        ("gusts", "", "Field required"),
        ("day", "2012-01-01", "the least possible is 2020-01-01"),
    ):
        number = page(f"#field-{name}")
        before = number.input_value()
        number.fill(wrong)
        page("#form button[type=submit]").click()
        expect(page(f"#field-{name}-problem")).to_contain_text(message)
        number.fill(before)
        page("#form button[type=submit]").click()
        expect(page("#refusal")).to_be_hidden()


def test_curves_show_how_each_input_moves_the_answer(page: FrontPage) -> None:
    ask(page)
    expect(page(".curve:visible")).to_have_count(len(NAMES))
    label = page(".field:has(#field-gusts) svg").get_attribute("aria-label") or ""
    assert label == "Prediction by gusts. 0: 0 bicycles; 2: 167 bicycles; 4: 333 bicycles; 6: 500 bicycles."
    expect(page(".field:has(#field-gusts) .says")).to_have_text("0 to 500 bicycles")
    weather = page(".field:has(#field-weather) .curve")
    expect(weather.locator(".names span")).to_have_text(hires.WEATHERS)
    frame = weather.locator(".frame")
    box = frame.bounding_box()
    assert box
    clicked = asked_after(page, lambda: frame.click(position={"x": box["width"] * 0.9, "y": 20}))
    assert clicked["weather"] == "snow, ice"
    gusts = page(".field:has(#field-gusts) .frame")
    assert asked_after(page, lambda: gusts.click(position={"x": box["width"] * 0.49, "y": 20}))["gusts"] == 3
    expect(page("#field-gusts ~ input[type=range]")).to_have_value("500")  # the curve and the slider have one scale
    expect(page("#price")).to_have_text("250 bicycles")
    temperature = page(".field:has(#field-temperature) .curve")
    frame = temperature.locator(".frame")
    assert "temperature" not in asked_after(page, lambda: frame.click(position={"x": box["width"] * 0.96, "y": 20}))
    expect(temperature.locator(".says")).to_have_text("missing: 250 bicycles")


def test_a_row_whose_curves_cannot_be_computed_has_its_answer(open_page: OpenPage) -> None:
    page = open_page(expected="status of 503")
    page.page.route("**/curves", lambda route: route.fulfill(status=503, json={"detail": "busy"}))
    page("#form button[type=submit]").click()
    expect(page("#comparable tr")).to_have_count(6)
    expect(page("#refusal")).to_be_hidden()
    expect(page(".curve:visible")).to_have_count(0)


def test_the_example_file_comes_back_scored_with_its_text(page: FrontPage) -> None:
    page("#example").click()
    expect(page("#file-state")).to_have_text("Done: 200 rows.")
    expect(page("#preview thead th").first).to_have_text("predicted hires")
    scored = list(csv.DictReader(io.StringIO(downloaded(page).read_text())))
    assert {row["weather"] for row in scored} <= set(hires.WEATHERS)
    header = ",".join(["note", *NAMES])
    drop(page, "own.csv", f'{header}\n007,,3,yes,,"snow, ice",small,,2024-05-06,\n'.encode())
    expect(page("#preview tbody tr")).to_have_count(1)
    for cell in ("007", "snow, ice", "2024-05-06"):
        expect(page("#preview tbody tr")).to_contain_text(cell)


@pytest.mark.parametrize("options", [{"color_scheme": "light"}, DARK_PHONE], ids=["light", "dark phone"])
def test_axe_finds_no_fault_of_accessibility(open_page: OpenPage, options: dict[str, object]) -> None:
    page = open_page(**options)
    results = [Axe().run(page.page)]
    ask(page)
    page("#field-weather").select_option(label="another one…")
    results.append(Axe().run(page.page))
    faults = [fault for result in results for fault in result.response["violations"]]
    assert [(fault["id"], fault["impact"], [node["html"] for node in fault["nodes"]]) for fault in faults] == []


def test_versions_are_shown_in_the_unit_of_the_table(page: FrontPage, service: Service) -> None:
    with page.page.expect_response(re.compile("/predict$")) as answered:
        page("#form button[type=submit]").click()
    made = answered.value.json()
    label = {"prediction_id": made["prediction_id"], "actual_value": made["predicted_hires"] + 12}
    assert service.client.post("/feedback", json=label).status_code == 201
    page.page.get_by_role("link", name="All versions side by side").click()
    live = page("#rows tr").filter(has_text="Live error")
    expect(live).to_contain_text("12 bicycles")
    expect(live).to_contain_text("RMSE 12.000 from 1 label")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    expect(page("#suggestions button")).to_have_count(3)
    box = page("#chart").bounding_box()
    assert box
    page.page.touchscreen.tap(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
    expect(page("#curves")).to_be_visible()
    assert page.page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_whole_page_weighs_less_than_200_kb(page: FrontPage) -> None:
    expect(page("#suggestions button")).to_have_count(3)
    entries = page.page.evaluate("performance.getEntries().map((entry) => [entry.name, entry.transferSize ?? 0])")
    assert sum(size for _, size in entries) < 200_000, entries
