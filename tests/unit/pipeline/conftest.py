"""A small signed version of a model, for what scores files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from tableloop.model import manifest
from tableloop.model.conformal import ConformalRegressor
from tableloop.model.onnx_export import write_scorer
from tableloop.settings import RegistrySettings
from tableloop.signing import SigningKey, key_file
from tableloop.version_files import SCORER
from tests.unit.tableloop.model.test_onnx_scorer import spatial
from tests.unit.tableloop.model.test_spatial import COLUMNS, town


@pytest.fixture(scope="session")
def town_model() -> ConformalRegressor:
    return ConformalRegressor(spatial(), COLUMNS).fit(*town(500)).calibrate(*town(300, seed=1))


@pytest.fixture(scope="session")
def key_settings(tmp_path_factory: pytest.TempPathFactory) -> RegistrySettings:
    """Return the settings of a state that has nothing but the key which signs the version."""
    settings = RegistrySettings(state_dir=tmp_path_factory.mktemp("state"))
    SigningKey.new().keep(key_file(settings))
    return settings


@pytest.fixture(scope="session")
def key_environment(key_settings: RegistrySettings) -> dict[str, str]:
    return {**os.environ, "STATE_DIR": str(key_settings.state_dir)}


@pytest.fixture
def town_version(town_model: ConformalRegressor, key_settings: RegistrySettings, tmp_path: Path) -> Path:
    """Return as much of a version's files as scoring looks at."""
    directory = tmp_path / "model"
    write_scorer(town_model, town(5)[0], directory / SCORER)
    inputs = [{"name": name, "type": "double"} for name in COLUMNS]
    (directory / "MLmodel").write_text(yaml.safe_dump({"signature": {"inputs": json.dumps(inputs)}}))
    manifest.write(directory, {})
    SigningKey.load(key_settings).sign(directory, "")
    return directory
