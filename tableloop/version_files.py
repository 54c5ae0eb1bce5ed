"""The files of one version in a local directory: checked against their signature and manifest, then described.

Everyone who runs or serves a version goes through `open_version`. Nothing that a version says of itself is believed
before its files are proven there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tableloop.model import manifest
from tableloop.model.coding import Coding
from tableloop.settings import RegistrySettings
from tableloop.signing import SignatureError, SigningKey

MODEL_FILE = "model.skops"
CODE = "code"
SCORER = "scorer"


class VersionFilesError(ValueError):
    """The directory does not hold a version that can be used; the message says why."""


@dataclass(frozen=True)
class VersionFiles:
    """A version's directory, with what its MLmodel file says: metadata, input columns in their order, its run."""

    directory: Path
    metadata: dict[str, Any]
    columns: tuple[str, ...]
    run_id: str = ""

    @property
    def model_file(self) -> Path:
        """The serialised model."""
        return self.directory / MODEL_FILE

    @property
    def coding(self) -> Coding:
        """How the rows of its model are coded."""
        return Coding(self.columns, self.metadata.get("kinds"))

    @property
    def code(self) -> Path:
        """The code that the model was made by; a version that has none is run by the code here."""
        return self.directory / CODE

    @property
    def scorer(self) -> Path | None:
        """The directory of the compiled scorer, None when the version has none."""
        directory = self.directory / SCORER
        return directory if directory.is_dir() else None


def open_version(directory: Path, run_id: str, settings: RegistrySettings) -> VersionFiles:
    """Return the version in ``directory``, which the registry has for this run, after its files were checked.

    Raises
    ------
    VersionFilesError
        It is not signed for this run with the key of `settings`, or a file is missing or is not the one that was
        signed; or there is no key.
    """
    try:
        SigningKey.load(settings).check(directory, run_id)
        manifest.check(directory)
    except SignatureError as error:
        raise VersionFilesError(str(error)) from None
    except manifest.ManifestError as error:
        raise VersionFilesError(f"its files are not those it was made with: {error}") from error
    return describe_version(directory)


def describe_version(directory: Path) -> VersionFiles:
    """Return what the MLmodel file in ``directory`` says; whoever uses more of the files calls `open_version`.

    Raises
    ------
    VersionFilesError
        The file is missing or cannot be read.
    """
    try:
        described = yaml.safe_load((directory / "MLmodel").read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise VersionFilesError(f"its MLmodel file cannot be read: {error}") from error
    try:
        inputs = json.loads(described["signature"]["inputs"])
    except (ValueError, TypeError, KeyError):
        raise VersionFilesError(
            "it has no signature, which names the columns: give signature= or input_example= to log_model"
        ) from None
    try:
        columns = tuple(str(column["name"]) for column in inputs)
    except (TypeError, KeyError):
        raise VersionFilesError(
            "the columns of its signature have no names: make it from a pandas.DataFrame, not from an array"
        ) from None
    metadata, run_id = described.get("metadata") or {}, described.get("run_id") or ""
    if not isinstance(metadata, dict):
        raise VersionFilesError(f"its metadata are no table of names and values but {metadata!r:.100}")
    return VersionFiles(directory, metadata, columns, str(run_id))
