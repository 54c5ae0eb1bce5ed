"""The front page: what it is made of, its map, the place near a point, comparable places, the overview."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app import page_data
from app.main import create_app
from app.page_data import MAP_HEADER, NoRowsError, read_rows
from app.rates import Rates
from tableloop import api_keys
from tableloop.settings import Settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.locks import retraining_lock
from tableloop.table import DATA, load_table
from tests.unit.app.conftest import EXAMPLE, IN_EACH_STORE

WEB = Path(page_data.__file__).parent / "web"
TABLE = load_table()
RAW_DATA = DATA / TABLE.path


def rows() -> list[dict[str, float]]:
    with RAW_DATA.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_the_page_and_all_it_loads_are_small_and_its_own(client: TestClient) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "style=" not in page.text  # which that policy forbids
    assert f"<title>{TABLE.title}</title>" in page.text
    assert "$" not in page.text
    total = len(page.content) + len(client.get("/places").content)
    for file in WEB.iterdir():
        answer = client.get(f"/web/{file.name}")
        assert answer.status_code == 200
        assert not re.search(r"https?://(?!www\.w3\.org/)", answer.text), file.name
        total += 0 if file.stem == "versions" else len(answer.content)  # another page
    assert total < 250_000  # even without compression


def test_every_module_is_named_to_the_browser_before_it_is_needed() -> None:
    def named(page: str) -> set[str]:
        return set(re.findall(r'(?:href|src)="web/(\w+\.js)"', (WEB / page).read_text()))

    assert named("index.html") == {file.name for file in WEB.glob("*.js")} - {"versions.js"}
    assert named("versions.html") == {"versions.js", "api.js", "text.js"}


def test_the_map_holds_every_place(client: TestClient) -> None:
    answer = client.get("/places")
    data = answer.content
    count, south, west, step, least, value_step = MAP_HEADER.unpack_from(data)
    steps = np.frombuffer(data, "<u2", 2 * count, MAP_HEADER.size)
    values = np.frombuffer(data, "u1", count, MAP_HEADER.size + 4 * count)
    assert len(data) == MAP_HEADER.size + 5 * count
    expected = rows()
    assert count == len(expected) == 20_640
    north = [row["Latitude"] for row in expected]
    east = [row["Longitude"] for row in expected]
    np.testing.assert_allclose(south + step * steps[:count], north, atol=1e-4)
    np.testing.assert_allclose(west + step * steps[count:], east, atol=1e-4)
    worth = [row[TABLE.target_name] for row in expected]
    assert least == 0
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
    assert answer["features"] == {name: first[name] for name in TABLE.feature_names}
    assert answer["actual_value"] == first[TABLE.target_name]
    assert 0.1 < answer["kilometres"] < 0.2


@pytest.mark.parametrize("query", ["latitude=91&longitude=0", "latitude=nan&longitude=0", "longitude=0", ""])
def test_a_point_that_is_none_is_refused(client: TestClient, query: str) -> None:
    assert client.get(f"/places/nearest?{query}").status_code == 422


def test_comparable_places_are_near_alike_and_others(client: TestClient) -> None:
    place = client.get("/places/nearest?latitude=37.8&longitude=-122.2").json()
    found = client.post("/rows/alike", json=place["features"]).json()
    assert len(found) == page_data.ALIKE
    assert place["features"] not in [other["features"] for other in found]
    away = [other["kilometres"] for other in found]
    assert away == sorted(away)
    assert away[-1] < 5
    incomes = [other["features"]["MedInc"] for other in found]
    around = [row for row in rows() if abs(row["Latitude"] - 37.8) < 0.04 and abs(row["Longitude"] + 122.2) < 0.05]
    spread = np.std([row["MedInc"] for row in around])
    assert np.abs(np.array(incomes) - place["features"]["MedInc"]).mean() < spread
    assert client.post("/rows/alike", json=EXAMPLE | {"Latitude": 91.0}).status_code == 422


def test_curves_are_the_predictions_of_other_rows_and_are_not_logged(client: TestClient, settings: Settings) -> None:
    curves = client.post("/curves", json=EXAMPLE).json()
    assert [curve["name"] for curve in curves] == list(TABLE.feature_names)
    income = curves[0]
    parts = (income[part] for part in ("values", "predicted", "low", "high"))
    for value, *numbers in zip(*parts, strict=True):
        answer = client.post("/predict", json=EXAMPLE | {"MedInc": value}).json()
        expected = [answer[TABLE.answer], answer["interval"]["low"], answer["interval"]["high"]]
        assert numbers == pytest.approx(expected, rel=1e-5)
    predicted = len(income["values"])
    assert client.get("/overview").json()["live"]["per_minute"][-1] == predicted
    with sqlite3.connect(Layout(settings.state_dir).database) as store:
        assert store.execute("SELECT count(*) FROM predictions").fetchone() == (predicted,)


def test_curves_are_for_those_who_may_predict(settings: Settings) -> None:
    key = {"X-API-Key": api_keys.add(settings, "visitor", "predict")}
    with TestClient(create_app(settings)) as client:
        assert client.post("/curves", json=EXAMPLE).status_code == 401
        assert client.post("/curves", json=EXAMPLE, headers=key).status_code == 200
        assert client.post("/curves", json={"MedInc": 1}, headers=key).status_code == 422


def test_points_of_a_chart_can_be_asked_about(client: TestClient) -> None:
    points = client.get("/rows/points", params={"feature": "MedInc"}).json()
    assert len(points["x"]) == len(points["y"]) == page_data.POINTS
    row = client.get("/rows/points/17").json()
    assert points["x"][17] == pytest.approx(row["features"]["MedInc"], rel=1e-5)
    assert points["y"][17] == pytest.approx(row["actual_value"], rel=1e-5)
    for path in ("points/3000", "points/-1", "points?feature=Price"):
        assert client.get(f"/rows/{path}").status_code == 404


def test_features_are_those_of_the_schema_with_a_scale_of_the_data(client: TestClient) -> None:
    table = client.get("/table").json()
    assert table["answer"] == TABLE.answer
    assert table["landmarks"]["Los Angeles"] == [34.05, -118.24, 1]
    assert table["comparable"][0] == {"column": "MedInc", "title": "Income", "per": 10, "as": "display"}
    scales = table["features"]
    assert [scale["name"] for scale in scales] == list(TABLE.feature_names)
    for scale, column in zip(scales, TABLE.features, strict=True):
        assert (scale["title"], scale["unit"], scale["maximum"]) == (column.title, column.unit, column.maximum)
        assert scale["scale"] == sorted(scale["scale"])
    values = [row["HouseAge"] for row in rows()]
    assert scales[1]["scale"][0] == min(values)
    assert scales[1]["scale"][-1] == max(values)
    assert scales[1]["scale"][len(scales[1]["scale"]) // 2] == np.median(values)
    assert scales[6]["training_range"] == [-90, 90]


def test_the_example_file_can_be_predicted(client: TestClient) -> None:
    example = client.get("/rows/example.csv")
    assert example.headers["content-type"].startswith("text/csv")
    assert example.text.splitlines()[0] == ",".join(TABLE.feature_names)
    scored = client.post("/predict/batch", content=example.content, headers={"Content-Type": "text/csv"})
    assert scored.status_code == 200
    assert len(scored.text.splitlines()) == 1 + page_data.EXAMPLE_ROWS


def test_a_file_that_is_no_such_table_is_named(tmp_path: Path) -> None:
    for text in ("", "MedInc,HouseAge\n1,2\n", ",".join([*TABLE.feature_names, TABLE.target_name]) + "\n1,2,x\n"):
        file = tmp_path / "data.csv"
        file.write_text(text)
        with pytest.raises(NoRowsError, match=re.escape(str(file))):
            read_rows(file, TABLE)
    with pytest.raises(NoRowsError, match="No such file"):
        read_rows(tmp_path / "nothing.csv", TABLE)


def test_without_the_data_the_map_says_so_and_predictions_go_on(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.routes.page.table_rows", lambda: read_rows(Path("/nowhere/data.csv"), TABLE))
    answer = client.get("/places")
    assert answer.status_code == 503
    assert "/nowhere/data.csv" in answer.json()["detail"]
    assert client.post("/predict", json=EXAMPLE).status_code == 200


def test_one_row_of_all_alike_places_is_no_division_by_zero() -> None:
    row = [EXAMPLE[name] for name in TABLE.feature_names]
    same = page_data.Rows(TABLE, np.array([row] * 3), np.array([1.0, 2.0, 3.0]), 3)
    assert [place.actual_value for place in same.alike(EXAMPLE | {"HouseAge": 5.0})] == [1.0, 2.0, 3.0]


# -- overview ------------------------------------------------------------------------------------------------------


def test_the_overview_has_the_answers_of_other_calls(client: TestClient, settings: Settings) -> None:
    file = settings.state_dir / "run" / "health.json"
    file.parent.mkdir()
    services = {"mlflow": {"state": "down", "detail": "no answer", "address": "http://localhost:5002"}}
    file.write_text(json.dumps({"checked_at": "2026-01-01T00:00:00+00:00", "services": services}))
    shown = client.get("/overview").json()
    for call in ("health", "ready", "model"):
        assert shown[call] == client.get(f"/{call}").json(), call
    assert shown["health"]["services"] == services
    assert (shown["drift"], shown["retrainings"]) == (None, [])


def test_the_overview_without_a_model_is_an_answer(settings: Settings) -> None:
    app = create_app(settings)
    with TestClient(app) as client:
        app.state.parts.predictor.keeper.current = None
        shown = client.get("/overview")
    assert shown.status_code == 200
    assert (shown.json()["model"], shown.json()["ready"]["status"]) == (None, "not ready")


@IN_EACH_STORE
def test_the_overview_tells_drift_and_retrainings(client: TestClient, settings: Settings) -> None:
    layout = Layout(settings.state_dir)
    store = Store.of(settings)
    columns = [{"title": "House age", "drifted": True}, {"title": "Rooms", "drifted": False}]
    monitor = {"says": "waits", "waits_for": ["200 more labels"], "retraining": False}
    store.add_drift_report({"status": "drift", "summary": "older", "columns": columns, "monitor": monitor}, {})
    for number in range(1, 8):
        store.end_retraining(store.begin_retraining("user", "", "somebody"), "promoted", str(number), "better", {})
    store.begin_retraining("drift", "drift: older", "the drift monitor")
    with retraining_lock(layout, database_url=store.database_url):
        shown = client.get("/overview").json()
    assert (shown["drift"]["status"], shown["drift"]["summary"]) == ("drift", "older")
    assert shown["drift"]["columns"] == ["House age"]
    assert shown["drift"]["monitor"]["retraining"] is True
    assert shown["drift"]["monitor"]["waits_for"] == ["200 more labels"]
    assert [entry["version"] for entry in shown["retrainings"]] == ["7", "6", "5", "4", "3"]


@IN_EACH_STORE
def test_the_overview_counts_predictions_and_the_live_error(client: TestClient) -> None:
    prediction = client.post("/predict", json=EXAMPLE).json()
    client.post("/predict/batch", json=[EXAMPLE] * 2)
    actual = prediction["predicted_median_house_value"] + 0.5
    client.post("/feedback", json={"prediction_id": prediction["prediction_id"], "actual_value": actual})
    live = client.get("/overview").json()["live"]
    assert (len(live["per_minute"]), live["per_minute"][-1]) == (60, 3)
    assert (live["rmse"], live["labels"]) == (pytest.approx(0.5), 1)


def test_rates_are_of_each_minute() -> None:
    total = 0
    rates = Rates(lambda: total)
    for now, total in ((1_000.0, 0), (1_030.0, 5), (1_090.0, 12)):  # noqa: B007 - what the rates ask for
        rates.sample(now)
    total = 20
    assert rates.per_minute(1_150.0)[-3:] == [5, 7, 8]
