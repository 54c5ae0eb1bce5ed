"""The DVC workspace under STATE_DIR: a copy of what a training reads, so that nothing is written elsewhere."""

from __future__ import annotations

import filecmp
import os
import shutil
import sys
from pathlib import Path

import pipeline
from pipeline.git_commit import COMMIT_FILE, source_commit
from tableloop.environment import DVC, s3_endpoint, user
from tableloop.object_storage import CONNECT_SECONDS, READ_SECONDS, ObjectStorage
from tableloop.object_storage import DVC as REMOTE
from tableloop.settings import without_login
from tableloop.state.layout import Layout
from tableloop.table import DATA, FILE, SHIPPED, load_table, params_file

ROOT = Path(pipeline.__file__).parents[1]
CODE = ("pipeline", "tableloop")
RAW = Path("data/raw")
PARAMS = "params.yaml"
CACHE = Path(".dvc/cache")
PRETRAINED = ROOT / ".runtime" / "pretrained"  # only an image has it: `pipeline.pretrain`


def prepare(
    state_dir: Path, root: Path = ROOT, *, pretrained: bool = True, storage: ObjectStorage | None = None
) -> Path:
    """Bring STATE_DIR/workspace up to date with the code in ``root`` and the table's directory, and return it.

    A table that has no params.yaml uses that of ``root``.

    One that never trained gets what was trained when the image was built, unless ``pretrained`` is false. With
    ``storage``, DVC's remote is there.

    Copies: the image and the workspace may lie on different disks. Only Parquet files, which may be large and which
    nobody changes in place, become second names of the same file where that is possible. A dvc.lock is put there only
    when there is none, because the workspace's own is newer. The caller makes sure that no training runs in it.

    Raises
    ------
    OSError
        When something cannot be read or written.
    """
    workspace = Layout(state_dir).workspace
    shipped = root / SHIPPED.name
    table = shipped if DATA == SHIPPED else DATA
    described = load_table(table)
    wanted = {Path(name): root / name for name in ("dvc.yaml", "requirements.lock", ".dvc/config", ".dvcignore")}
    wanted[Path(PARAMS)] = root / PARAMS if table == shipped else params_file(table)
    raw = table / described.path
    data = [table / FILE, *(path for path in (raw.rglob("*") if raw.is_dir() else [raw]) if not path.is_dir())]
    wanted |= {Path("data") / path.relative_to(table): path for path in data}
    wanted |= {path.relative_to(root): path for folder in CODE for path in (root / folder).rglob("*.py")}
    # The batches are made here.
    wanted |= {path.relative_to(root): path for path in (root / "data/feedback").glob("*.md")}
    (workspace / "data/feedback").mkdir(parents=True, exist_ok=True)
    for path, source in sorted(wanted.items()):
        _copy(source, workspace / path)
    for folder in (*CODE, RAW):
        for path in (workspace / folder).rglob("*"):
            if path.is_file() and path.relative_to(workspace) not in wanted:
                path.unlink()
    pretrained = pretrained and table == shipped
    if pretrained and PRETRAINED.exists() and not (workspace / "dvc.lock").exists():
        shutil.rmtree(workspace / CACHE, ignore_errors=True)
        shutil.copytree(PRETRAINED / "cache", workspace / CACHE, copy_function=shutil.copyfile)
        _copy(PRETRAINED / "dvc.lock", workspace / "dvc.lock")
    if table == shipped and not (workspace / "dvc.lock").exists() and (root / "dvc.lock").exists():
        _copy(root / "dvc.lock", workspace / "dvc.lock")
    (workspace / ".dvc/config.local").write_text(_local_config(storage))
    (workspace / COMMIT_FILE).write_text(f"{source_commit(root) or ''}\n")
    # A killed DVC leaves its lock with its process id, which may be somebody else's by now.
    for name in ("rwlock", "rwlock.lock", "lock"):
        (workspace / ".dvc/tmp" / name).unlink(missing_ok=True)
    return workspace


def _local_config(storage: ObjectStorage | None) -> str:
    """Return DVC's configuration on this machine; the login for the remote is in the environment alone."""
    # The state directory may lie inside somebody's git repository; DVC has no business there.
    lines = ["[core]", "no_scm = true"]
    if storage:
        lines += ["remote = storage", "['remote \"storage\"']", f"url = {storage.address(REMOTE)}"]
        lines += [f"connect_timeout = {CONNECT_SECONDS}", f"read_timeout = {READ_SECONDS}"]
        if endpoint := s3_endpoint(os.environ):
            lines.append(f"endpointurl = {without_login(endpoint, '')}")
    return "".join(f"{line}\n" for line in lines)


def dvc_environment(workspace: Path) -> dict[str, str]:
    """Return the environment for DVC and its stages, which import the workspace's code and no other."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "DVC_SITE_CACHE_DIR": str(workspace / ".dvc/site"),
        **DVC,
        "LOGNAME": user(),  # DVC does not go on without
        "PYTHONUNBUFFERED": "1",
    }
    for name in ("PYTHONPATH", "TABLE"):  # the workspace has a copy of the table
        environment.pop(name, None)
    return environment


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and (target.samefile(source) or filecmp.cmp(source, target, shallow=False)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    partial.unlink(missing_ok=True)
    if not (source.suffix == ".parquet" and _link(source, partial)):
        shutil.copyfile(source, partial)
    partial.replace(target)


def _link(source: Path, target: Path) -> bool:
    """Make a second name of a file; return False where that cannot be: on another disk, or of somebody else's."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        return False
    return True
