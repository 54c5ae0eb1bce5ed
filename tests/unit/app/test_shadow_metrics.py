"""What the metrics say of a version in the shadow, beside the dummy model, whose answers it is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import shadow_metrics
from app.main import create_app
from tableloop.settings import Settings
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.shadows import Shadow, Value
from tests.unit.app.conftest import EXAMPLE, IN_EACH_STORE, LOGIN


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every scrape compare anew."""
    monkeypatch.setattr(shadow_metrics, "KEPT_SECONDS", 0.0)


def samples(client: TestClient) -> dict[str, float]:
    """Return the metrics of the shadow."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("shadow_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def answer(client: TestClient, store: Store, shadow: Shadow, *differences: float) -> list[str]:
    """Ask for predictions, of each of which the shadow says so much more, and return their ids."""
    made = [client.post("/predict", json=EXAMPLE).json()["prediction_id"] for _ in differences]
    newest = store.newest_predictions(len(made))[::-1]
    values = [
        Value(each.id, each.prediction + more, each.prediction, each.prediction + 1)
        for each, more in zip(newest, differences, strict=True)
    ]
    shadows.add_values(store, shadow, values, newest[-1].id)
    return made


def label(client: TestClient, store: Store, name: str, difference: float) -> None:
    """Send a true value that is so much more than the answer."""
    made = store.prediction(name)
    assert made is not None
    sent = {"prediction_id": name, "actual_value": made.prediction + difference}
    assert client.post("/feedback", json=sent).status_code == 201


@IN_EACH_STORE
def test_without_a_version_in_the_shadow_there_is_nothing(client: TestClient, settings: Settings) -> None:
    assert samples(client) == {}
    store = Store.of(settings)
    shadows.begin(store, settings.model_name, "2", "run")
    shadows.end(store, settings.model_name, "rejected", "worse")
    shadows.begin(store, "AnotherModel", "7", "run")
    client.post("/predict", json=EXAMPLE)
    assert samples(client) == {}


@IN_EACH_STORE
def test_both_are_compared_on_the_same_labels(client: TestClient, settings: Settings) -> None:
    store = Store.of(settings)
    client.post("/predict", json=EXAMPLE)
    shadow = shadows.begin(store, settings.model_name, "2", "run")
    counts = {"shadow_labels": 0, "shadow_predictions_scored": 0, "shadow_failures": 0}
    assert samples(client) == {'shadow_info{version="2"}': 1} | counts
    names = answer(client, store, shadow, 0.25, 0.5, -0.75)
    assert samples(client) == {'shadow_info{version="2"}': 1, "shadow_disagreement": 0.5} | counts | {
        "shadow_predictions_scored": 3
    }
    label(client, store, names[0], 0.25)
    shadows.note_problem(store, shadow, 1, "no such file")
    found = samples(client)
    assert found == pytest.approx(
        {
            'shadow_info{version="2"}': 1,
            'shadow_rmse{alias="Shadow",model_version="2"}': 0,
            'shadow_rmse{alias="Production",model_version="dummy"}': 0.25,
            "shadow_disagreement": 0.5,
            "shadow_labels": 1,
            "shadow_predictions_scored": 3,
            "shadow_failures": 1,
        },
        abs=1e-9,
    )
    label(client, store, names[2], 0.25)
    found = samples(client)
    assert found['shadow_rmse{alias="Shadow",model_version="2"}'] == pytest.approx(0.5**0.5)
    assert found['shadow_rmse{alias="Production",model_version="dummy"}'] == pytest.approx(0.25)


def test_what_was_compared_is_kept_for_some_seconds_of_the_same_two(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_metrics, "KEPT_SECONDS", 60.0)
    store = Store.of(settings)
    shadow = shadows.begin(store, settings.model_name, "2", "run")
    answer(client, store, shadow, 0.5)
    assert samples(client)["shadow_disagreement"] == 0.5
    answer(client, store, shadow, 0.75)
    found = samples(client)
    assert (found["shadow_disagreement"], found["shadow_predictions_scored"]) == (0.5, 2)
    shadow = shadows.begin(store, settings.model_name, "3", "run 3")
    answer(client, store, shadow, 0.25)
    found = samples(client)
    assert (found['shadow_info{version="3"}'], found["shadow_disagreement"]) == (1, 0.25)


def test_the_alias_is_the_one_of_the_settings(settings: Settings) -> None:
    settings = settings.model_copy(update={"model_alias": "Champion"})
    store = Store.of(settings)
    with TestClient(create_app(settings), headers=LOGIN) as client:
        shadow = shadows.begin(store, settings.model_name, "2", "run")
        (name,) = answer(client, store, shadow, 0.25)
        label(client, store, name, 0.25)
        assert 'shadow_rmse{alias="Champion",model_version="dummy"}' in samples(client)


def test_a_store_that_cannot_be_read_is_no_metric(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, test_mode=True, prediction_log=False)
    Layout(tmp_path).database.write_bytes(b"x" * 8192)
    with TestClient(create_app(settings)) as client:
        assert client.get("/metrics").status_code == 200
        assert samples(client) == {}
