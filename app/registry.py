"""The MLflow registry as the champion sees it. Importing this imports MLflow, which takes seconds."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

# MLflow reads these when it is used. Its own defaults, seven tries of two minutes, would leave the service asking a
# dead server for a quarter of an hour; progress bars and telemetry have no place in a server.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Read when OpenMP is loaded. A few rows at a time are predicted twice as fast without a team of threads to wake.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mlflow.artifacts
import mlflow.models
import mlflow.sklearn
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from app.champion import Model, Version
from pipeline.schema import FEATURE_NAMES, FEATURES


class MlflowRegistry:
    """The versions of one registered model behind one alias."""

    def __init__(self, tracking_uri: str, model_name: str, alias: str) -> None:
        self._uri = tracking_uri
        self._name = model_name
        self._alias = alias
        self._client = MlflowClient(tracking_uri, tracking_uri)

    def find(self) -> Version | None:
        """Return the version the alias names, None when there is no such model or alias.

        Raises
        ------
        MlflowException
            The server does not answer.
        """
        try:
            found = self._client.get_model_version_by_alias(self._name, self._alias)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise
        registered = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
        return Version(str(found.version), str(found.run_id), registered.isoformat(timespec="seconds"))

    def download(self, version: str, directory: Path) -> None:
        """Put the files of a version into ``directory``."""
        mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{self._name}/{version}",
            dst_path=str(directory),
            tracking_uri=self._uri,
            registry_uri=self._uri,
        )

    def load(self, directory: Path) -> Model:
        """Load the scikit-learn flavour and its input example."""
        path = sys.path[:]
        try:
            model = mlflow.sklearn.load_model(str(directory))
        finally:
            sys.path[:] = path  # MLflow adds the version's code directory for good, at every version
        card = mlflow.models.Model.load(str(directory))
        example = card.load_input_example(str(directory))
        if example is None:
            rows = np.array([[column.example for column in FEATURES]])
        else:
            rows = example[list(FEATURE_NAMES)].to_numpy(np.float64)
        return Model(model.predict_interval, card.metadata or {}, rows)
