"""Raw data in a directory of Parquet files, read and split without ever being in memory as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from bench.made_table import made
from pipeline import parts, preprocess, raw_rows
from pipeline.stage_runner import StageError
from tableloop.state import label_batches
from tableloop.table import Table

TABLE = Table.model_validate(
    {
        "name": "made",
        "path": "raw/made",
        "target": "value",
        "fields": [
            {"name": "x1", "example": 0, "constraints": {"minimum": -10, "maximum": 10}},
            {"name": "x5", "example": 0, "constraints": {"required": False, "minimum": -10, "maximum": 10}},
            {"name": "kind", "type": "string", "example": "kind 0", "categories": [f"kind {i}" for i in range(6)]},
            {"name": "member", "type": "boolean", "example": True},
            {"name": "day", "type": "date", "example": "2021-01-01",
             "constraints": {"minimum": "2000-01-01", "maximum": "2100-01-01"}},
            {"name": "value", "example": 0, "constraints": {"minimum": -1000, "maximum": 1000}},
        ],
    }
)  # fmt: skip
ROWS = made(3000)[[column.name for column in TABLE.fields]].assign(day=lambda rows: rows["day"].dt.date.astype(str))
PARTS = ("train", "validation", "test")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the table in three Parquet files, to be read in batches of 400 rows."""
    monkeypatch.chdir(tmp_path)
    for module in (preprocess, label_batches):
        monkeypatch.setattr(module, "load_table", lambda: TABLE)
    columns = (*TABLE.feature_names, TABLE.target_name, *label_batches.COLUMNS[-4:])
    monkeypatch.setattr(label_batches, "COLUMNS", columns)
    monkeypatch.setattr(raw_rows, "BATCH_VALUES", 400 * len(TABLE.fields))
    (tmp_path / "data/feedback").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(
            {"preprocess": {"test_fraction": 0.2, "validation_fraction": 0.2, "gate_fraction": 0.3, "gate_rows": 60}}
        )
    )
    write(tmp_path, ROWS)
    return tmp_path


def write(project: Path, rows: pd.DataFrame) -> None:
    directory = project / "data/raw/made"
    (directory / "later").mkdir(parents=True, exist_ok=True)
    (directory / "_SUCCESS").write_bytes(b"")
    for name, start, end in (("a", 0, 1500), ("b", 1500, 1600), ("later/c", 1600, len(rows))):
        rows[start:end].to_parquet(directory / f"{name}.parquet", index=False)


def test_many_batches_give_the_rows_of_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess.main()
    in_batches = {name: pd.read_parquet(project / f"data/processed/{name}.parquet") for name in PARTS}
    summary = json.loads((project / "reports/data.json").read_text())
    monkeypatch.setattr(raw_rows, "BATCH_VALUES", 10**9)
    preprocess.main()
    for name, part in in_batches.items():
        pd.testing.assert_frame_equal(part, pd.read_parquet(project / f"data/processed/{name}.parquet"))
    assert summary == json.loads((project / "reports/data.json").read_text())
    assert sum(map(len, in_batches.values())) == len(ROWS)
    assert sorted(path.name for path in (project / "data/processed").iterdir()) == [
        "feedback.parquet", "test.parquet", "train.parquet", "validation.parquet",
    ]  # fmt: skip


def test_labelled_rows_leave_the_parts_of_a_table_in_batches(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ROWS.sample(300, random_state=1, ignore_index=True)
    times = {"predicted_at": np.arange(300.0), "received_at": np.arange(300.0)}
    labels = labels.assign(**times, prediction_id=[f"p{i}" for i in range(300)], sender=None, value=1.0)
    labels["member"] = labels["member"].astype("boolean")
    labels.astype({"sender": object}).to_parquet(project / "data/feedback/20260101T000000Z-0001.parquet")
    preprocess.main()
    feedback = pd.read_parquet(project / "data/processed/feedback.parquet")
    trained = feedback[feedback["part"].isin(["train", "validation"])]
    rest = pd.concat([pd.read_parquet(project / f"data/processed/{name}.parquet") for name in PARTS])
    assert len(trained) > 150
    assert len(rest) == len(ROWS) - len(trained)
    in_batches = {name: pd.read_parquet(project / f"data/processed/{name}.parquet") for name in PARTS}
    monkeypatch.setattr(raw_rows, "BATCH_VALUES", 10**9)
    preprocess.main()
    for name, part in in_batches.items():
        pd.testing.assert_frame_equal(part, pd.read_parquet(project / f"data/processed/{name}.parquet"))


def test_what_is_wrong_is_said_with_its_file_and_row_and_no_part_is_written(project: Path) -> None:
    rows = ROWS.copy()
    rows.loc[[390, *range(395, 410), 1500, 1599, 1600], "x1"] = 99.0
    rows.loc[7, "kind"] = None
    write(project, rows)
    with pytest.raises(StageError) as caught:
        preprocess.main()
    assert str(caught.value).splitlines() == [
        "2 problems in the raw data",
        "  x1: 19 values not within -10 to 10, rows 391, 396-410 of a.parquet; 1, 100 of b.parquet; "
        "1 of later/c.parquet (for example 99.0)",
        "  kind: 1 value empty, row 8 of a.parquet",
    ]
    assert not [*(project / "data/processed").iterdir()]


def test_a_file_with_other_columns_is_named(project: Path) -> None:
    ROWS[:10].drop(columns="x1").to_parquet(project / "data/raw/made/b.parquet")
    with pytest.raises(StageError, match=r"1 problems in the raw data\n  missing column: x1 in b\.parquet$"):
        preprocess.main()


def test_the_md5_of_the_raw_data_is_that_of_dvc(project: Path) -> None:
    for arguments in (["init", "--no-scm"], ["add", "data/raw/made"], ["add", "data/raw/made.parquet"]):
        ROWS[:10].to_parquet(project / "data/raw/made.parquet")
        subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)
    for path in (project / "data/raw/made", project / "data/raw/made.parquet"):
        added = yaml.safe_load(path.with_name(f"{path.name}.dvc").read_text())["outs"][0]
        assert raw_rows.raw_md5(path) == added["md5"]


def test_a_sample_of_a_part_is_the_same_each_time_and_in_order(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess.main()
    monkeypatch.setattr(parts, "BATCH_ROWS", 100)
    whole, sample = parts.read_part("train"), parts.read_part("train", 300)
    assert len(sample) == 300
    pd.testing.assert_frame_equal(sample, whole.iloc[parts.drawn(len(whole), 300)].reset_index(drop=True))
    pd.testing.assert_frame_equal(parts.read_part("train", len(whole)), whole)
