"""The version that files are scored by: fetched and checked once, then sent as bytes to whoever scores."""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tableloop.files import Matrix
from tableloop.mlflow_http import download_version, find_alias
from tableloop.model.intervals import Answers
from tableloop.model.manifest import MANIFEST
from tableloop.model.onnx_scorer import BrokenScorerError, Scorer
from tableloop.model_process import ModelProcess
from tableloop.settings import RegistrySettings
from tableloop.table import Table
from tableloop.version_files import describe_version, open_version

Predict = Callable[[Matrix], Answers]  # of rows of shape (n, features), coded as the table here codes them


@dataclass(frozen=True)
class ScoredVersion:
    """Which version it is; two are equal if their names, runs and all of their files are."""

    model: str
    version: str
    run_id: str
    manifest_sha256: str


def fetch_version(settings: RegistrySettings) -> tuple[ScoredVersion, bytes]:
    """Return the version that serves in the registry, and its files in one archive.

    Raises
    ------
    OSError
        The registry does not answer, or has none.
    VersionFilesError
        The files are not those that were signed for it.
    """
    uri, name = settings.mlflow_tracking_uri, settings.model_name
    try:
        found = find_alias(uri, name, settings.model_alias, login=settings.registry_login)
    except OSError as error:
        raise OSError(f"the registry at {uri} does not answer ({error}): start it, or name a --model") from error
    if found is None:
        raise OSError(f"the registry at {uri} has no {name}@{settings.model_alias}: train one (make retrain)")
    number = str(found["version"])
    with tempfile.TemporaryDirectory() as directory:
        download_version(uri, name, number, Path(directory), login=settings.registry_login)
        return read_version(Path(directory), number, str(found.get("run_id", "")), settings)


def read_version(
    directory: Path, number: str, run_id: str, settings: RegistrySettings
) -> tuple[ScoredVersion, bytes]:
    """Return the version in a directory, which the registry has for this run, and its files in one archive.

    Raises
    ------
    VersionFilesError
        The files are not those that were signed for it.
    """
    open_version(directory, run_id, settings)
    digest = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        for file in sorted(directory.rglob("*")):
            files.write(file, file.relative_to(directory))
    return ScoredVersion(settings.model_name, number, run_id, digest), archive.getvalue()


def load_predict(archive: bytes, table: Table) -> Predict:
    """Return the predictions of a version's files: of its compiled scorer, else of its model in its own process.

    Raises
    ------
    ModelProcessError
        The model does not load.
    """
    with tempfile.TemporaryDirectory() as directory:
        zipfile.ZipFile(io.BytesIO(archive)).extractall(directory)
        files = describe_version(Path(directory))
        if files.scorer is not None:
            try:
                scorer, to_its = Scorer.load(files.scorer), table.coding.to(files.coding)
                return lambda rows: scorer.predict(to_its(rows))
            except BrokenScorerError as error:
                sys.stderr.write(f"the compiled scorer of the version is not used ({error}): scikit-learn is\n")
        process = ModelProcess(files)
        return lambda rows: process.predict(rows, table.coding)
