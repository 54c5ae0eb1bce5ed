"""A trained appliance moved to PostgreSQL and object storage while it runs, proved when it is down, started there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.integration.conftest import Appliance
from tests.postgres import PASSWORD, Postgres
from tests.s3 import S3Server

EXAMPLE = load_table().example


def migrate(appliance: Appliance, target: dict[str, str]) -> tuple[int, str]:
    """Run `make migrate-to` with the target in the environment, and return its exit code and what it printed."""
    before = dict(appliance.extra)
    appliance.extra |= target
    try:
        done = appliance.make("migrate-to")
    finally:
        appliance.extra.clear()
        appliance.extra.update(before)
    return done.returncode, done.stdout + done.stderr


def contents(root: Path) -> dict[str, bytes]:
    """Return the files of a state, but those of SQLite that come and go with its readers, and of the locks."""
    left_out = ("-wal", "-shm")
    files = [file for file in root.rglob("*") if file.is_file() and not file.name.endswith(left_out)]
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.parent.name != "run"}


def predict(appliance: Appliance, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = httpx.post(f"http://127.0.0.1:{appliance.ports['API_PORT']}/predict/batch", json=rows, timeout=20)
    made: list[dict[str, Any]] = answer.json()
    return made


def label(appliance: Appliance, made: dict[str, Any]) -> int:
    body = {"prediction_id": made["prediction_id"], "actual_value": made["interval"]["high"]}
    password = Layout(appliance.state).admin_password.read_text().strip()
    url = f"http://127.0.0.1:{appliance.ports['API_PORT']}/feedback"
    return httpx.post(url, json=body, auth=("admin", password), timeout=20).status_code


def test_an_appliance_moves_while_it_runs_and_answers_the_same_from_there(
    new_appliance: Callable[..., Appliance],
    first_start: tuple[Appliance, str],
    postgres: Postgres,
    s3_server: S3Server,
) -> None:
    bucket = s3_server.new_bucket()
    target = {"DATABASE_URL": postgres.new_database(), "ARTIFACTS_URI": bucket, **s3_server.environment}
    appliance = new_appliance(state_of=first_start[0])
    appliance.start()
    rows = [EXAMPLE | {load_table().feature_names[0]: 2.0 + n / 20} for n in range(60)]
    made = predict(appliance, rows)
    assert label(appliance, made[0]) == 201

    code, said = migrate(appliance, target)
    assert code == 0, said
    assert "the appliance runs" in said
    assert "proved" not in said
    made += predict(appliance, rows[:7])
    assert label(appliance, made[1]) == 201
    history = httpx.get(f"http://127.0.0.1:{appliance.ports['API_PORT']}/retrainings").json()
    unfinished = new_appliance(state_of=first_start[0], **target).make("up")
    assert "not whole yet" in unfinished.stdout + unfinished.stderr

    assert appliance.make("down").returncode == 0
    before = contents(appliance.state)
    code, said = migrate(appliance, target)
    assert code == 0, said
    assert said.startswith("the store: ")
    assert "proved: " in said
    assert "50 rows of the log again as it did" in said
    assert "ARTIFACTS_URI=" in said
    assert "SIGNING_KEY_FILE" in said
    assert PASSWORD[:6] not in said
    assert contents(appliance.state) == before
    code, again = migrate(appliance, target)
    assert code == 0, again
    assert again.count(", 0 of them copied now\n") == 2  # the store, MLflow's tables
    assert ", 0 of them sent now" in again

    layout = Layout(appliance.state)
    for path in (layout.database, layout.mlflow, layout.champion, layout.workspace):  # what was moved
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    there = new_appliance(state_of=appliance, **target)
    there.start()
    assert there.program("pipeline.train") is None
    answered = predict(there, rows)
    assert [one["predicted_median_house_value"] for one in answered] == [
        pytest.approx(one["predicted_median_house_value"], abs=1e-9) for one in made[:60]
    ]
    assert httpx.get(f"http://127.0.0.1:{there.ports['API_PORT']}/retrainings").json() == history
    assert (label(there, made[1]), label(there, made[2])) == (409, 201)  # as before the move, and for the first time
    code, said = migrate(appliance, target)
    assert code
    assert "there is nothing to move" in said
    assert there.make("down").returncode == 0


def test_the_target_may_be_in_a_file_and_another_state_there_is_refused(
    new_appliance: Callable[..., Appliance],
    first_start: tuple[Appliance, str],
    s3_server: S3Server,
    tmp_path: Path,
) -> None:
    bucket = s3_server.new_bucket()
    file = tmp_path / "target.env"
    file.write_text(f"ARTIFACTS_URI={bucket}\n")
    appliance = new_appliance(state_of=first_start[0])
    code, said = migrate(appliance, {"FILE": str(file), **s3_server.environment})
    assert code == 0, said
    assert "of the log again as it did" in said  # by files from object storage, checked against their signature
    Layout(appliance.state).signing_key.write_text(f"{os.urandom(32).hex()}\n")
    code, said = migrate(appliance, {"FILE": str(file), **s3_server.environment})
    assert code
    assert "holds the files of another appliance" in said
    assert "name an empty folder" in said
    code, said = migrate(appliance, {})
    assert code
    assert "name where to" in said
