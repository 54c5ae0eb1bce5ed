"""What a visitor does on the front page, and what the page shows of the system."""

from __future__ import annotations

import base64
import csv
import io
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow.csv
import pyarrow.parquet
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import expect

from monitoring.health import ask
from tableloop.credentials import read_password
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.browser.conftest import FrontPage, OpenPage
from tests.integration.conftest import ROOT, Appliance, wait_until

FEATURE_NAMES = load_table().feature_names

DATA = ROOT / "data" / "raw" / "california_housing.csv"


def dollars(value: float) -> str:
    return f"${round(value * 1000) * 100:,}"


# -- asking ----------------------------------------------------------------------------------------------------------


def test_a_click_on_the_map_gets_a_price(page: FrontPage, running: Appliance) -> None:
    with page.page.expect_response(re.compile("/predict$")) as answered:
        page.click_map()
    prediction = answered.value.json()
    asked = answered.value.request.post_data_json
    expect(page("#price")).to_have_text(dollars(prediction["predicted_median_house_value"]))
    expect(page("#interval")).to_contain_text(
        f"{dollars(prediction['interval']['low'])} to {dollars(prediction['interval']['high'])}"
    )
    expect(page("#made-by")).to_have_text("version 1")
    with DATA.open() as file:
        (*_, row) = (
            row
            for row in csv.DictReader(file)
            if {name: float(row[name]) for name in FEATURE_NAMES} == asked  # to the last digit
        )
    expect(page("#truth")).to_contain_text(dollars(float(row["MedHouseVal"])))
    expect(page("#comparable tr")).to_have_count(6)
    expect(page("#field-HouseAge")).to_have_value(str(int(float(row["HouseAge"]))))
    expect(page("#news")).to_contain_text(dollars(prediction["predicted_median_house_value"]))
    assert ask(running.services.api, "/overview")["live"]["per_minute"][-1] > 0


def test_a_comparable_place_can_be_visited(page: FrontPage) -> None:
    first = page.ask()
    value = page("#comparable tr:nth-child(3) td:nth-child(3)").inner_text()
    page("#comparable tr:nth-child(3) button").click()
    expect(page("#truth b")).to_have_text(value)
    expect(page("#price")).not_to_have_text(first)


def test_all_of_it_works_without_a_mouse(page: FrontPage) -> None:
    page("#landmark").focus()
    page.page.keyboard.press("Tab")
    expect(page("#map")).to_be_focused()
    for key in ("ArrowUp", "ArrowLeft", "Shift+ArrowDown", "+", "-"):
        page.page.keyboard.press(key)
    expect(page("#readout")).to_contain_text("in the data")
    page.page.keyboard.press("Enter")
    expect(page("#price")).to_have_text(re.compile(r"^\$"))
    before = page("#price").inner_text()
    page("#landmark").select_option(label="Palo Alto")
    expect(page("#price")).not_to_have_text(before)
    expect(page("#field-Latitude")).to_have_value("37.44")


def test_a_slider_and_its_number_are_one(page: FrontPage) -> None:
    page.ask()
    slider = page("#field-MedInc ~ input[type=range]")
    with page.page.expect_response(re.compile("/predict$")) as answered:
        slider.focus()
        page.page.keyboard.press("End")
    assert (answered.value.request.post_data_json or {})["MedInc"] == 15.0001
    expect(page("#field-MedInc")).to_have_value("15")
    page("#field-MedInc").fill("0.4999")
    expect(slider).to_have_value("0")
    expect(page("#truth")).to_be_hidden()  # it is nobody's place any more


def test_curves_show_how_each_number_moves_the_price(page: FrontPage) -> None:
    expect(page(".curve:visible")).to_have_count(0)  # nothing has been asked
    page.ask()
    expect(page(".curve:visible")).to_have_count(8)
    expect(page(".field:has(#field-MedInc) .says")).to_have_text(re.compile(r"^\$[\d,]+ to \$[\d,]+$"))
    frame = page(".field:has(#field-MedInc) .frame")
    box = frame.bounding_box()
    assert box
    with page.page.expect_response(re.compile("/predict$")) as answered:
        frame.click(position={"x": box["width"] - 2, "y": 20})
    expect(page("#price")).to_have_text(dollars(answered.value.json()["predicted_median_house_value"]))
    expect(page("#field-MedInc ~ input[type=range]")).to_have_value("1000")


def test_wrong_input_shows_its_message_at_the_field(open_page: OpenPage) -> None:
    page = open_page(expected="status of 422")
    number = page("#field-Latitude")
    for wrong, message in (
        ("91", "less than or equal to 90"),
        ("much", "should be a valid number"),
        ("", "Field required"),
    ):
        number.fill(wrong)
        page("#form button[type=submit]").click()
        problem = page("#field-Latitude-problem")
        expect(problem).to_contain_text(message)
        expect(number).to_have_attribute("aria-invalid", "true")
        assert "field-Latitude-problem" in str(number.get_attribute("aria-describedby"))
        expect(page("#refusal")).to_contain_text("Latitude: ")
    number.fill("37.88")
    number.press("Enter")
    expect(page("#price")).to_have_text(re.compile(r"^\$"))
    expect(page("#field-Latitude-problem")).to_be_hidden()
    expect(page("#refusal")).to_be_hidden()
    expect(number).to_have_attribute("aria-invalid", "false")


def test_what_the_model_never_saw_is_warned_of(page: FrontPage) -> None:
    page("#field-AveRooms").fill("500")
    page("#field-AveRooms").press("Enter")
    expect(page("#warnings")).to_contain_text("Rooms 500 is outside the training range")
    expect(page(".field.outside label")).to_contain_text("Rooms")
    page("#field-Latitude").fill("47")
    page("#field-Latitude").press("Enter")
    expect(page("#warnings li")).to_have_count(3)


# -- the system ------------------------------------------------------------------------------------------------------


@contextmanager
def stopped(appliance: Appliance, program: str) -> Iterator[None]:
    """Stop a program as an operator does, and start it again."""

    def control(action: str) -> None:
        command = ["./entrypoint.sh", "python", "-m", "supervisor.supervisorctl", "-c", "supervisord.conf"]
        subprocess.run(
            [*command, action, f"appliance:{program}"], cwd=ROOT, env=appliance.environment, check=True, timeout=30
        )

    control("stop")
    try:
        yield
    finally:
        control("start")


def test_a_stopped_service_turns_red_and_back(page: FrontPage, running: Appliance) -> None:
    prometheus = page("#service-prometheus")
    expect(prometheus).to_have_attribute("data-state", "up")
    with stopped(running, "prometheus"):
        expect(prometheus).to_have_attribute("data-state", "down")
        expect(prometheus.locator(".state")).to_have_text("down")
        expect(page("#pulse")).to_have_text("Prometheus is down")
        expect(page("#news")).to_have_text("Prometheus is down.")
        red = "getComputedStyle(document.querySelector('#service-prometheus .dot')).backgroundColor"
        assert page.page.evaluate(red) == "rgb(179, 38, 30)"
    expect(prometheus).to_have_attribute("data-state", "up")
    expect(page("#pulse")).to_have_text("Version 1 serves")


def test_what_is_not_installed_is_said_so(page: FrontPage, running: Appliance) -> None:
    for name, seen in ask(running.services.api, "/health")["services"].items():
        service = page(f"#service-{name}")
        if seen["state"] == "missing":
            expect(service.locator(".state")).to_have_text("not installed")
            expect(service).to_contain_text(seen["detail"].replace("`", ""))
            assert service.locator("a").get_attribute("href") is None
        else:
            expect(service.locator(".state")).to_have_text("up")


def test_a_silent_service_is_said_so_and_comes_back(open_page: OpenPage) -> None:
    page = open_page(expected="ERR_INTERNET_DISCONNECTED")
    page.page.context.set_offline(True)
    expect(page("#outage")).to_contain_text("has not answered since")
    expect(page("#pulse")).to_have_text("The service does not answer")
    expect(page("#service-mlflow .state")).to_have_text("not known")
    page.click_map()
    expect(page("#refusal")).to_have_text("The service does not answer.")
    page.page.context.set_offline(False)
    expect(page("#outage")).to_be_hidden()
    expect(page("#truth")).to_contain_text("in the data")  # of the place that was clicked meanwhile
    expect(page("#refusal")).to_be_hidden()


@pytest.fixture
def promote(running: Appliance) -> Iterator[Callable[[], str]]:
    """Return a function that promotes another version of the same files until the test ends, and tells its number."""
    api = f"{running.services.mlflow}/api/2.0/mlflow"
    name, alias = running.services.model_name, running.services.model_alias
    login = ("admin", read_password(Layout(running.state).admin_password))
    versions: list[str] = []

    def serve(version: str) -> None:
        body = {"name": name, "alias": alias, "version": version}
        httpx.post(f"{api}/registered-models/alias", json=body, auth=login).raise_for_status()

    def promote_another() -> str:
        first = httpx.get(f"{api}/model-versions/get", params={"name": name, "version": "1"}).json()["model_version"]
        model_id = first["source"].removeprefix("models:/")
        body = {"name": name, "source": first["source"], "run_id": first["run_id"], "model_id": model_id}
        made = httpx.post(f"{api}/model-versions/create", json=body, auth=login).raise_for_status().json()
        versions.append(made["model_version"]["version"])
        serve(versions[0])
        return versions[0]

    yield promote_another
    serve("1")
    for version in versions:
        httpx.request("DELETE", f"{api}/model-versions/delete", json={"name": name, "version": version}, auth=login)
    wait_until(lambda: ask(running.services.api, "/ready")["model_version"] == "1", 30, "version 1 to serve again")


def test_a_promoted_version_shows_without_reload(page: FrontPage, promote: Callable[[], str]) -> None:
    expect(page("#model-version")).to_have_text("HousePriceModel 1")
    version = promote()
    expect(page("#model-version")).to_have_text(f"HousePriceModel {version}")
    expect(page("#pulse")).to_have_text(f"Version {version} serves")
    expect(page("#news")).to_have_text(f"Version {version} serves now.")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_links_lead_to_where_the_page_was_opened(open_page: OpenPage, running: Appliance, host: str) -> None:
    page = open_page(host=host)
    mlflow = f"http://{host}:{running.ports['MLFLOW_PORT']}/"
    expect(page("#service-mlflow a")).to_have_attribute("href", mlflow)
    run = ask(running.services.api, "/model")["run_id"]
    expect(page("#model-run")).to_have_attribute("href", f"{mlflow}#/runs/{run}")
    expect(page("#model-version")).to_have_attribute("href", f"{mlflow}#/models/HousePriceModel/versions/1")
    expect(page("#retrainings")).to_contain_text("promoted version 1")
    assert httpx.get(mlflow).status_code == 200


# -- files -----------------------------------------------------------------------------------------------------------


def rows(number: int) -> str:
    """Return the first rows of the data with a column of somebody's own."""
    header, *lines = DATA.read_text().splitlines()[: number + 1]
    return "\n".join([f"{header},Owner", *(f'{line},"Smith, J."' for line in lines)])


def drop(page: FrontPage, name: str, content: bytes) -> None:
    """Drop a file on the page, as a hand from a folder does."""
    transfer = page.page.evaluate_handle(
        """([name, content]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [name, base64.b64encode(content).decode()],
    )
    page.page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def downloaded(page: FrontPage) -> Path:
    with page.page.expect_download() as download:
        page("#download").click()
    return Path(download.value.path())


def test_a_dropped_file_comes_back_scored(page: FrontPage) -> None:
    drop(page, "houses.csv", rows(300).encode())
    expect(page("#file-state")).to_have_text("Done: 300 rows.")
    expect(page("#preview tbody tr")).to_have_count(8)
    expect(page("#preview thead th").first).to_have_text("predicted median house value")
    expect(page("#preview tbody tr").first).to_contain_text("Smith, J.")
    expect(page("#download")).to_have_attribute("download", "houses-scored.csv")
    scored = list(csv.DictReader(io.StringIO(downloaded(page).read_text())))
    assert len(scored) == 300
    assert all(
        float(row["low"]) <= float(row["predicted_median_house_value"]) <= float(row["high"]) for row in scored
    )
    assert {row["model_version"] for row in scored} == {"1"}


def test_a_parquet_file_is_chosen_and_answered_in_either_form(page: FrontPage, tmp_path: Path) -> None:
    file = tmp_path / "houses.parquet"
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(io.BytesIO(rows(50).encode())), file)
    page("#file").set_input_files(file)
    expect(page("#file-state")).to_have_text("Done: 50 rows.")
    page("input[name=kind][value=parquet]").check()
    page("#file").set_input_files(file)
    expect(page("#download")).to_have_attribute("download", "houses-scored.parquet")
    assert pyarrow.parquet.read_table(downloaded(page)).num_rows == 50


def test_what_is_wrong_in_a_file_is_said_in_words(open_page: OpenPage) -> None:
    page = open_page(expected="status of 422")
    drop(page, "cat.png", b"\x89PNG....")
    expect(page("#file-state")).to_have_text("cat.png is neither CSV nor Parquet.")
    lines = rows(12).splitlines()
    wrong = [lines[0], *(re.sub(r"^[^,]+", "rich", line) for line in lines[1:])]
    drop(page, "houses.csv", "\n".join(wrong).encode())
    expect(page("#file-state")).to_have_text("houses.csv was not scored: 12 problems.")
    expect(page("#file-problems li").first).to_contain_text("row 1, MedInc: ")
    expect(page("#file-problems li").last).to_have_text("and 4 problems more")
    page("#example").click()
    expect(page("#file-state")).to_have_text("Done: 200 rows.")
    expect(page("#file-problems")).to_be_hidden()


# -- for everybody ---------------------------------------------------------------------------------------------------


DARK_PHONE = {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}


@pytest.mark.parametrize("options", [{"color_scheme": "light"}, DARK_PHONE], ids=["light", "dark phone"])
def test_axe_finds_no_fault_of_accessibility(open_page: OpenPage, options: dict[str, object]) -> None:
    page = open_page(expected="status of 422", **options)
    results = [Axe().run(page.page)]
    page.ask()
    drop(page, "houses.csv", rows(20).encode())
    expect(page("#preview")).to_be_visible()
    page("#field-AveRooms").fill("500")
    page("#field-AveRooms").press("Enter")
    expect(page("#warnings")).to_be_visible()
    page("#field-Latitude").fill("91")
    page("#field-Latitude").press("Enter")
    expect(page("#refusal")).to_be_visible()
    results.append(Axe().run(page.page))
    faults = [fault for result in results for fault in result.response["violations"]]
    assert [(fault["id"], fault["impact"], [node["html"] for node in fault["nodes"]]) for fault in faults] == []


def test_a_phone_shows_all_of_it_without_scrolling_sideways(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    box = page("#map").bounding_box()
    assert box
    page.page.touchscreen.tap(box["x"] + box["width"] * 0.29, box["y"] + box["height"] * 0.48)
    expect(page("#price")).to_have_text(re.compile(r"^\$"))
    drop(page, "houses.csv", rows(20).encode())
    expect(page("#preview")).to_be_visible()
    assert page.page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_whole_page_weighs_less_than_200_kb(open_page: OpenPage) -> None:
    page = open_page()
    entries = page.page.evaluate("performance.getEntries().map((entry) => [entry.name, entry.transferSize])")
    sizes = {name: size for name, size in entries if size}
    assert any(name.endswith("/places") for name in sizes)
    assert sum(sizes.values()) < 200_000, sizes
