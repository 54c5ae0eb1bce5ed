"""The front page: what it is made of, its map, the place near a point, comparable places, the overview."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Histogram

from app import overview, page_data
from app.overview import Rates
from app.page_data import DATA, MAP_HEADER, NoPlacesError, read_places
from app.schemas import HouseFeatures
from tableloop.settings import Settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.locks import retraining_lock
from tableloop.table import FEATURE_NAMES, FEATURES, TARGET
from tests.unit.app.conftest import EXAMPLE

WEB = Path(page_data.__file__).parent / "web"


def rows() -> list[dict[str, float]]:
    with DATA.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_the_page_and_all_it_loads_are_small_and_its_own(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "style=" not in page.text  # which that policy forbids
    total = len(page.content) + len(client.get("/places").content)
    for file in WEB.iterdir():
        answer = client.get(f"/web/{file.name}")
        assert answer.status_code == 200
        assert not re.search(r"https?://(?!www\.w3\.org/)", answer.text), file.name
        total += len(answer.content)
    assert total < 200_000  # even without compression


def test_every_module_is_named_to_the_browser_before_it_is_needed() -> None:
    page = (WEB / "index.html").read_text()
    named = set(re.findall(r'(?:href|src)="web/(\w+\.js)"', page))
    assert named == {file.name for file in WEB.glob("*.js")}


def test_the_map_holds_every_place(client: TestClient) -> None:
    answer = client.get("/places")
    data = answer.content
    count, _, south, west, step, value_step = MAP_HEADER.unpack_from(data)
    steps = np.frombuffer(data, "<u2", 2 * count, MAP_HEADER.size)
    values = np.frombuffer(data, "u1", count, MAP_HEADER.size + 4 * count)
    assert len(data) == MAP_HEADER.size + 5 * count
    expected = rows()
    assert count == len(expected) == 20_640
    north = [row["Latitude"] for row in expected]
    east = [row["Longitude"] for row in expected]
    np.testing.assert_allclose(south + step * steps[:count], north, atol=1e-4)
    np.testing.assert_allclose(west + step * steps[count:], east, atol=1e-4)
    worth = [row[TARGET.name] for row in expected]
    np.testing.assert_allclose(value_step * values, worth, atol=value_step / 2 + 1e-4)


def test_the_map_is_sent_once_and_compressed(client: TestClient) -> None:
    zipped = client.get("/places")
    assert zipped.headers["content-encoding"] == "gzip"
    assert int(zipped.headers["content-length"]) < 60_000
    plain = client.get("/places", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == zipped.content
    again = client.get("/places", headers={"If-None-Match": zipped.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_nearest_place_has_the_features_of_the_data(client: TestClient) -> None:
    row = rows()[5_000]
    north, east = row["Latitude"] + 0.001, row["Longitude"] - 0.001
    answer = client.get("/places/nearest", params={"latitude": north, "longitude": east}).json()
    first = next(one for one in rows() if (one["Latitude"], one["Longitude"]) == (row["Latitude"], row["Longitude"]))
    assert answer["features"] == {name: first[name] for name in FEATURE_NAMES}
    assert answer["actual_value"] == first[TARGET.name]
    assert 0.1 < answer["kilometres"] < 0.2


@pytest.mark.parametrize("query", ["latitude=91&longitude=0", "latitude=nan&longitude=0", "longitude=0", ""])
def test_a_point_that_is_none_is_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/places/nearest?{query}").status_code == 422


def test_comparable_places_are_near_alike_and_others(client: TestClient) -> None:
    place = client.get("/places/nearest?latitude=37.8&longitude=-122.2").json()
    found = client.post("/places/comparable", json=place["features"]).json()
    assert len(found) == page_data.COMPARABLE
    assert place["features"] not in [other["features"] for other in found]
    away = [other["kilometres"] for other in found]
    assert away == sorted(away)
    assert away[-1] < 5
    incomes = [other["features"]["MedInc"] for other in found]
    around = [row for row in rows() if abs(row["Latitude"] - 37.8) < 0.04 and abs(row["Longitude"] + 122.2) < 0.05]
    spread = np.std([row["MedInc"] for row in around])
    assert np.abs(np.array(incomes) - place["features"]["MedInc"]).mean() < spread
    assert client.post("/places/comparable", json=EXAMPLE | {"Latitude": 91.0}).status_code == 422


def test_features_are_those_of_the_schema_with_a_scale_of_the_data(client: TestClient) -> None:
    scales = client.get("/features").json()
    assert [scale["name"] for scale in scales] == list(FEATURE_NAMES)
    for scale, column in zip(scales, FEATURES, strict=True):
        assert (scale["title"], scale["unit"], scale["maximum"]) == (column.title, column.unit, column.maximum)
        assert scale["scale"] == sorted(scale["scale"])
    values = [row["HouseAge"] for row in rows()]
    assert scales[1]["scale"][0] == min(values)
    assert scales[1]["scale"][-1] == max(values)
    assert scales[1]["scale"][len(scales[1]["scale"]) // 2] == np.median(values)
    assert scales[6]["training_range"] == [32.5, 42.0]


def test_the_example_file_can_be_predicted(client: TestClient) -> None:
    example = client.get("/places/example.csv")
    assert example.headers["content-type"].startswith("text/csv")
    assert example.text.splitlines()[0] == ",".join(FEATURE_NAMES)
    scored = client.post("/predict/batch", content=example.content, headers={"Content-Type": "text/csv"})
    assert scored.status_code == 200
    assert len(scored.text.splitlines()) == 1 + page_data.EXAMPLE_ROWS


def test_a_file_that_is_no_such_table_is_named(tmp_path: Path) -> None:
    for text in ("", "MedInc,HouseAge\n1,2\n", ",".join([*FEATURE_NAMES, TARGET.name]) + "\n1,2,x\n"):
        file = tmp_path / "data.csv"
        file.write_text(text)
        with pytest.raises(NoPlacesError, match=re.escape(str(file))):
            read_places(file)
    with pytest.raises(NoPlacesError, match="No such file"):
        read_places(tmp_path / "nothing.csv")


def test_without_the_data_the_map_says_so_and_predictions_go_on(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.routes.page.read_places", lambda: read_places(Path("/nowhere/data.csv")))
    answer = client.get("/places")
    assert answer.status_code == 503
    assert "/nowhere/data.csv" in answer.json()["detail"]
    assert client.post("/predict", json=EXAMPLE).status_code == 200


def test_one_row_of_all_alike_places_is_no_division_by_zero() -> None:
    row = [EXAMPLE[name] for name in FEATURE_NAMES]
    same = page_data.Places(np.array([row] * 3), np.array([1.0, 2.0, 3.0]))
    other = HouseFeatures(**(EXAMPLE | {"HouseAge": 5.0}))
    assert [place.actual_value for place in same.comparable(other)] == [1.0, 2.0, 3.0]


# -- overview ------------------------------------------------------------------------------------------------------


@pytest.fixture
def health(settings: Settings) -> Path:
    file = settings.state_dir / "run" / "health.json"
    file.parent.mkdir()
    return file


def write_health(file: Path, checked_at: str, **states: str) -> None:
    services = {name: {"state": state, "detail": f"{name} says"} for name, state in states.items()}
    file.write_text(json.dumps({"checked_at": checked_at, "services": services}))


def states_of(client: TestClient) -> dict[str, tuple[str, str]]:
    return {found["name"]: (found["state"], found["detail"]) for found in client.get("/overview").json()["services"]}


def test_the_overview_passes_on_what_the_watchdog_saw(client: TestClient, health: Path) -> None:
    write_health(health, client.get("/overview").json()["now"], mlflow="down", prometheus="up", grafana="missing")
    states = states_of(client)
    assert states["api"] == ("up", "answers")
    assert states["mlflow"] == ("down", "mlflow says")
    assert states["grafana"] == ("missing", "grafana says")


def test_an_old_report_is_not_the_present(client: TestClient, health: Path) -> None:
    write_health(health, "2026-01-01T00:00:00+00:00", mlflow="up", grafana="missing")
    states = states_of(client)
    assert states["mlflow"][0] == "unknown"
    assert "the watchdog last looked" in states["mlflow"][1]
    assert states["grafana"][0] == "missing"
    health.unlink()
    assert states_of(client)["mlflow"] == ("unknown", "nobody watches it here")


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://127.0.0.1:5002", (5002, None)),
        ("http://mlflow:5005", (5005, None)),
        ("https://mlflow.example.org", (None, "https://mlflow.example.org")),
    ],
)
def test_a_link_leads_to_where_a_browser_finds_the_service(
    tmp_path: Path, uri: str, address: tuple[int | None, str | None]
) -> None:
    settings = Settings(state_dir=tmp_path, mlflow_tracking_uri=uri, api_port=8001)
    services = {service.name: service for service in overview._services(settings, {}, 0.0)}
    assert (services["mlflow"].port, services["mlflow"].url) == address
    assert services["api"].port == 8001


def test_the_overview_tells_model_drift_and_retrainings(client: TestClient, settings: Settings) -> None:
    shown = client.get("/overview").json()
    assert shown["model"]["version"] == "dummy"
    assert (shown["drift"], shown["retrainings"], shown["prediction_log"]) == (None, [], "on")
    columns = [{"title": "House age", "drifted": True}, {"title": "Rooms", "drifted": False}]
    report = {
        "status": "drift",
        "summary": "older",
        "columns": columns,
        "monitor": {"says": "waits", "waits_for": ["200 more labels"], "retraining": False},
    }
    store = Store(Layout(settings.state_dir).database)
    store.add_drift_report(report, {})
    for number in range(1, 8):
        store.end_retraining(store.begin_retraining("user", "", "somebody"), "promoted", str(number), "better", {})
    store.begin_retraining("drift", "drift: older", "the drift monitor")
    with retraining_lock(Layout(settings.state_dir)):
        shown = client.get("/overview").json()
    assert shown["drift"] == {
        "status": "drift",
        "summary": "older",
        "checked_at": None,
        "says": "waits",
        "columns": ["House age"],
        "waits_for": ["200 more labels"],
        "retraining": True,
    }
    assert [entry["version"] for entry in shown["retrainings"]] == ["7", "6", "5", "4", "3"]


def test_the_overview_counts_predictions_and_the_live_error(client: TestClient) -> None:
    prediction = client.post("/predict", json=EXAMPLE).json()
    client.post("/predict/batch", json=[EXAMPLE] * 2)
    actual = prediction["predicted_median_house_value"] + 0.5
    client.post("/feedback", json={"prediction_id": prediction["prediction_id"], "actual_value": actual})
    live = client.get("/overview").json()["live"]
    assert (len(live["per_minute"]), live["per_minute"][-1]) == (60, 3)
    assert (live["rmse"], live["labels"]) == (pytest.approx(0.5), 1)


def test_rates_are_of_each_minute() -> None:
    histogram = Histogram("predicted_house_value", "of a test", registry=CollectorRegistry())
    rates = Rates(histogram)
    rates._samples.extend([(1_000.0, 0.0), (1_030.0, 5.0), (1_090.0, 12.0)])
    for _ in range(20):
        histogram.observe(1.0)
    assert rates.per_minute(1_150.0)[-3:] == [5, 7, 8]
