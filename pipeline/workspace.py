"""The DVC workspace under STATE_DIR: a copy of what a training reads, so that nothing is written elsewhere."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

import pipeline
from pipeline.git_commit import COMMIT_FILE, source_commit
from tableloop.state.layout import Layout

ROOT = Path(pipeline.__file__).parents[1]
CODE = ("pipeline", "tableloop")


def prepare(state_dir: Path, root: Path = ROOT) -> Path:
    """Bring STATE_DIR/workspace up to date with the code and raw data in ``root``, and return it.

    Copies, never links: the image and the workspace may lie on different disks. A dvc.lock is put there only when
    there is none, because the workspace's own is newer. The caller makes sure that no training runs in it.

    Raises
    ------
    OSError
        When something cannot be read or written.
    """
    workspace = Layout(state_dir).workspace
    wanted = {Path(name) for name in ("dvc.yaml", "params.yaml", "requirements.lock", ".dvc/config", ".dvcignore")}
    wanted.add(Path("data/table.yaml"))
    wanted |= {path.relative_to(root) for folder in CODE for path in (root / folder).rglob("*.py")}
    wanted |= {path.relative_to(root) for path in (root / "data/raw").iterdir() if path.is_file()}
    wanted |= {path.relative_to(root) for path in (root / "data/feedback").glob("*.md")}  # the batches are made here
    (workspace / "data/feedback").mkdir(parents=True, exist_ok=True)
    for path in sorted(wanted):
        _copy(root / path, workspace / path)
    for folder in (*CODE, "data/raw"):
        for path in (workspace / folder).rglob("*"):
            if path.is_file() and path.relative_to(workspace) not in wanted:
                path.unlink()
    if not (workspace / "dvc.lock").exists() and (root / "dvc.lock").exists():
        _copy(root / "dvc.lock", workspace / "dvc.lock")
    # The state directory may lie inside somebody's git repository; DVC has no business there.
    (workspace / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    (workspace / COMMIT_FILE).write_text(f"{source_commit(root) or ''}\n")
    # A killed DVC leaves its lock with its process id, which may be somebody else's by now.
    for name in ("rwlock", "rwlock.lock", "lock"):
        (workspace / ".dvc/tmp" / name).unlink(missing_ok=True)
    return workspace


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, partial)
    partial.replace(target)
