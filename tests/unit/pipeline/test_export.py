"""Predictions with their labels as a file."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from tableloop.object_storage import ObjectStorage
from tableloop.state import shadows
from tableloop.state.database import EXPORTED_AT_ONCE, Store
from tableloop.state.layout import Layout
from tableloop.state.prediction_rows import Sent, row
from tableloop.table import load_table
from tests.s3 import S3Server

NAMES = load_table().feature_names
ROWS = 2 * EXPORTED_AT_ONCE + 5
SHADOWED = ROWS - 15  # from this one on
BEGAN = datetime(2026, 11, 1, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL"])
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The settings of a store with a prediction a second; every thousandth has a label, one of which is revoked.

    A version in the shadow has scored each third of the last ones.
    """
    directory = tmp_path_factory.mktemp("state")
    url = request.getfixturevalue("postgres").new_database() if request.param == "PostgreSQL" else ""
    store = Store(url or Layout(directory).database)
    rows = [row(f"p{n}", f"r{n}", BEGAN + n, "1", [float(n)] * len(NAMES), 2.0, 1.0, 3.0) for n in range(ROWS)]
    with closing(store.writer()) as writer:
        writer.insert(rows[:SHADOWED])
        shadow = shadows.begin(store, "Model", "2", "run")
        writer.insert(rows[SHADOWED:])
        writer.insert_labels(
            [Sent(f"p{n}", n / 1000, sure=True) for n in range(0, ROWS, 1000)],
            "land registry",
            load_table(),
        )
        writer.insert_labels([Sent("p1", 9.9)], "somebody", load_table())
    store.revoke_labels("me", "false", sender="somebody")
    newest = store.newest_predictions(ROWS - SHADOWED)[::-1]
    values = [shadows.Value(made.id, (made.requested_at - BEGAN) / 10, 1.5, 3.5) for made in newest[::3]]
    shadows.add_values(store, shadow, values, newest[-1].id)
    return {"STATE_DIR": str(directory), "DATABASE_URL": url}


def export(state: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.export", *arguments]
    variables = os.environ | state
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_parquet_has_every_prediction_with_its_label_and_its_types(state: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "all.parquet"
    done = export(state, str(file))
    assert done.returncode == 0, done.stderr
    assert f"{ROWS:,} predictions exported to {file}" in done.stderr
    frame = pd.read_parquet(file)
    assert list(frame["prediction_id"]) == [f"p{n}" for n in range(ROWS)]
    assert list(frame["requested_at"])[5] == datetime.fromtimestamp(BEGAN + 5, UTC)
    assert list(frame[NAMES[0]]) == [float(n) for n in range(ROWS)]
    assert len(frame.dropna(subset=["actual_value"])) == len(range(0, ROWS, 1000)) + 1
    assert list(frame[["actual_value", "sender"]].iloc[2000]) == [2.0, "land registry"]
    assert list(frame.index[frame["revoked"]]) == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.parquet"]


def test_what_a_version_in_the_shadow_said_is_beside_the_answer(state: dict[str, str], tmp_path: Path) -> None:
    for name in ("all.parquet", "all.csv"):
        done = export(state, str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    frame = pd.read_parquet(tmp_path / "all.parquet")
    columns = ["prediction", "low", "high", "shadow_version", "shadow_prediction", "shadow_low", "shadow_high"]
    first = list(frame.columns).index("prediction")
    assert list(frame.columns[first : first + 7]) == columns
    scored = frame.dropna(subset=["shadow_version"])
    assert list(scored.index) == list(range(SHADOWED, ROWS, 3))
    assert set(scored["shadow_version"]) == {"2"}
    assert list(scored["shadow_prediction"]) == [n / 10 for n in scored.index]
    assert set(scored["shadow_low"]) == {1.5}
    assert set(scored["shadow_high"]) == {3.5}
    assert frame.loc[: SHADOWED - 1, columns[3:]].isna().all().all()
    text = pd.read_csv(tmp_path / "all.csv", dtype={"shadow_version": str})
    assert text["shadow_version"].equals(frame["shadow_version"].astype(text["shadow_version"].dtype))
    assert text["shadow_prediction"].equals(frame["shadow_prediction"])


def test_from_and_to_choose_by_the_time_of_the_request(state: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "part.csv"
    done = export(state, "--from", "2026-11-01T00:00:10", "--to", "2026-11-01T01:00:13+01:00", str(file))
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(file)["prediction_id"]) == ["p10", "p11", "p12"]


def test_stdout_is_csv_and_nothing_else(state: dict[str, str]) -> None:
    done = export(state, "--to", "2026-11-01T00:00:02", "-")
    header, *lines = done.stdout.splitlines()
    assert header.replace('"', "").startswith("prediction_id,request_id,requested_at,model_version,")
    assert [line.split(",")[0] for line in lines] == ['"p0"', '"p1"']


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rows.xlsx"], 2, "ends with neither .parquet nor .csv"),
        ([""], 2, "ends with neither .parquet nor .csv"),
        (["no/such/directory/rows.csv"], 1, "no/such/directory"),
        (["--from", "yesterday", "rows.csv"], 2, "yesterday"),
    ],
)
def test_what_cannot_be_done_is_one_line(state: dict[str, str], arguments: list[str], code: int, said: str) -> None:
    done = export(state, *arguments)
    assert done.returncode == code
    assert said in done.stderr.splitlines()[-1]


def test_a_file_in_object_storage_is_there_whole_or_not_at_all(
    state: dict[str, str], bucket: str, s3_server: S3Server, tmp_path: Path
) -> None:
    done = export(state, f"{bucket}/all.parquet")
    assert done.returncode == 0, done.stderr
    assert f"{ROWS:,} predictions exported to {bucket}/all.parquet" in done.stderr
    ObjectStorage(bucket).download("all.parquet", tmp_path / "copy.parquet")
    assert len(pd.read_parquet(tmp_path / "copy.parquet")) == ROWS
    assert [file.name for file in s3_server.files(bucket)] == ["all.parquet"]
    assert list(Layout(Path(state["STATE_DIR"])).run.iterdir()) == []
    nowhere = bucket.replace("/state", "-none/all.csv")
    done = export(state, nowhere)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"nothing exported: {nowhere.removesuffix('/all.csv')}: ")
    assert "make the bucket, or name another" in done.stderr
