"""Which commit the code comes from."""

from __future__ import annotations

import subprocess
from pathlib import Path

# Written where the code is copied away from its repository: into a workspace, into an image.
COMMIT_FILE = "COMMIT"


def source_commit(root: Path) -> str | None:
    """Return the commit of the code in ``root``, "-dirty" added when it was changed since; None when unknown."""
    recorded = root / COMMIT_FILE
    if recorded.exists():
        return recorded.read_text().strip() or None
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    inputs = ["pipeline", "tableloop", "params.yaml", "dvc.yaml", "data/raw", "requirements.lock"]
    try:
        commit = _output([*git, "rev-parse", "HEAD"])
        changed = _output([*git, "status", "--porcelain", "--", *inputs])
    except (OSError, subprocess.CalledProcessError):
        return None  # no git here, no commit yet, or a repository of somebody else
    return f"{commit}-dirty" if changed else commit


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
