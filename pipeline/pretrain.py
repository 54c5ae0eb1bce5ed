"""Train what is shipped and keep DVC's cache and lock of it in ``.runtime``: ``python -m pipeline.pretrain``.

The build of the image does it. A first start whose data, parameters, code and packages are those of the build then
restores what was trained instead of training it again; whatever differs is trained.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.workspace import CACHE, PRETRAINED, dvc_environment, prepare


def main() -> None:
    """Train, and put the cache in its place."""
    with tempfile.TemporaryDirectory() as state:
        workspace = prepare(Path(state), pretrained=False)
        command = [sys.executable, "-m", "dvc", "repro", "train"]
        subprocess.run(command, cwd=workspace, env=dvc_environment(workspace), check=True)
        shutil.rmtree(PRETRAINED, ignore_errors=True)
        shutil.copytree(workspace / CACHE, PRETRAINED / "cache", copy_function=shutil.copyfile)
        shutil.copyfile(workspace / "dvc.lock", PRETRAINED / "dvc.lock")


if __name__ == "__main__":
    main()
