"""Files scored from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.score import load_predict, score_file
from tableloop.files import TableError, output_columns
from tableloop.model import manifest
from tableloop.model.conformal import ConformalRegressor
from tableloop.model.onnx_export import write_scorer
from tableloop.settings import RegistrySettings
from tableloop.signing import SigningKey, key_file
from tableloop.table import load_table
from tableloop.version_files import SCORER
from tests.unit.tableloop.model.test_onnx_scorer import spatial
from tests.unit.tableloop.model.test_spatial import COLUMNS, town


@pytest.fixture(scope="module")
def model() -> ConformalRegressor:
    return ConformalRegressor(spatial(), COLUMNS).fit(*town(500)).calibrate(*town(300, seed=1))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    settings = RegistrySettings(state_dir=tmp_path_factory.mktemp("state"))
    SigningKey.new().keep(key_file(settings))
    return settings


@pytest.fixture
def directory(model: ConformalRegressor, settings: RegistrySettings, tmp_path: Path) -> Path:
    """Return as much of a version's files as scoring looks at."""
    directory = tmp_path / "model"
    write_scorer(model, town(5)[0], directory / SCORER)
    inputs = [{"name": name, "type": "double"} for name in COLUMNS]
    (directory / "MLmodel").write_text(yaml.safe_dump({"signature": {"inputs": json.dumps(inputs)}}))
    manifest.write(directory, {})
    SigningKey.load(settings).sign(directory, "")
    return directory


def frame(count: int) -> pd.DataFrame:
    return pd.DataFrame(town(count, seed=2)[0], columns=COLUMNS).assign(key=range(count))


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.score", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment or None)


def here(settings: RegistrySettings) -> dict[str, str]:
    return {**os.environ, "STATE_DIR": str(settings.state_dir)}


def test_a_file_is_scored_by_a_model_directory(
    model: ConformalRegressor, settings: RegistrySettings, directory: Path, tmp_path: Path
) -> None:
    rows = frame(6000)
    rows.to_csv(tmp_path / "in.csv", index=False)
    done = run(tmp_path / "in.csv", tmp_path / "out.parquet", "--model", directory, **here(settings))
    assert done.returncode == 0, done.stderr
    assert "6,000 rows scored" in done.stdout
    assert "100%" in done.stderr
    result = pd.read_parquet(tmp_path / "out.parquet")
    assert list(result.columns) == [*rows.columns, *output_columns(load_table().answer)]
    expected = np.stack(model.predict_interval(rows[COLUMNS]), axis=1)
    np.testing.assert_allclose(result[["predicted_median_house_value", "low", "high"]], expected, atol=1e-6)
    assert result["prediction_id"].is_unique
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "model", "out.parquet"]


def test_a_wrong_row_is_named_and_nothing_is_written(
    settings: RegistrySettings, directory: Path, tmp_path: Path
) -> None:
    rows = frame(5000)
    rows.loc[4711, "Latitude"] = 91.0
    rows.to_parquet(tmp_path / "in.parquet")
    predict = load_predict(directory, "", settings)
    with pytest.raises(TableError, match="row 4712, column Latitude: the greatest possible is 90"):
        score_file(tmp_path / "in.parquet", tmp_path / "out.csv", predict, "1", load_table())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "model"]


def test_a_changed_file_of_the_version_is_refused_in_one_line(
    settings: RegistrySettings, directory: Path, tmp_path: Path
) -> None:
    frame(5).to_csv(tmp_path / "in.csv", index=False)
    (directory / SCORER / "trees.onnx").write_bytes(b"another")
    done = run(tmp_path / "in.csv", tmp_path / "out.csv", "--model", directory, **here(settings))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "the model cannot be used: its files are not those it was made with: scorer/trees.onnx was changed"
    ]


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x")
    nowhere = {"PATH": "/usr/bin", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    for arguments, message in (
        (("in.txt", "out.csv"), "in.txt: the name must end in .csv or .parquet"),
        ((tmp_path / "in.csv", tmp_path / "out.csv"), "the registry at http://127.0.0.1:9 does not answer"),
    ):
        done = run(*arguments, **nowhere)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
