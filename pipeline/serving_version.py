"""Find the version that serves, and its files, for the gate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from pipeline.mlflow_runs import find_version
from tableloop.version_files import VersionFiles, open_version


@dataclass(frozen=True)
class ServingVersion:
    """The champion; ``tags`` are those of the registry, None when the registry does not have this version."""

    version: str
    run_id: str
    tags: dict[str, str] | None


def find_serving_version(client: MlflowClient, model: str, alias: str, state_dir: Path) -> ServingVersion | None:
    """Return the version that serves, None when none does."""
    if found := find_version(client, model, alias):
        return ServingVersion(found.version, found.run_id, found.tags)
    if copy := _local_copy(state_dir):
        return _known(client, model, copy["version"], copy["run_id"])
    return None


def open_serving_version(
    client: MlflowClient, model: str, serving: ServingVersion, state_dir: Path, directory: Path
) -> VersionFiles:
    """Return the checked files of the champion: those of the registry, or else the service's local copy.

    Raises
    ------
    VersionFilesError
        They are not those that the version was made with.
    OSError
        There are none.
    """
    if serving.tags is not None:
        try:
            # Not by "models:/name/version", which a name with a question mark is not.
            where = client.get_model_version_download_uri(model, serving.version)
            return open_version(Path(download_artifacts(where, dst_path=str(directory))))
        except (MlflowException, OSError) as error:
            failure = f"its files cannot be downloaded: {' '.join(str(error).split())[:300]}"
    else:
        failure = "the registry does not have it"
    copy = _local_copy(state_dir)
    if copy and (copy["version"], copy["run_id"]) == (serving.version, serving.run_id):
        return open_version(state_dir / "champion" / copy["directory"])
    raise OSError(f"{failure}, and the service has no copy of it")


def _known(client: MlflowClient, model: str, number: str, run_id: str) -> ServingVersion:
    try:
        version = client.get_model_version(model, number)
    except MlflowException:
        return ServingVersion(number, run_id, None)
    return ServingVersion(number, run_id, version.tags if version.run_id == run_id else None)


def _local_copy(state_dir: Path) -> dict[str, str] | None:
    try:
        copy: dict[str, str] = json.loads((state_dir / "champion/current.json").read_text())
    except (OSError, ValueError):
        return None
    return copy if {"version", "run_id", "directory"} <= copy.keys() else None
