"""Does what was moved answer as before? The version that serves predicts again what it has predicted."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from app.champion import Version
from app.model_loader import MlflowRegistry
from tableloop.mlflow_http import HERE
from tableloop.object_storage import MLFLOW, ObjectStorage
from tableloop.settings import RegistrySettings
from tableloop.state.database import Predicted, Store
from tableloop.state.layout import Layout
from tableloop.table import load_table

ROWS: Final = 50
AMONG: Final = 10_000  # newest predictions
TOLERANCE: Final = 1e-6  # of the value, or of 1 where the value is smaller


class DifferentAnswersError(Exception):
    """The moved version does not answer as it did; the message says how."""


def compare_answers(
    settings: RegistrySettings, registry_uri: str, store: Store, storage: ObjectStorage | None
) -> str:
    """Return in words that rows of the log, predicted again by the version behind the alias, have the same values.

    The version is found in MLflow's tables at ``registry_uri``. Its files, from ``storage`` or else from STATE_DIR,
    are checked against the signature of this appliance.

    Raises
    ------
    DifferentAnswersError
        A value differs.
    VersionFilesError, StorageError, StoreError
        The version or the log cannot be read there.
    """
    found = _version_behind_alias(settings, registry_uri)
    if found is None:
        return f"the registry has no {settings.model_name}@{settings.model_alias}: there are no answers to compare"
    version, folder = found
    made = [row for row in store.newest_predictions(AMONG) if row.model_version == version.version][:ROWS]
    with tempfile.TemporaryDirectory(prefix="migrate-") as directory:
        files = Layout(settings.state_dir).mlflow_artifacts / folder
        if storage is not None:
            files = Path(directory)
            _fetch(storage, f"{MLFLOW}/{folder}/", files)
        model = MlflowRegistry(settings).load(files, version, trial=False)
        if not made:
            return f"version {version.version} loads; the log has none of its predictions to compare with"
        rows = load_table().coding.rows([row.features for row in made])
        largest = _largest_difference(made, model.predict(rows).values)
    if largest > TOLERANCE:
        raise DifferentAnswersError(
            f"version {version.version} from there answers otherwise than it did: by {largest:.2g} in one of "
            f"{len(made)} rows"
        )
    rows_again = "1 row" if len(made) == 1 else f"{len(made)} rows"
    return f"version {version.version} from there answers {rows_again} of the log again as it did"


def _version_behind_alias(settings: RegistrySettings, registry_uri: str) -> tuple[Version, str] | None:
    """Return the version that serves, and the folder of its files below those of MLflow."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - it takes two seconds
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415 - as above

    registry = SqlAlchemyStore(registry_uri)
    name = settings.model_name
    try:
        found = registry.get_model_version_by_alias(name, settings.model_alias)
    except MlflowException:
        return None
    where = registry.get_model_version_download_uri(name, found.version)
    return Version(str(found.version), str(found.run_id), None), where.removeprefix(HERE).lstrip("/")


def _fetch(storage: ObjectStorage, folder: str, directory: Path) -> None:
    for name in storage.contents():
        if name.startswith(folder):
            storage.download(name, directory / name.removeprefix(folder))


def _largest_difference(made: list[Predicted], values: np.typing.NDArray[np.float64]) -> float:
    before = np.array([row.prediction for row in made])
    return float(np.max(np.abs(values - before) / np.maximum(1.0, np.abs(before))))
