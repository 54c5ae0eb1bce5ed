"""A backup of `appliance.backup` put in place of the state: ``make restore FILE=...`` while nothing runs.

It must be signed with the key of this appliance, or be trusted by hand (``TRUST=1``): then its versions are signed
anew. Of the workspace only data and results are taken; its code is that of the installation.

It is unpacked and checked beside the state, which stays untouched until then. One rename marks it as whole. After
that it will be the state even if this process is killed, because the next start goes on (`prepare.put_in_place`). The
former state is moved aside, never removed; keys and passwords stay where they are.
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
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, Field, ValidationError

from appliance.adopt import adopt
from appliance.backup import (
    CHECKSUMS,
    CONTENT,
    FORMAT,
    LEFT_OUT,
    MANIFEST,
    SIGNATURE,
    entries,
    in_use,
    reported,
    served,
    signed,
)
from appliance.binaries import UNPACKING
from appliance.prepare import RefusedError, check_writable, known_revisions, put_in_place
from tableloop.object_storage import BACKUPS, SCHEME, ObjectStorage
from tableloop.settings import load_settings
from tableloop.signing import SignatureError, SigningKey, key_file
from tableloop.state.layout import REPLACED, Layout
from tableloop.state.locks import retraining_lock

RESULTS = ("data/processed", "data/feedback", "models", "reports", "dvc.lock", ".dvc/cache")  # of the workspace
_NAMES = Layout(Path())  # as they are called in the archive
Signature = tuple[bytes, str]  # what is signed, and its signature
LONGEST_TEXT = 100_000_000  # bytes of the manifest or the checksums; larger is something else


class ForeignError(Exception):
    """The file is no backup, or is broken; the message says how."""


class Manifest(BaseModel):
    """What a backup says of itself."""

    product: Literal["tableloop", "house-price-appliance"]
    format: int
    created_at: str = Field(max_length=40)
    commit: str | None = Field(max_length=100)
    mlflow_schema: str | None
    model_version: str | None = Field(max_length=40)
    predictions: int
    bytes: int = 0  # of a time before it was written


def restore(state: Path, source: IO[bytes], key: SigningKey, *, trust: bool = False) -> tuple[Manifest, Path | None]:
    """Unpack and check a backup, then put it in place of the state, in which nothing runs.

    With ``trust`` a backup that is not signed with the key is taken all the same, and its versions are signed.

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
        manifest, signature = _unpack(source, new)
        _check_signature(signature, new, key, trust=trust)
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


def _check_signature(signature: Signature, directory: Path, key: SigningKey, *, trust: bool) -> None:
    """Refuse a backup that is not signed with the key; where it is trusted all the same, sign its versions."""
    try:
        key.verify(*signature)
    except SignatureError:
        if not trust:
            raise ForeignError(
                "it is not signed with the key of this appliance. If you made it, bring the key of the appliance "
                "that it is of (SIGNING_KEY_FILE), or take it as it is: make restore FILE=... TRUST=1"
            ) from None
        adopt(Layout(directory / CONTENT), key)


def _unpack(source: IO[bytes], directory: Path) -> tuple[Manifest, Signature]:
    """Unpack what is under ``state/`` of the archive; return its manifest, and what is signed with its signature."""
    sums, signature, refused = None, "", set()
    try:
        with gzip.GzipFile(fileobj=source) as compressed, tarfile.open(fileobj=compressed, mode="r|") as tar:
            members = iter(tar)
            first = next(members, None)
            described = _text(tar, first) if first and first.name == MANIFEST else ""
            manifest = _manifest(described)
            _check_room(manifest, directory)
            for member in members:
                if member.name == CHECKSUMS:
                    sums = _text(tar, member)
                    following = next(members, None)
                    signature = _text(tar, following) if following and following.name == SIGNATURE else ""
                    break
                name = Path(member.name)
                inside = len(name.parts) >= 2 and name.parts[0] == CONTENT and ".." not in name.parts
                if not (member.isreg() or member.isdir()) or not inside or Path(name.parts[1]) in LEFT_OUT:
                    raise ForeignError(f"it holds {member.name!r}, which no backup does")
                if _is_installed(name):
                    refused.add(member.name)
                else:
                    tar.extract(member, directory, **UNPACKING)
            while compressed.read(65_536):  # its checksum comes last
                pass
    except (gzip.BadGzipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise ForeignError(f"it is broken, cut short, or no backup: {str(error) or type(error).__name__}") from None
    if sums is None:
        raise ForeignError(f"it is cut short: its end, {CHECKSUMS}, is missing")
    _compare(sums, directory, refused)
    return manifest, (signed(described, sums), signature)


def _is_installed(name: Path) -> bool:
    """Return whether a file of the workspace comes from the installation, or would be code."""
    own = Path(*name.parts[1:])
    return own.is_relative_to(_NAMES.workspace) and not any(
        own.is_relative_to(_NAMES.workspace / kept) or (_NAMES.workspace / kept).is_relative_to(own)
        for kept in RESULTS
    )


def _check_room(manifest: Manifest, directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < manifest.bytes:
        raise RefusedError(f"{directory.parent}: {free / 1e9:.2f} GB free, {manifest.bytes / 1e9:.2f} GB needed")


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    if content is None or member.size > LONGEST_TEXT:
        raise ForeignError(f"its {member.name} is no file, or too large")
    return content.read().decode(errors="replace")


def _manifest(text: str) -> Manifest:
    """Return the manifest of a backup that this appliance can take."""
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError:
        raise ForeignError("it is no backup of this appliance") from None
    made = f"it was made by commit {manifest.commit} on {manifest.created_at}"
    if manifest.format > FORMAT:
        raise RefusedError(f"{made} in a newer form, {manifest.format}; this appliance knows {FORMAT}")
    if manifest.mlflow_schema and manifest.mlflow_schema not in known_revisions():
        raise RefusedError(
            f"{made} with MLflow's schema {manifest.mlflow_schema}, which the MLflow here does not know; "
            "restore it with the newer version of the appliance"
        )
    return manifest


def _compare(sums: str, directory: Path, refused: set[str]) -> None:
    """Compare every file with its checksum, but those that were not unpacked."""
    lines = [line.partition("  ") for line in sums.splitlines()]
    listed = {name: digest for digest, _, name in lines if name not in refused}
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


def _source(state: Path, argument: str, storage: ObjectStorage | None) -> AbstractContextManager[IO[bytes]]:
    if argument == "-":
        return sys.stdin.buffer
    if argument.startswith(SCHEME):
        folder, name = ObjectStorage.holding(argument)
        return folder.open(name)
    if argument:
        return Path(argument).expanduser().absolute().open("rb")
    found = sorted(file.as_posix() for file in Layout(state).backups.glob("*.tar.gz"))
    if storage:
        found += [storage.address(f"{BACKUPS}/{name}") for name in storage.names(BACKUPS)]
    raise RefusedError(f"which one? make restore FILE=..., with one of {', '.join(found) or 'your own'}")


def put_back(argument: str) -> int:
    """Restore one backup, from stdin for ``-``, and return the exit code 0."""
    trust = "--trust" in sys.argv[2:]
    settings = load_settings()
    state, file = settings.state_dir, key_file(settings)
    started = time.monotonic()
    storage = ObjectStorage.of(settings)
    with _source(state, argument, storage) as source:
        check_writable(state)
        if any(state.iterdir()) and not Layout(state).is_state():
            raise RefusedError(f"STATE_DIR={state} holds files and is no state of the appliance: name an empty one")
        url = settings.database_url.get_secret_value()
        with _hold(state), retraining_lock(Layout(state), "a restore", database_url=url):
            key = SigningKey.load(settings) if file.exists() else SigningKey.new()
            try:
                manifest, former = restore(state, source, key, trust=trust)
            except ForeignError as problem:
                raise RefusedError(f"{argument} cannot be used: {problem}") from None
            if not file.exists():
                key.keep(file)
    sys.stdout.write(
        f"{state} is as of {manifest.created_at}: {served(manifest.model_version)}, "
        f"{manifest.predictions:,} predictions; in {time.monotonic() - started:.1f} s\n"
    )
    if url:
        sys.stdout.write("the database of DATABASE_URL is as it was: bring its own backup back with pg_restore\n")
    if storage:
        sys.stdout.write(f"what is in {storage.uri} is as it was: models, data and labels\n")
    if former is not None:
        sys.stdout.write(f"what was there before lies in {former}: remove it when nobody needs it\n")
    return 0


if __name__ == "__main__":
    sys.exit(reported(put_back, "nothing restored"))
