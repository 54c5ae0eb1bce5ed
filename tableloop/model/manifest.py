"""The manifest of a version: the sha256 of every other file, and what made them.

It is written last, when all files of a version are there. `tableloop.version_files.open_version` checks it for
everyone who runs or serves a version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # of `tableloop.signing`, written after the manifest


class ManifestError(ValueError):
    """The files are not those that the manifest names; the message names each of them."""


def write(directory: Path, made_by: Mapping[str, str]) -> None:
    """Write the manifest of all files in ``directory``; ``made_by`` says which product and commit made them."""
    content = {"made_by": dict(made_by), "files": _digests(directory)}
    (directory / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")


def check(directory: Path) -> None:
    """Return when ``directory`` holds exactly the files of its manifest.

    Raises
    ------
    ManifestError
        A file is missing, added or changed, or the manifest itself is missing or cannot be read.
    """
    file = directory / MANIFEST
    try:
        expected: dict[str, str] = json.loads(file.read_text())["files"]
        found = _digests(directory)
        faults = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
        faults += [f"{name} is not in the manifest" for name in sorted(found.keys() - expected.keys())]
        faults += [f"{name} was changed" for name in sorted(expected.keys() & found) if expected[name] != found[name]]
    except OSError as error:
        raise ManifestError(f"{error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f"{MANIFEST} is no manifest: {type(error).__name__}: {error}") from None
    if faults:
        raise ManifestError("; ".join(faults))


def _digests(directory: Path) -> dict[str, str]:
    """Return the sha256 of each file below ``directory`` but manifest and signature, by its path with slashes."""
    digests = {}
    for file in sorted(directory.rglob("*")):
        name = file.relative_to(directory).as_posix()
        if not file.is_dir() and name not in (MANIFEST, SIGNATURE):
            with file.open("rb") as content:
                digests[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return digests
