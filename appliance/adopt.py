"""Sign the versions of a state that was made before its key was: after an upgrade, or in a backup from elsewhere.

What lies under STATE_DIR at that moment is taken as it is. From then on nothing unsigned is used.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from tableloop.model import manifest
from tableloop.signing import SigningKey
from tableloop.state.layout import Layout
from tableloop.version_files import VersionFilesError, describe_version


def adopt(layout: Layout, key: SigningKey) -> int:
    """Sign all versions whose files lie under STATE_DIR, each for the run that it names; return how many."""
    count = 0
    for root in (layout.mlflow_artifacts, layout.champion):
        for file in sorted(root.rglob("MLmodel")):
            with contextlib.suppress(VersionFilesError):  # no version, which nobody will open
                _sign(file.parent, key)
                count += 1
    return count


def _sign(directory: Path, key: SigningKey) -> None:
    run_id = describe_version(directory).run_id
    if not (directory / manifest.MANIFEST).exists():
        manifest.write(directory, {"product": "of a time before manifests"})
    key.sign(directory, run_id)
