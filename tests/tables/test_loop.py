"""Each table under tables/ from its file to a second version: trained, served in three forms, labelled, drifted."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, expect

from pipeline.raw_rows import check, read_raw
from tableloop.credentials import basic, read_password
from tableloop.state.layout import Layout
from tableloop.table import Table, load_table
from tests.browser.chromium import browser
from tests.integration.conftest import ROOT, Appliance

TABLES = sorted(path.parent for path in (ROOT / "tables").glob("*/table.yaml"))
CSV, PARQUET, JSON = "text/csv", "application/vnd.apache.parquet", "application/json"
ROWS = 60  # predicted in three forms
SENT = 700  # with labels: enough for drift, for a batch and for the gate
RISE = 1.4  # of the values in the market that the labels come from
# What `mlflow.pyfunc` says of rows, in a process that has nothing of ours but what the version brings.
PYFUNC = """
import sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
pd.Series(model.predict(pd.read_parquet(sys.argv[3]))).to_csv(sys.argv[4], index=False, header=False)
"""


@dataclass
class Loop:
    """A running appliance of one table, with the rows of its file."""

    appliance: Appliance
    table: Table
    rows: pd.DataFrame

    @property
    def base(self) -> str:
        return f"http://localhost:{self.appliance.ports['API_PORT']}"

    def ask(self, path: str, body: bytes | None = None, kind: str = JSON, login: bool = False) -> tuple[int, bytes]:
        headers = {"Content-Type": kind} if body is not None else {}
        if login:
            headers["Authorization"] = basic(read_password(Layout(self.appliance.state).admin_password), "admin")
        request = urllib.request.Request(f"{self.base}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def as_json(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        """Return rows as the API takes them: null where a value is missing."""
        features = rows[list(self.table.feature_names)].astype(object)
        made = features.where(features.notna(), None).to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in made]

    def predict(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        status, content = self.ask("/predict/batch", json.dumps(self.as_json(rows)).encode())
        assert status == 200, content[:500]
        answers: list[dict[str, Any]] = json.loads(content)
        return answers


@pytest.fixture(scope="module", params=TABLES, ids=lambda path: path.name)
def loop(request: pytest.FixtureRequest, new_appliance: Callable[..., Appliance]) -> Iterator[Loop]:
    directory: Path = request.param
    table = load_table(directory)
    appliance = new_appliance(TABLE=str(directory), DRIFT_INTERVAL_SECONDS="1", RETRAIN_ON_DRIFT="off")
    appliance.start()
    yield Loop(appliance, table, check(read_raw(directory / table.path, table), table))
    assert appliance.make("down").returncode == 0


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


def test_the_best_of_its_models_serves_as_a_compiled_scorer(loop: Loop) -> None:
    status, content = loop.ask("/model")
    model = json.loads(content)
    assert status == 200
    assert (model["name"], model["engine"]) == (loop.table.model, "compiled")
    assert model["scores"]["test_r2"] > 0.3
    printed = loop.appliance.make("status").stdout
    assert f"version 1, {model['family']}" in printed


def test_it_says_in_three_forms_what_the_registered_model_says(loop: Loop, tmp_path: Path) -> None:
    rows = loop.rows.sample(ROWS, random_state=1)
    features = rows[list(loop.table.feature_names)]
    features.to_parquet(tmp_path / "rows.parquet", index=False)
    uri = f"http://localhost:{loop.appliance.ports['MLFLOW_PORT']}"
    order = [
        uri,
        f"models:/{loop.table.model}@Production",
        str(tmp_path / "rows.parquet"),
        str(tmp_path / "said.csv"),
    ]
    subprocess.run(
        [sys.executable, "-c", PYFUNC, *order],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "1"},
    )
    said = np.loadtxt(tmp_path / "said.csv")
    tolerance = 1e-6 * max(1.0, float(np.abs(said).max()))
    one_by_one = [loop.ask("/predict", json.dumps(row).encode()) for row in loop.as_json(rows)]
    assert {status for status, _ in one_by_one} == {200}
    forms = [
        [json.loads(content)[loop.table.answer] for _, content in one_by_one],
        [answer[loop.table.answer] for answer in loop.predict(rows)],
    ]
    for kind, body in (
        (CSV, features.to_csv(index=False).encode()),
        (PARQUET, (tmp_path / "rows.parquet").read_bytes()),
    ):
        status, content = loop.ask("/predict/batch", body, kind)
        assert status == 200, content[:500]
        answered = pd.read_csv(io.BytesIO(content)) if kind == CSV else pd.read_parquet(io.BytesIO(content))
        forms.append(answered[loop.table.answer].tolist())
    for values in forms:
        np.testing.assert_allclose(values, said, rtol=0, atol=tolerance)


def test_its_intervals_hold_on_rows_that_it_knows_too(loop: Loop) -> None:
    rows = loop.rows.sample(min(2000, len(loop.rows)), random_state=2)
    actual = rows[loop.table.target_name].to_numpy()
    inside = [
        answer["interval"]["low"] <= value <= answer["interval"]["high"]
        for answer, value in zip(loop.predict(rows), actual, strict=True)
    ]
    assert 0.86 < np.mean(inside) <= 1.0


@pytest.mark.parametrize("wanted", ["unknown level", "missing", "impossible"])
def test_what_is_unusual_is_answered_with_a_warning_or_refused(loop: Loop, wanted: str) -> None:
    row = dict(loop.table.example)
    columns = loop.table.features
    found = {
        "unknown level": [c.name for c in columns if c.type == "string" and c.unknown == "warn"],
        "missing": [c.name for c in columns if not c.required],
        "impossible": [c.name for c in columns if c.is_number],
    }[wanted]
    if not found:
        pytest.skip(f"the table has no such column ({wanted})")
    name = found[0]
    row[name] = {"unknown level": "never seen", "missing": None, "impossible": 1e30}[wanted]
    status, content = loop.ask("/predict", json.dumps(row).encode())
    answer = json.loads(content)
    if wanted == "impossible":
        assert status == 422
        assert answer["detail"][0]["loc"] == ["body", name]
    else:
        assert status == 200
        assert bool(answer["warnings"]) == (wanted == "unknown level")


def test_its_page_asks_and_answers(loop: Loop, chromium: Browser) -> None:
    page = chromium.new_page()
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    try:
        page.goto(loop.base)
        expect(page.locator(".field")).to_have_count(len(loop.table.features))
        page.locator("#form").get_by_role("button").first.click()
        expect(page.locator("#price")).not_to_be_empty()
        expect(page.locator("#comparable tr")).not_to_have_count(0)
        assert problems == []
    finally:
        page.close()


def test_labels_of_a_changed_market_are_drift_and_make_a_better_version(loop: Loop) -> None:
    target = loop.table.target_name
    # The dear half of the rows, and all of it dearer.
    dear = loop.rows[loop.rows[target] > loop.rows[target].median()]
    rows = dear.sample(SENT, random_state=3, replace=len(dear) < SENT)
    answers = loop.predict(rows)
    dearer = (rows[target] + (RISE - 1) * rows[target].abs()).clip(upper=loop.table.target.maximum)
    if loop.table.target.type == "integer":
        dearer = dearer.round()
    labels = [
        {"prediction_id": answer["prediction_id"], "actual_value": value}
        for answer, value in zip(answers, dearer.tolist(), strict=True)
    ]
    status, content = loop.ask("/feedback", json.dumps(labels).encode(), login=True)
    assert status in (201, 207), content[:500]
    assert json.loads(content)["stored"] > 0.95 * SENT
    drift = loop.appliance.make("drift")
    assert drift.returncode != 0, drift.stdout
    assert "drift" in drift.stdout
    retrained = loop.appliance.make("retrain", 400)
    assert retrained.returncode == 0, retrained.stdout + retrained.stderr
    history = json.loads(loop.ask("/retrainings")[1])
    assert history[0]["outcome"] == "promoted", history[0]
    page = loop.ask("/metrics")[1].decode()
    assert f"{loop.table.metric}_bucket" in page
