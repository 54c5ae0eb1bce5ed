"""The MLflow registry as the champion sees it, over plain HTTP.

Neither MLflow's client nor scikit-learn is imported here, which would take seconds of the start and half of the
memory. A version without a compiled scorer that this code can read is run by its own code in a process beside ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from loguru import logger

from app.champion import Matrix, Model, Version
from tableloop.drift.reference import REFERENCE_FILE, Reference
from tableloop.mlflow_http import download_version, find_alias
from tableloop.model.intervals import Answers
from tableloop.model.kriging import Neighbours
from tableloop.model.onnx_scorer import BrokenScorerError, Scorer
from tableloop.model_process import ModelProcess
from tableloop.settings import RegistrySettings
from tableloop.table import load_table
from tableloop.trial import try_scorer
from tableloop.version_files import open_version

ANSWER_SECONDS = 5
PREDICT_SECONDS = 10.0  # requests wait meanwhile


class MlflowRegistry:
    """The versions of one registered model behind one alias, by default that of the version that serves."""

    def __init__(self, settings: RegistrySettings, alias: str = "") -> None:
        self._settings = settings
        self._uri = settings.mlflow_tracking_uri
        self._login = settings.registry_login
        self._name = settings.model_name
        self._alias = alias or settings.model_alias

    def find(self) -> Version | None:
        """Return the version the alias names, None when there is no such model or alias.

        Raises
        ------
        OSError
            The server does not answer.
        """
        found = find_alias(self._uri, self._name, self._alias, seconds=ANSWER_SECONDS, login=self._login)
        if found is None:
            return None
        registered = datetime.fromtimestamp(int(found["creation_timestamp"]) / 1000, UTC)
        return Version(str(found["version"]), str(found["run_id"]), registered.isoformat(timespec="seconds"))

    def download(self, version: str, directory: Path) -> None:
        """Put the files of a version into ``directory``."""
        download_version(self._uri, self._name, version, directory, login=self._login)

    def load(self, directory: Path, version: Version, *, trial: bool) -> Model:
        """Return the compiled scorer when there is a sound one, else the model in a process of its own.

        With ``trial`` the scorer is first loaded in a process of its own.

        Raises
        ------
        VersionFilesError, TrialError, ModelProcessError
            The files are not those that were signed for the version, or its model does not load.
        """
        files = open_version(directory, version.run_id, self._settings)
        table = load_table()
        example, reference = _example(directory / "input_example.json"), _reference(directory / REFERENCE_FILE)
        if files.scorer is not None:
            try:
                if trial:
                    try_scorer(files.scorer)
                scorer = _Compiled(Scorer.load(files.scorer), table.coding.to(files.coding))
                return Model(scorer.predict, "compiled", files.metadata, example, reference, scorer)
            except BrokenScorerError as error:
                logger.warning(f"the compiled scorer in {directory} is not used ({error}); scikit-learn serves")
        process = ModelProcess(files, answer_seconds=PREDICT_SECONDS, restarts=True)
        predict = partial(process.predict, coding=table.coding)
        return Model(predict, "scikit-learn", files.metadata, example, reference)


class _Compiled:
    """A compiled scorer that takes rows in the coding of the table here."""

    def __init__(self, scorer: Scorer, recode: Callable[[Matrix], Matrix]) -> None:
        self._scorer = scorer
        self._recode = recode

    def predict(self, rows: Matrix) -> Answers:
        """Return what the model says of rows."""
        return self._scorer.predict(self._recode(rows))

    def left_out(self, rows: Matrix) -> Answers:
        """Return what it would say of rows of its training, without each."""
        return self._scorer.left_out(self._recode(rows))

    def neighbours(self, row: Matrix, *, left_out: bool = False) -> Neighbours | None:
        """Return the training places that a row is compared with; None if there are none."""
        return self._scorer.neighbours(self._recode(row[np.newaxis])[0], left_out=left_out)


def _example(file: Path) -> Matrix:
    """Return the rows of the model's input example, or a row of our own where it has none."""
    table = load_table()
    if not file.exists():
        return table.coding.rows([[*table.example.values()]])
    stored = json.loads(file.read_text())
    order = [stored["columns"].index(name) for name in table.feature_names]
    return table.coding.rows([[row[place] for place in order] for row in stored["data"]])


def _reference(file: Path) -> Matrix | None:
    """Return the training rows that a version keeps; None where it keeps none of the columns that there are now."""
    table = load_table()
    try:
        return Reference.load(file, table.feature_names).coded(table.coding)
    except (OSError, ValueError):
        return None
