"""The versions side by side: what the registry, the store and the labels say of each, and who is asked how often."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from app import version_history
from app.champion import DummyKeeper
from app.labels import LiveErrors
from app.main import create_app
from app.schemas import Versions
from app.version_history import VersionHistory
from tableloop.settings import Settings
from tableloop.state import shadows
from tableloop.state.database import PROMOTED, REFUSED, ROLLED_BACK, Store
from tableloop.state.layout import Layout
from tests.unit.app.conftest import EXAMPLE, IN_EACH_STORE

MODEL = "HousePriceModel"
MARKUP = "<img src=x onerror=alert(1)>"


class Mlflow:
    """A server that answers as MLflow does, with the versions that it is given."""

    def __init__(self) -> None:
        self.versions: list[dict[str, Any]] = []
        self.aliases: list[dict[str, str]] = []
        self.metrics: dict[str, dict[str, float]] = {}
        self.asked: list[str] = []
        self.seconds = 0.0  # each answer takes
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                registry.asked.append(address.path.rpartition("mlflow/")[2])
                time.sleep(registry.seconds)
                answer = registry.answer(registry.asked[-1], parse_qs(address.query))
                self.send_response(404 if "error_code" in answer else 200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, call: str, query: dict[str, list[str]]) -> dict[str, Any]:
        if call == "registered-models/get":
            return {"registered_model": {"name": MODEL, "aliases": self.aliases}}
        if call == "model-versions/search":
            assert query["filter"] == [f"name = '{MODEL}'"]
            return {"model_versions": self.versions[: int(query["max_results"][0])]}
        run = self.metrics.get(query["run_id"][0])
        if call == "runs/get" and run is not None:
            return {"run": {"data": {"metrics": [{"key": key, "value": value} for key, value in run.items()]}}}
        return {"error_code": "RESOURCE_DOES_NOT_EXIST"}

    def add(self, number: int, **tags: str) -> None:
        """Register a version before those that there are: they are the older ones."""
        version = {
            **{"name": MODEL, "version": str(number), "run_id": f"run{number}"},
            "creation_timestamp": 1_767_225_600_000 + number,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        self.versions.insert(0, version)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def mlflow() -> Iterator[Mlflow]:
    server = Mlflow()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Layout(tmp_path).database)


@pytest.fixture
def history(mlflow: Mlflow, store: Store, tmp_path: Path) -> VersionHistory:
    settings = Settings(state_dir=tmp_path, mlflow_tracking_uri=mlflow.uri)
    return VersionHistory(settings, store, DummyKeeper(), LiveErrors(store))


def read(history: VersionHistory, limit: int = 20) -> Versions:
    return asyncio.run(history.newest(limit))


# -- the store -----------------------------------------------------------------------------------------------------


@IN_EACH_STORE
def test_without_a_registry_it_is_what_the_store_knows(client: TestClient, settings: Settings) -> None:
    store = Store.of(settings)
    for version, event, detail in (
        ("9", PROMOTED, "better"),
        ("10", PROMOTED, "by anna: agreed"),
        ("10", REFUSED, "broken"),
        ("9", ROLLED_BACK, "by anna: too high"),
    ):
        store.record_serving(MODEL, version, f"run{version}", event, detail)
    store.record_serving("another model", "11", "run11", PROMOTED)
    made = client.post("/predict", json=EXAMPLE).json()
    label = {"prediction_id": made["prediction_id"], "actual_value": made["predicted_median_house_value"] + 0.5}
    client.post("/feedback", json=label)
    answer = client.get("/versions").json()
    assert "TEST_MODE" in answer["problem"]
    assert (answer["name"], answer["alias"], answer["serves"]) == (MODEL, "Production", "dummy")
    ten, nine, dummy = answer["versions"]
    assert [(one["event"], one["detail"]) for one in ten["history"]] == [
        (REFUSED, "broken"),
        (PROMOTED, "by anna: agreed"),
    ]
    assert [one["event"] for one in nine["history"]] == [ROLLED_BACK, PROMOTED]
    assert nine["history"][0]["at"].endswith("+00:00")
    assert (ten["version"], ten["run_id"], ten["family"], ten["gate"]) == ("10", "run10", None, None)
    assert (dummy["version"], dummy["serves"], dummy["family"]) == ("dummy", True, "dummy")
    assert dummy["live"] == {"rmse": pytest.approx(0.5), "coverage": 1.0, "labels": 1}


@IN_EACH_STORE
def test_both_errors_of_a_time_in_the_shadow_are_of_the_same_rows(client: TestClient, settings: Settings) -> None:
    store = Store.of(settings)
    client.post("/predict", json=EXAMPLE)  # before it was in the shadow
    shadow = shadows.begin(store, MODEL, "7", "run7")
    values = []
    for error, unlabelled in ((0.4, False), (-0.4, False), (0.0, True)):
        made = client.post("/predict", json=EXAMPLE).json()
        answered = made["predicted_median_house_value"]
        number = store.newest_predictions(1)[0].id
        values.append(shadows.Value(number, answered + error / 2, answered - 0.1, answered + 0.5))
        if not unlabelled:
            label = {"prediction_id": made["prediction_id"], "actual_value": answered + error}
            client.post("/feedback", json=label)
    shadows.add_values(store, shadow, values, values[-1].id)
    shadows.end(store, MODEL, "promoted", "it is better")
    shadows.begin(store, MODEL, "8", "run8")
    eight, seven, _ = client.get("/versions").json()["versions"]
    (time_,) = seven["shadow"]
    assert (time_["outcome"], time_["reason"], time_["scored"]) == ("promoted", "it is better", 3)
    assert time_["live"] == {"rmse": pytest.approx(0.2), "coverage": 0.5, "labels": 2}
    assert time_["answered"] == {"rmse": pytest.approx(0.4), "coverage": 1.0, "labels": 2}
    assert (eight["shadow"][0]["ended_at"], eight["shadow"][0]["live"]) == (None, None)


def test_a_store_that_cannot_be_read_is_503(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, test_mode=True, prediction_log=False)
    Layout(tmp_path).database.write_bytes(b"x" * 8192)
    with TestClient(create_app(settings)) as client:
        for _ in range(2):
            answer = client.get("/versions")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert "not a database" in answer.json()["detail"]


# -- the registry --------------------------------------------------------------------------------------------------


def test_a_version_is_what_the_registry_says_of_it(history: VersionHistory, mlflow: Mlflow, store: Store) -> None:
    mlflow.add(1, family="spatial", data_md5="0" * 32, code_digest="1" * 32, gate="promoted", gate_reason="first")
    mlflow.add(
        2,
        **{"feedback_batches": "3", "revocations": "1", "trained_until": "1767225600.5", "git_commit": "c0ffee"},
        **{"gate": "promoted", "gate_reason": MARKUP, "gate_decided_by": "labels", "gate_labels": "312"},
        **{"gate_champion_version": "1", "gate_share_no_worse": "0.98", "gate_promoted_by": "anna: agreed"},
        rolled_back="too high",
        rejected_by_hand="by anna: no",
    )
    mlflow.aliases = [{"alias": "Shadow", "version": "2"}, {"alias": "Production", "version": "1"}]
    mlflow.metrics = {"run2": {"test_rmse": 0.36, "custom_rmse": 0.38, "train_seconds": 9.0, "test_r2": float("inf")}}
    store.record_serving(MODEL, "2", "run2", PROMOTED, "better")
    store.record_serving(MODEL, "2", "of another registry", PROMOTED, "not this one")
    found = read(history)
    assert found.problem is None
    two, one = found.versions
    assert (one.version, one.aliases, one.family, one.scores) == ("1", ["Production"], "spatial", {})
    assert (one.data_md5, one.code_digest, one.registered_at) == ("0" * 32, "1" * 32, "2026-01-01T00:00:00+00:00")
    assert (two.aliases, two.scores) == (["Shadow"], {"custom_rmse": 0.38, "test_rmse": 0.36})
    assert (two.label_batches, two.revocations, two.trained_until) == (3, 1, "2026-01-01T00:00:00+00:00")
    assert two.gate is not None
    assert (two.gate.reason, two.gate.labels, two.gate.share_no_worse) == (MARKUP, 312, 0.98)
    assert (two.gate.decided_by, two.gate.promoted_by) == ("labels", "anna: agreed")
    assert (two.rolled_back, two.rejected, two.git_commit) == ("too high", "by anna: no", "c0ffee")
    assert [event.detail for event in two.history] == ["better"]
    assert not any(version.serves for version in found.versions)


@pytest.mark.parametrize("number", ["", "many", "nan", "inf", "-1e999", "1e300", "9" * 5000])
def test_numbers_that_strangers_write_do_no_harm(history: VersionHistory, mlflow: Mlflow, number: str) -> None:
    names = ("feedback_batches", "trained_until", "gate_labels", "gate_challenger_rmse", "gate_share_no_worse")
    mlflow.add(1, gate="?", **dict.fromkeys(names, number))
    (version,) = read(history).versions
    assert version.trained_until is None
    assert version.gate is not None
    json.loads(version.model_dump_json())


def test_the_newest_come_first_and_at_most_so_many(history: VersionHistory, mlflow: Mlflow) -> None:
    for number in range(1, 31):
        mlflow.add(number)
    assert [one.version for one in read(history).versions] == [str(number) for number in range(30, 10, -1)]
    assert [one.version for one in read(history, 2).versions] == ["30", "29"]


def test_a_flood_asks_the_registry_once(history: VersionHistory, mlflow: Mlflow) -> None:
    mlflow.add(1)
    mlflow.metrics = {"run1": {"test_rmse": 0.36}}
    mlflow.seconds = 0.05

    async def flood() -> list[Versions]:
        return await asyncio.gather(*(history.newest(20) for _ in range(100)))

    answers = asyncio.run(flood())
    assert {answer.versions[0].scores["test_rmse"] for answer in answers} == {0.36}
    assert mlflow.asked == ["registered-models/get", "model-versions/search", "runs/get"]


def test_the_scores_of_a_run_are_asked_for_once(
    history: VersionHistory, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_history, "KEPT_SECONDS", 0.0)
    mlflow.add(1)
    mlflow.metrics = {"run1": {"test_rmse": 0.36}}
    for _ in range(3):
        assert read(history).versions[0].scores == {"test_rmse": 0.36}
    assert mlflow.asked.count("runs/get") == 1
    mlflow.add(2)
    assert [one.version for one in read(history).versions] == ["2", "1"]


def test_a_registry_that_does_not_answer_is_told_and_the_store_shown(tmp_path: Path, store: Store) -> None:
    settings = Settings(state_dir=tmp_path, mlflow_tracking_uri="http://127.0.0.1:9")
    store.record_serving(MODEL, "2", "run2", PROMOTED, "better")
    found = read(VersionHistory(settings, store, DummyKeeper(), LiveErrors(store)))
    assert found.problem is not None
    assert found.problem.startswith("the registry does not answer (")
    assert "only what the store knows" in found.problem
    assert [one.version for one in found.versions] == ["2", "dummy"]


def test_a_slow_registry_is_waited_for_so_long(
    history: VersionHistory, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_history, "ANSWER_SECONDS", 0.5)
    for number in range(1, 21):
        mlflow.add(number)
    mlflow.seconds = 0.1
    started = time.monotonic()
    found = read(history)
    assert time.monotonic() - started < 2
    assert len(found.versions) == 20
    assert found.problem is not None
    assert "scores of some versions are missing" in found.problem


def test_what_is_no_registry_is_told(
    history: VersionHistory, mlflow: Mlflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "answer", lambda *_: {"something": "else"})
    problem = read(history).problem
    assert problem is not None
    assert problem.startswith("the registry does not answer")


# -- the forms of the answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "*/*", "application/json"),
        ("", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("?format=html", "*/*", "text/html; charset=utf-8"),
        ("?format=json", "text/html", "application/json"),
    ],
)
def test_it_comes_in_the_form_that_was_asked_for(client: TestClient, query: str, accept: str, kind: str) -> None:
    answer = client.get(f"/versions{query}", headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"], answer.headers["vary"]) == (200, kind, "Accept")


@pytest.mark.parametrize("query", ["format=pdf", "limit=0", "limit=21", "limit=x"])
def test_another_form_or_number_is_422(client: TestClient, query: str) -> None:
    assert client.get(f"/versions?{query}").status_code == 422


def test_the_answer_has_the_fields_of_its_description(client: TestClient) -> None:
    answer = client.get("/versions?limit=1").json()
    assert Versions.model_validate(answer, extra="forbid").model_dump(mode="json") == answer


def test_the_page_is_its_own_and_escapes_names(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, test_mode=True, model_name=f"Prices {MARKUP}")
    with TestClient(create_app(settings)) as client:
        page = client.get("/versions?format=html")
        assert client.get("/").headers["content-security-policy"] == page.headers["content-security-policy"]
    assert "&lt;img" in page.text
    assert MARKUP not in page.text
    assert "style=" not in page.text
    assert "$" not in page.text


def test_the_page_of_mlflow_is_linked_where_the_watchdog_says_it_is(
    history: VersionHistory, mlflow: Mlflow, tmp_path: Path
) -> None:
    mlflow.add(3)
    file = Layout(tmp_path).health
    file.parent.mkdir(parents=True)
    services = {"mlflow": {"state": "up", "detail": "", "address": "https://mlflow.example.org/"}}
    file.write_text(json.dumps({"checked_at": "2026-01-01T00:00:00+00:00", "services": services}))
    assert read(history).versions[0].link == f"https://mlflow.example.org/#/models/{MODEL}/versions/3"
