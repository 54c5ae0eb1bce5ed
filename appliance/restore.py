"""A backup of `appliance.backup` put in place of the state: ``make restore FILE=...`` while nothing runs.

It is unpacked and checked beside the state, which stays untouched until then. One rename marks it as whole. After
that it will be the state even if this process is killed, because the next start goes on (`prepare.put_in_place`). The
former state is moved aside, never removed.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import sys
import tarfile
import time
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from appliance.backup import (
    CHECKSUMS,
    CONTENT,
    FORMAT,
    FORMER_PRODUCT,
    LEFT_OUT,
    MANIFEST,
    PRODUCT,
    entries,
    in_use,
    reported,
    served,
)
from appliance.binaries import UNPACKING
from appliance.prepare import RefusedError, check_writable, known_revisions, put_in_place
from tableloop.settings import load_settings
from tableloop.state.layout import REPLACED, Layout
from tableloop.state.locks import retraining_lock

LONGEST_TEXT = 100_000_000  # bytes of the manifest or the checksums; larger is something else


class ForeignError(Exception):
    """The file is no backup, or is broken; the message says how."""


def restore(state: Path, source: IO[bytes]) -> tuple[dict[str, Any], Path | None]:
    """Unpack and check a backup, then put it in place of the state, in which nothing runs.

    Returns the backup's manifest, and where the former state lies now, if there was one.

    Raises
    ------
    ForeignError
        It is no backup, or broken.
    RefusedError
        It was made by a newer appliance, or the state cannot be moved.
    OSError
        It cannot be read or written, such as on a full disk. In all cases the state is as it was.
    """
    layout = Layout(state)
    put_in_place(state)  # what an interrupted restore has left undone
    new = layout.restoring
    (new / CONTENT).mkdir(parents=True)
    try:
        manifest = _unpack(source, new)
        plan = {"aside": f"{REPLACED}{datetime.now(UTC):%Y%m%dT%H%M%SZ}", "former": _movable(state)}
        (new / "plan.json").write_text(json.dumps(plan))
        os.sync()
        new.rename(layout.restored)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return manifest, put_in_place(state)


def _movable(state: Path) -> list[str]:
    """Return the names of what will be moved aside."""
    names = entries(state)
    if mounted := [name for name in names if (state / name).is_mount()]:
        raise RefusedError(f"{state / mounted[0]} is a disk of its own and cannot be moved aside: unmount it")
    return [str(name) for name in names]


def _unpack(source: IO[bytes], directory: Path) -> dict[str, Any]:
    """Unpack everything under ``state/`` of the archive and return its manifest."""
    sums = None
    try:
        with gzip.GzipFile(fileobj=source) as compressed, tarfile.open(fileobj=compressed, mode="r|") as tar:
            members = iter(tar)
            first = next(members, None)
            manifest = _manifest(_text(tar, first) if first and first.name == MANIFEST else "")
            for member in members:
                if member.name == CHECKSUMS:
                    sums = _text(tar, member)
                    break
                name = Path(member.name)
                inside = len(name.parts) >= 2 and name.parts[0] == CONTENT and ".." not in name.parts
                if not (member.isreg() or member.isdir()) or not inside or Path(name.parts[1]) in LEFT_OUT:
                    raise ForeignError(f"it holds {member.name!r}, which no backup does")
                tar.extract(member, directory, **UNPACKING)
            while compressed.read(65_536):  # its checksum comes last
                pass
    except (gzip.BadGzipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise ForeignError(f"it is broken, cut short, or no backup: {str(error) or type(error).__name__}") from None
    if sums is None:
        raise ForeignError(f"it is cut short: its end, {CHECKSUMS}, is missing")
    _compare(sums, directory)
    return manifest


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    if content is None or member.size > LONGEST_TEXT:
        raise ForeignError(f"its {member.name} is no file, or too large")
    return content.read().decode(errors="replace")


def _manifest(text: str) -> dict[str, Any]:
    """Return the manifest of a backup that this appliance can take."""
    try:
        manifest: dict[str, Any] = json.loads(text)
        product, form, schema = manifest["product"], int(manifest["format"]), manifest["mlflow_schema"]
        made = f"it was made by commit {manifest['commit']} on {manifest['created_at']}"
    except (ValueError, TypeError, KeyError):
        product = None
    if product not in {PRODUCT, FORMER_PRODUCT}:
        raise ForeignError("it is no backup of this appliance")
    if form > FORMAT:
        raise RefusedError(f"{made} in a newer form, {form}; this appliance knows {FORMAT}")
    if schema and schema not in known_revisions():
        raise RefusedError(
            f"{made} with MLflow's schema {schema}, which the MLflow here does not know; "
            "restore it with the newer version of the appliance"
        )
    return manifest


def _compare(sums: str, directory: Path) -> None:
    """Compare every file with its checksum."""
    listed = {name: digest for digest, name in (line.split("  ", 1) for line in sums.splitlines())}
    unpacked = {
        file.relative_to(directory).as_posix(): file for file in (directory / CONTENT).rglob("*") if file.is_file()
    }
    if different := listed.keys() ^ unpacked.keys():
        raise ForeignError(f"{min(different)} is in the list of checksums or in the archive, but not in both")
    for name, file in unpacked.items():
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != listed[name]:
                raise ForeignError(f"{name} does not have its checksum")


def _hold(state: Path) -> IO[bytes]:
    """Return the open lock of the state: nothing can start there while it is open. Refuse if something runs there."""
    lock = Layout(state).run_lock
    lock.parent.mkdir(parents=True, exist_ok=True)
    if not in_use(state):
        file = lock.open("ab")
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        file.close()
    raise RefusedError(f"an appliance works with {state}: stop it first (make down, or docker stop)")


def _source(state: Path, argument: str) -> IO[bytes]:
    if argument == "-":
        return sys.stdin.buffer
    if argument:
        return Path(argument).expanduser().absolute().open("rb")
    found = sorted(file.as_posix() for file in Layout(state).backups.glob("*.tar.gz"))
    raise RefusedError(f"which one? make restore FILE=..., with one of {', '.join(found) or 'your own'}")


def put_back(argument: str) -> int:
    """Restore one backup, from stdin for ``-``, and return the exit code 0."""
    state = load_settings().state_dir
    started = time.monotonic()
    with _source(state, argument) as source:
        check_writable(state)
        with _hold(state), retraining_lock(Layout(state), "a restore"):
            try:
                manifest, former = restore(state, source)
            except ForeignError as problem:
                raise RefusedError(f"{argument} cannot be used: {problem}") from None
    sys.stdout.write(
        f"{state} is as of {manifest['created_at']}: {served(manifest['model_version'])}, "
        f"{manifest['predictions']:,} predictions; in {time.monotonic() - started:.1f} s\n"
    )
    if former is not None:
        sys.stdout.write(f"what was there before lies in {former}: remove it when nobody needs it\n")
    return 0


if __name__ == "__main__":
    sys.exit(reported(put_back, "nothing restored"))
