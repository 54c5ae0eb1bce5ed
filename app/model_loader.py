"""The MLflow registry as the champion sees it, over plain HTTP.

A version with a compiled scorer is found, loaded and served without MLflow's client and scikit-learn: that halves
what the service needs of the start's seconds and of memory. Both are imported for a version that has none.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from loguru import logger

from app.champion import Matrix, Model, Version
from tableloop.mlflow_http import download_version, find_alias
from tableloop.model.intervals import Answers
from tableloop.table import FEATURE_NAMES, FEATURES

# Read when MLflow and OpenMP are loaded. No progress bars or telemetry in a server; and a few rows at a time are
# predicted twice as fast without a team of threads to wake.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tableloop.model.onnx_scorer import DIRECTORY, BrokenScorerError, Scorer

ANSWER_SECONDS = 5


class MlflowRegistry:
    """The versions of one registered model behind one alias."""

    def __init__(self, tracking_uri: str, model_name: str, alias: str) -> None:
        self._uri = tracking_uri
        self._name = model_name
        self._alias = alias

    def find(self) -> Version | None:
        """Return the version the alias names, None when there is no such model or alias.

        Raises
        ------
        OSError
            The server does not answer.
        """
        found = find_alias(self._uri, self._name, self._alias, ANSWER_SECONDS)
        if found is None:
            return None
        registered = datetime.fromtimestamp(int(found["creation_timestamp"]) / 1000, UTC)
        return Version(str(found["version"]), str(found["run_id"]), registered.isoformat(timespec="seconds"))

    def download(self, version: str, directory: Path) -> None:
        """Put the files of a version into ``directory``."""
        download_version(self._uri, self._name, version, directory)

    def load(self, directory: Path) -> Model:
        """Return the compiled scorer when there is a sound one, else the scikit-learn flavour."""
        metadata = yaml.safe_load((directory / "MLmodel").read_text()).get("metadata") or {}
        example = _example(directory / "input_example.json")
        if (directory / DIRECTORY).is_dir():
            try:
                return Model(Scorer.load(directory / DIRECTORY).predict, "compiled", metadata, example)
            except BrokenScorerError as error:
                logger.warning(f"the compiled scorer in {directory} is not used ({error}); scikit-learn serves")
        return _load_with_scikit_learn(directory, metadata, example)


def _example(file: Path) -> Matrix:
    """Return the rows of the model's input example, or a row of our own where it has none."""
    if not file.exists():
        return np.array([[column.example for column in FEATURES]])
    stored = json.loads(file.read_text())
    order = [stored["columns"].index(name) for name in FEATURE_NAMES]
    return np.array(stored["data"], dtype=np.float64)[:, order]


def _load_with_scikit_learn(directory: Path, metadata: Mapping[str, Any], example: Matrix) -> Model:
    import mlflow.sklearn  # noqa: PLC0415 - two seconds and 150 MB

    path = sys.path[:]
    try:
        model = mlflow.sklearn.load_model(str(directory))
    finally:
        sys.path[:] = path  # MLflow adds the version's code directory for good, at every version
    gc.freeze()  # what was imported now would otherwise be gone through by every full collection

    def predict(rows: Matrix) -> Answers:
        values, low, high = model.predict_interval(rows)
        return Answers(values, low, high, model.nearest_training_km(rows))

    return Model(predict, "scikit-learn", metadata, example)
