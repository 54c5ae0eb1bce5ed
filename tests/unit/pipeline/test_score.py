"""Files scored from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import parquet

from pipeline.score_file import prediction_ids
from tableloop.files import output_columns
from tableloop.model.conformal import ConformalRegressor
from tableloop.table import load_table
from tableloop.version_files import SCORER
from tests.unit.tableloop.model.test_spatial import COLUMNS, town


def frame(count: int) -> pd.DataFrame:
    return pd.DataFrame(town(count, seed=2)[0], columns=COLUMNS).assign(key=range(count))


def run(*arguments: object, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.score", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_file_is_scored_by_a_model_directory(
    town_model: ConformalRegressor, town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    rows = frame(6000)
    rows.to_csv(tmp_path / "in.csv", index=False)
    done = run(tmp_path / "in.csv", tmp_path / "out.parquet", "--model", town_version, environment=key_environment)
    assert done.returncode == 0, done.stderr
    assert "6,000 rows scored into" in done.stdout
    assert "100%" in done.stderr
    result = pd.read_parquet(tmp_path / "out.parquet")
    assert list(result.columns) == [*rows.columns, *output_columns(load_table().answer)]
    expected = np.stack(town_model.predict_interval(rows[COLUMNS]), axis=1)
    np.testing.assert_allclose(result[["predicted_median_house_value", "low", "high"]], expected, atol=1e-6)
    assert result["prediction_id"].is_unique
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "model", "out.parquet"]


def test_the_footer_says_where_an_output_comes_from(
    town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    frame(20).to_parquet(tmp_path / "in.parquet")
    arguments = (tmp_path / "in.parquet", tmp_path / "out.parquet", "--model", town_version)
    assert run(*arguments, environment=key_environment).returncode == 0
    footer = parquet.read_schema(tmp_path / "out.parquet").metadata
    facts = {key.decode(): value.decode() for key, value in footer.items() if key.startswith(b"tableloop.")}
    assert sorted(name.removeprefix("tableloop.") for name in facts) == [
        *("code", "manifest_sha256", "model", "run_id", "scored_at"),
        *("source", "source_bytes", "source_digest", "version"),
    ]
    assert facts["tableloop.model"] == "HousePriceModel"
    assert facts["tableloop.version"] == "model"  # that of the directory
    assert facts["tableloop.source"] == str(tmp_path / "in.parquet")
    assert facts["tableloop.source_bytes"] == str((tmp_path / "in.parquet").stat().st_size)
    assert b"pandas" in footer
    again = run(*arguments, environment=key_environment)
    assert "20 rows were scored before" in again.stdout, again.stderr


def test_a_wrong_row_is_named_and_nothing_is_written(
    town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    rows = frame(5000)
    rows.loc[4711, "Latitude"] = 91.0
    rows.to_parquet(tmp_path / "in.parquet")
    done = run(tmp_path / "in.parquet", tmp_path / "out.csv", "--model", town_version, environment=key_environment)
    assert done.returncode == 1
    assert "row 4712, column Latitude: the greatest possible is 90" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "model"]


def test_a_changed_file_of_the_version_is_refused_in_one_line(
    town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    frame(5).to_csv(tmp_path / "in.csv", index=False)
    (town_version / SCORER / "trees.onnx").write_bytes(b"another")
    done = run(tmp_path / "in.csv", tmp_path / "out.csv", "--model", town_version, environment=key_environment)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "the model cannot be used: its files are not those it was made with: scorer/trees.onnx was changed"
    ]


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x")
    (tmp_path / "folder").mkdir()
    nowhere = {"PATH": "/usr/bin", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    for arguments, message in (
        (("in.txt", "out.csv"), "in.txt: the name must end in .csv or .parquet"),
        ((tmp_path / "in.csv", tmp_path / "out.csv"), "the registry at http://127.0.0.1:9 does not answer"),
        ((tmp_path / "folder", tmp_path / "out"), f"there are no files in {tmp_path}/folder whose names end in"),
        ((tmp_path, tmp_path / "out"), "IN and OUT must not be in one another"),
        ((tmp_path / "folder", tmp_path / "folder"), "IN and OUT must not be in one another"),
    ):
        done = run(*arguments, environment=nowhere)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_ids_are_unique_and_the_same_for_the_same_seed() -> None:
    ids = prediction_ids("one", 0, 3000)
    assert len({*ids, *prediction_ids("two", 0, 3000)}) == 6000
    assert prediction_ids("one", 1000, 5) == ids[1000:1005]
    assert all(len(one) == 36 and one[14] == "8" and one[19] in "89ab" for one in ids)
