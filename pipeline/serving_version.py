"""Find the version that serves, and its files, for the gate."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from pipeline.mlflow_runs import find_version
from tableloop.model_process import ModelProcess
from tableloop.settings import RegistrySettings
from tableloop.state.database import SERVES, Store
from tableloop.state.layout import Layout
from tableloop.table import Table
from tableloop.version_files import VersionFiles, VersionFilesError, open_version

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ServingVersion:
    """The champion; ``tags`` are those of the registry, None when the registry does not have this version."""

    version: str
    run_id: str
    tags: dict[str, str] | None


def find_serving_version(client: MlflowClient, store: Store, settings: RegistrySettings) -> ServingVersion | None:
    """Return the version that serves by the store's record, None when none does.

    Where there is no record, as after an upgrade, the alias says it; where somebody has deleted the alias too, the
    service's local copy does.
    """
    model = settings.model_name
    copy = _local_copy(settings.state_dir)
    if recorded := store.serving_champion(model):
        serving = _known(client, model, recorded.version, recorded.run_id)
        copied = copy is not None and _is_copy_of(copy, serving)
        if serving.tags is not None or copied or recorded.event == SERVES:
            return serving
        # Promoted in a registry that is not this one, it has never served: there is nothing to compare with.
    if found := find_version(client, model, settings.model_alias):
        return ServingVersion(found.version, found.run_id, found.tags)
    return _known(client, model, copy["version"], copy["run_id"]) if copy else None


def open_serving_version(
    client: MlflowClient, serving: ServingVersion, settings: RegistrySettings, directory: Path
) -> VersionFiles:
    """Return the checked files of the champion: the service's local copy, or else those of the registry.

    Raises
    ------
    VersionFilesError
        They are not those that were signed for the version.
    OSError
        There are none.
    """
    failure = "the registry does not have it, and the service has no copy of it"
    copy = _local_copy(settings.state_dir)
    if copy is not None and _is_copy_of(copy, serving):
        try:
            return open_version(Layout(settings.state_dir).champion / copy["directory"], serving.run_id, settings)
        except VersionFilesError as error:
            failure = f"the service's copy cannot be used: {error}"
    if serving.tags is None:
        raise OSError(failure)
    try:
        files = download_files(client, settings.model_name, serving.version, directory)
    except (MlflowException, OSError) as error:
        raise OSError(f"its files cannot be downloaded: {' '.join(str(error).split())[:300]}") from error
    return open_version(files, serving.run_id, settings)


def download_files(client: MlflowClient, model: str, number: str, directory: Path) -> Path:
    """Return where the files of a version of the registry now are, below ``directory``."""
    # Not by "models:/name/version", which a name with a question mark is not.
    where = client.get_model_version_download_uri(model, number)
    return Path(download_artifacts(where, dst_path=str(directory)))


def _known(client: MlflowClient, model: str, number: str, run_id: str) -> ServingVersion:
    try:
        version = client.get_model_version(model, number)
    except MlflowException:
        return ServingVersion(number, run_id, None)
    return ServingVersion(number, run_id, version.tags if version.run_id == run_id else None)


def _local_copy(state_dir: Path) -> dict[str, str] | None:
    try:
        copy: dict[str, str] = json.loads(Layout(state_dir).champion_pointer.read_text())
    except (OSError, ValueError):
        return None
    return copy if {"version", "run_id", "directory"} <= copy.keys() else None


def _is_copy_of(copy: dict[str, str], serving: ServingVersion) -> bool:
    return (copy["version"], copy["run_id"]) == (serving.version, serving.run_id)


def predict_batches(process: ModelProcess, batches: Iterable[pd.DataFrame], table: Table) -> tuple[Vector, Vector]:
    """Return the actual values of rows and those that a model predicts, each of shape (n,), batch by batch.

    Raises
    ------
    ModelProcessError
        As `ModelProcess.predict`.
    """
    pairs = [
        (rows[table.target_name].to_numpy(np.float64), process.predict(table.coding.frame(rows), table.coding).values)
        for rows in batches
    ]
    actual, predicted = (np.concatenate(values) for values in zip(*pairs, strict=True))
    return actual, predicted
