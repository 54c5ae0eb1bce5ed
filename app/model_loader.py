"""The MLflow registry as the champion sees it, over plain HTTP.

Neither MLflow's client nor scikit-learn is imported here, which would take seconds of the start and half of the
memory. A version without a compiled scorer that this code can read is run by its own code in a process beside ours.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from loguru import logger

from app.champion import Matrix, Model, Version
from tableloop.mlflow_http import download_version, find_alias
from tableloop.model.intervals import Answers
from tableloop.model.onnx_scorer import BrokenScorerError, Scorer
from tableloop.model_process import ModelProcess
from tableloop.table import load_table
from tableloop.version_files import VersionFiles, open_version

ANSWER_SECONDS = 5
PREDICT_SECONDS = 10.0  # requests wait meanwhile


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
        """Return the compiled scorer when there is a sound one, else the model in a process of its own.

        Raises
        ------
        VersionFilesError, ModelProcessError
            The files are not those of the version, or its model does not load.
        """
        files = open_version(directory)
        example = _example(directory / "input_example.json")
        if files.scorer is not None:
            try:
                return Model(Scorer.load(files.scorer).predict, "compiled", files.metadata, example)
            except BrokenScorerError as error:
                logger.warning(f"the compiled scorer in {directory} is not used ({error}); scikit-learn serves")
        return _load_with_scikit_learn(files, example)


def _example(file: Path) -> Matrix:
    """Return the rows of the model's input example, or a row of our own where it has none."""
    if not file.exists():
        return np.array([list(load_table().example.values())])
    stored = json.loads(file.read_text())
    order = [stored["columns"].index(name) for name in load_table().feature_names]
    return np.array(stored["data"], dtype=np.float64)[:, order]


def _load_with_scikit_learn(files: VersionFiles, example: Matrix) -> Model:
    process = ModelProcess(files, answer_seconds=PREDICT_SECONDS, restarts=True)

    def predict(rows: Matrix) -> Answers:
        return process.predict(rows, load_table().feature_names)

    return Model(predict, "scikit-learn", files.metadata, example)
