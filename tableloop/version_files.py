"""The files of one version in a local directory: opened, checked against their manifest, described.

Everyone who runs or serves a version goes through `open_version`. Whatever must be proven of a version before its
files are used is proven there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tableloop.model import manifest

MODEL_FILE = "model.skops"
CODE = "code"
SCORER = "scorer"


class VersionFilesError(ValueError):
    """The directory does not hold a version that can be used; the message says why."""


@dataclass(frozen=True)
class VersionFiles:
    """A version's directory, with what its MLmodel file says: its metadata and its input columns, in order."""

    directory: Path
    metadata: dict[str, Any]
    columns: tuple[str, ...]

    @property
    def model_file(self) -> Path:
        """The serialised model."""
        return self.directory / MODEL_FILE

    @property
    def code(self) -> Path:
        """The code that the model was made by; a version that has none is run by the code here."""
        return self.directory / CODE

    @property
    def scorer(self) -> Path | None:
        """The directory of the compiled scorer, None when the version has none."""
        directory = self.directory / SCORER
        return directory if directory.is_dir() else None


def open_version(directory: Path) -> VersionFiles:
    """Return the version in ``directory`` after its files were checked.

    Raises
    ------
    VersionFilesError
        A file is missing or is not the one that the version was made with.
    """
    try:
        manifest.check(directory)
        described = yaml.safe_load((directory / "MLmodel").read_text())
        columns = tuple(column["name"] for column in json.loads(described["signature"]["inputs"]))
        return VersionFiles(directory, described.get("metadata") or {}, columns)
    except manifest.ManifestError as error:
        raise VersionFilesError(f"its files are not those it was made with: {error}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise VersionFilesError(f"its MLmodel file cannot be read: {type(error).__name__}: {error}") from error
