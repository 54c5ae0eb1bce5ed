"""The drift report as an answer, and the metrics of it and of the retrainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.schemas import DriftReport
from monitoring.drift_check import check, load_policy
from tableloop.drift.statistics import compare, live_error, make_reference
from tableloop.settings import Settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.monitor_report import beat
from tableloop.table import load_table
from tests.unit.app.conftest import IN_EACH_STORE

COLUMN = {
    "name": "MedInc", "title": "Median income", "unit": "dollars", "ks": 0.2, "p_value": 1e-9, "psi": 0.25,
    "wasserstein": 0.5, "direction": "up", "median_before": 3.5, "median_now": 4.4, "drifted": True,
    "histogram": {"edges": [0, 5, 10], "before": [0.5, 0.5], "now": [0.2, 0.8]},
}  # fmt: skip
REPORT: dict[str, Any] = {
    "status": "drift",
    "summary": "MedInc up",
    "checked_at": "2026-01-01T00:00:00+00:00",
    "version": "3",
    "policy": {"psi": 0.1, "wasserstein": 0.2, "new_labels": 200},
    "window": {"rows": 1000, "last_id": 1, "first_at": "2026-01-01", "last_at": "2026-01-01"},
    "new_labels": 17,
    "live": {"labels": 0, "test_rmse": 0.4, "worse": False},
    "columns": [COLUMN],
    "joint": {"auc": 0.7, "p_value": 0.0, "drifted": True},
    "monitor": {"says": "waits", "windows": 2, "retraining": False, "looked_at": "2026-01-01T00:00:00+00:00"},
}


def write(settings: Settings, report: dict[str, Any]) -> None:
    Store.of(settings).add_drift_report(report, {})


@IN_EACH_STORE
def test_without_a_check_there_is_no_report(client: TestClient, settings: Settings) -> None:
    answer = client.get("/drift")
    assert answer.status_code == 404
    assert "no drift check" in answer.json()["detail"]
    assert "drift_detected" not in client.get("/metrics").text


def test_a_store_that_cannot_be_read_is_told_and_is_no_metric(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, test_mode=True, prediction_log=False)
    Layout(tmp_path).database.write_bytes(b"x" * 8192)
    with TestClient(create_app(settings)) as client:
        assert client.get("/retrainings").status_code == 503
        assert "not a database" in client.get("/drift").json()["detail"]
        lines = client.get("/metrics").text.splitlines()
    assert not [line for line in lines if line.startswith(("drift_detected", "retrains_total"))]


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "*/*", "application/json"),
        ("", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("", "text/plain", "text/plain; charset=utf-8"),
        ("?format=text", "text/html", "text/plain; charset=utf-8"),
        ("?format=html", "*/*", "text/html; charset=utf-8"),
        ("?format=json", "text/html", "application/json"),
    ],
)
def test_the_report_comes_in_the_form_that_was_asked_for(
    client: TestClient, settings: Settings, query: str, accept: str, kind: str
) -> None:
    write(settings, REPORT)
    answer = client.get(f"/drift{query}", headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert "MedInc" in answer.text
    if kind == "application/json":
        assert answer.json() == REPORT


def test_an_unknown_form_is_422(client: TestClient) -> None:
    assert client.get("/drift?format=pdf").status_code == 422


@IN_EACH_STORE
def test_the_report_is_metrics(client: TestClient, settings: Settings) -> None:
    write(settings, REPORT)
    lines = client.get("/metrics").text.splitlines()
    assert 'feature_drift_psi{feature="MedInc"} 0.25' in lines
    assert 'feature_drift_ks_pvalue{feature="MedInc"} 1e-09' in lines
    assert 'feature_drifted{feature="MedInc"} 1.0' in lines
    assert "drift_detected 1.0" in lines
    assert "drift_auc 0.7" in lines
    assert "live_error_worse 0.0" in lines
    assert "drift_windows_in_a_row 2.0" in lines
    assert "labels_unused 17.0" in lines
    assert "drift_checked_timestamp_seconds 1.7672256e+09" in lines
    assert 'drift_threshold{measure="psi"} 0.1' in lines


def test_a_check_that_cannot_say_is_metrics_too(client: TestClient, settings: Settings) -> None:
    write(settings, REPORT)
    beat(Layout(settings.state_dir), "no answer")
    assert "drift_detected 0.0" in client.get("/metrics").text.splitlines()
    assert client.get("/drift?format=text").text.startswith("check failed: no answer")
    assert client.get("/drift?format=html").status_code == 200


@IN_EACH_STORE
def test_retrainings_are_counted_by_outcome(client: TestClient, settings: Settings) -> None:
    assert 'retrains_total{outcome="promoted"} 0.0' in client.get("/metrics").text
    store = Store.of(settings)
    for outcome in ("promoted", "rejected", "promoted"):
        store.end_retraining(store.begin_retraining("user", "", "somebody"), outcome, "1", "", {})
    store.begin_retraining("user", "", "somebody")
    text = client.get("/metrics").text
    assert 'retrains_total{outcome="promoted"} 2.0' in text
    assert 'retrains_total{outcome="rejected"} 1.0' in text
    assert 'retrains_total{outcome="failed"} 0.0' in text


@IN_EACH_STORE
def test_the_history_is_an_answer_newest_first(client: TestClient, settings: Settings) -> None:
    assert client.get("/retrainings").json() == []
    store = Store.of(settings)
    number = store.begin_retraining("user", "because", "somebody")
    store.end_retraining(number, "promoted", "2", "better", {"train": 2.5})
    store.begin_retraining("drift", "drift: MedInc up", "the drift monitor")
    running, ended = client.get("/retrainings").json()
    assert (running["trigger"], running["ended_at"], running["outcome"]) == ("drift", None, None)
    assert ended["ended_at"].endswith("+00:00")
    del ended["started_at"], ended["ended_at"]
    assert ended == {
        **{"id": 1, "trigger": "user", "cause": "because", "by": "somebody", "outcome": "promoted"},
        **{"version": "2", "reason": "better", "seconds": {"train": 2.5}},
    }
    assert len(client.get("/retrainings?limit=1").json()) == 1
    assert client.get("/retrainings?limit=0").status_code == 422


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_real_report_is_as_the_documentation_describes_it(shift: float) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(2000, 8))
    policy, table = load_policy(), load_table()
    reference = make_reference(rows, rows[:, 0], 0.4, columns=table.feature_names)
    report = check(Store(Path("/nowhere/predictions.db")), Layout(Path("/nowhere")), policy) | compare(
        reference, rows[:1000] + shift, rows[:1000, 0], policy, table
    )
    report |= {"live": live_error(np.ones(300), 0.4, policy) | {"inside_interval": 0.9}}
    described = DriftReport.model_validate(report, extra="forbid")
    assert described.status == ("drift" if shift else "no drift")
    assert described.model_dump(exclude_unset=True) == report
