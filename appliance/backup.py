"""The whole state in one file, made while the appliance runs: ``make backup``; `appliance.restore` reads it.

The file is a gzip-compressed tar: ``manifest.json`` first, the files under ``state/``, then ``SHA256SUMS`` and its
signature by the key of the appliance. Its beginning shows a foreign file, its end a broken one. What makes it
consistent under load:

- No retraining and no rollback runs meanwhile: their lock is held, and a backup is refused while one of them does.
- SQLite databases are copied with SQLite's own backup, each as of one moment. That of MLflow comes before the files
  it names: what is logged meanwhile may leave a file that no row names, never a row without its file. A prediction
  that was answered is committed, so every one answered before the backup began is in it.
- The service's local copy of the model is read under the lock that the service holds to replace it.
- Prometheus' newest two to three hours lie in a log that only Prometheus can copy; of a running one the finished
  blocks are kept, of a stopped one everything.

Left out: keys and passwords (``secrets``), what only a running appliance needs (``run``), DVC's temporary files,
``backups``, and what a restore has replaced. With ARTIFACTS_URI the workspace too: object storage has all that counts
of it. It is gzip because everybody can open that: level 1 makes 28 MB of 92 MB in 1.0 s, level 6 26 MB in 2.0 s.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from appliance.prepare import ROOT, RefusedError, revision
from appliance.status import is_running
from pipeline.git_commit import source_commit
from tableloop.object_storage import BACKUPS, SCHEME, ObjectStorage, StorageError
from tableloop.settings import load_settings
from tableloop.signing import SignatureError, SigningKey
from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import REPLACED, Layout
from tableloop.state.local_copy import local_copy
from tableloop.state.locks import BUSY, BusyError, champion_lock, retraining_lock

PRODUCT, FORMAT = "tableloop", 1
MANIFEST, CHECKSUMS, SIGNATURE, CONTENT = "manifest.json", "SHA256SUMS", "SHA256SUMS.sig", "state"
_NAMES = Layout(Path())  # as they are called in the archive
LEFT_OUT = {
    _NAMES.secrets,
    _NAMES.marker,
    _NAMES.run,
    _NAMES.backups,
    _NAMES.workspace / ".dvc/tmp",
    _NAMES.workspace / ".dvc/site",
}
SQLITE_MAGIC = b"SQLite format 3\0"
SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
LOCK_SECONDS = 30.0
SPARE_BYTES = 100_000_000  # left to the service, which cannot answer when it cannot write
COMPRESSION = 1


@dataclass(frozen=True)
class Backup:
    """What was written."""

    files: int
    model_version: str | None
    predictions: int
    whole_prometheus: bool


def write_backup(state: Path, output: IO[bytes], key: SigningKey, *, shared: bool = False) -> Backup:
    """Write the state to a binary stream; the caller holds the lock of retrainings.

    With ``shared`` object storage has what the workspace holds, and a backup need not.

    Raises
    ------
    OSError, sqlite3.Error
        Something cannot be read or written; what has been written so far is of no use.
    """
    layout, names = Layout(state), _saved(state, shared=shared)
    running = in_use(state)
    layout.run.mkdir(exist_ok=True)  # which a start empties: nothing stays of a backup that was killed
    with (
        tempfile.TemporaryDirectory(prefix="backup-", dir=layout.run) as copies,
        gzip.GzipFile("", "wb", COMPRESSION, output, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        databases = _copy_databases(state, names, Path(copies))
        manifest = _manifest(state, names, databases)
        archive = _Archive(tar, state)
        described = json.dumps(manifest, indent=2) + "\n"
        archive.add_text(MANIFEST, described)
        for name, copy in (databases | _copy_consoles(layout, Path(copies))).items():
            archive.add(name, copy)
        if layout.champion.exists():
            with champion_lock(layout.champion, change=False):
                archive.add_all(_NAMES.champion)
        blocks = [meta.parent.relative_to(state) for meta in sorted(layout.prometheus.glob("*/meta.json"))]
        for name in names:
            if name != _NAMES.champion:
                archive.add_all(*(blocks if running and name == _NAMES.prometheus else [name]))
        sums = "".join(f"{line}\n" for line in archive.sums)
        archive.add_text(CHECKSUMS, sums)
        archive.add_text(SIGNATURE, key.signature(signed(described, sums)))
    return Backup(len(archive.sums), manifest["model_version"], manifest["predictions"], whole_prometheus=not running)


def signed(manifest: str, sums: str) -> bytes:
    """Return what the signature of a backup is of."""
    return f"tableloop backup\0{manifest}\0{sums}".encode()


def in_use(state: Path) -> bool:
    """Return whether an appliance works with this state, be it as services of their own that hold no common lock."""
    layout = Layout(state)
    return is_running(state) or _is_open(layout.mlflow_database) or _is_open(layout.database)


class _Archive:
    """A tar stream of what is in the state; it keeps the lines that ``sha256sum --check`` reads."""

    def __init__(self, tar: tarfile.TarFile, state: Path) -> None:
        self.sums: list[str] = []
        self._tar = tar
        self._state = state
        self._left_out: set[Path] = set()

    def add(self, name: Path, copy: Path | None = None) -> None:
        """Add the directory or the file of this name, a database by its copy; nothing when it is gone."""
        path = self._state / name
        info = tarfile.TarInfo(f"{CONTENT}/{name.as_posix()}")
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            info.mode, info.mtime = status.st_mode & 0o777, int(status.st_mtime)
            if path.is_dir():
                info.type = tarfile.DIRTYPE
                self._tar.addfile(info)
                return
            with _HashedFile(copy or path) as source:
                info.size = os.fstat(source.fileno()).st_size
                self._tar.addfile(info, source)
            self.sums.append(f"{source.sum.hexdigest()}  {info.name}")
            if copy:
                self._left_out |= {name.with_name(name.name + ending) for ending in ("", *SQLITE_COMPANIONS)}

    def add_all(self, *names: Path) -> None:
        """Add what lies under these names, less what was added by its copy."""
        for name in _content(self._state, *names):
            if name not in self._left_out:
                self.add(name)

    def add_text(self, name: str, text: str) -> None:
        """Add a file of the archive's own."""
        info = tarfile.TarInfo(name)
        content = text.encode()
        info.size, info.mtime = len(content), int(time.time())
        self._tar.addfile(info, io.BytesIO(content))


class _HashedFile(io.FileIO):
    """A file that computes the checksum of what is read of it."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.sum = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.sum.update(content)
        return content


def entries(state: Path) -> list[Path]:
    """Return the names that a backup may save and a restore replaces."""
    names = [Path(entry.name) for entry in Layout(state).own() if not entry.name.startswith(REPLACED)]
    return [name for name in names if name not in LEFT_OUT]


def _saved(state: Path, *, shared: bool) -> list[Path]:
    """Return the names that this backup saves."""
    return [name for name in entries(state) if not (shared and name == _NAMES.workspace)]


def _content(state: Path, *names: Path) -> Iterator[Path]:
    """Yield the names of directories, files in them, and no socket; a block of Prometheus ends with meta.json.

    One that Prometheus deletes meanwhile has no such file then, and counts as none.
    """
    for name in names:
        path = state / name
        if name in LEFT_OUT or name.name.startswith(".incoming"):  # a download of the service that is under way
            continue
        if path.is_dir():
            yield name
            children = sorted(path.iterdir(), key=lambda child: (child.name == "meta.json", child))
            yield from _content(state, *(name / child.name for child in children))
        elif path.is_file():
            yield name


def _copy_databases(state: Path, names: list[Path], copies: Path) -> dict[Path, Path]:
    """Return a copy, as of one moment, of each SQLite database by its name in the state, MLflow's first."""
    found = [name for name in _content(state, *names) if name.suffix == ".db" and _is_sqlite(state / name)]
    databases = {}
    for number, name in enumerate(sorted(found, key=lambda name: (name != _NAMES.mlflow_database, name))):
        copy = copies / f"{number}.db"
        with (
            closing(sqlite3.connect(state / name, timeout=LOCK_SECONDS)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        databases[name] = copy
    return databases


def _copy_consoles(layout: Layout, copies: Path) -> dict[Path, Path]:
    """Return a copy of each file of the console, by its name in the state: the watchdog empties a long one."""
    consoles = [file for file in (layout.console, layout.former_console) if file.exists()]
    return {file.relative_to(layout.root): shutil.copyfile(file, copies / file.name) for file in consoles}


def _is_sqlite(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC


def _is_open(database: Path) -> bool:
    """Return whether somebody has a database in WAL mode open: every connection holds a shared lock on the file."""
    if not database.exists():
        return False
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        except sqlite3.DatabaseError:
            return False  # no database
    return False


def _manifest(state: Path, names: list[Path], databases: Mapping[Path, Path]) -> dict[str, Any]:
    """Return what is known of the state, from the copies of its databases."""
    version = None
    with contextlib.suppress(ValueError):  # a broken note is saved as it is
        if copy := local_copy(Layout(state)):
            version = copy.version
    mlflow, store = databases.get(_NAMES.mlflow_database), databases.get(_NAMES.database)
    return {
        "product": PRODUCT,
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(ROOT),
        "mlflow_schema": revision(mlflow) if mlflow else None,
        "model_version": version,
        "predictions": Store(store).count_predictions() if store else 0,
        "state_dir": str(state),
        "bytes": sum(_size(state / name) for name in _content(state, *names)),
    }


def _check_room(state: Path, names: list[Path], directory: Path | None) -> None:
    """Refuse when the copies of the databases, or what may become of the archive, do not fit."""
    sizes = [(name.suffix, _size(state / name)) for name in _content(state, *names)]
    needed = {state: SPARE_BYTES + sum(size for suffix, size in sizes if suffix == ".db")}
    if directory is not None:
        together = directory.stat().st_dev == state.stat().st_dev
        needed[directory] = sum(size for _, size in sizes) + (needed[state] if together else 0)
    for place, size in needed.items():
        free = shutil.disk_usage(place).free
        if free < size:
            raise RefusedError(
                f"{place}: {free / 1e9:.2f} GB free, up to {size / 1e9:.2f} GB needed; make room or name another FILE"
            )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _target(state: Path, argument: str) -> Path:
    """Return the absolute path to write to, which lies where the next backup does not take it for the state."""
    backups = Layout(state).backups
    file = Path(argument).expanduser().absolute()
    if file.exists():
        raise RefusedError(f"{file} exists already: remove it or name another FILE")
    real = file.resolve()
    if real.is_relative_to(state.resolve()) and not real.is_relative_to(backups.resolve()):
        raise RefusedError(f"{file} lies in the state itself: name a FILE in {backups} or elsewhere")
    return file


def _write_file(state: Path, file: Path, key: SigningKey, *, shared: bool) -> Backup:
    """Write the backup beside its name, and give it the name when it is whole and on the disk."""
    if file.parent == Layout(state).backups:
        file.parent.mkdir(exist_ok=True)
    _check_room(state, _saved(state, shared=shared), file.parent)
    partial = file.with_name(f"{file.name}.partial")
    try:
        # Its owner's alone: what was asked and answered is in it.
        with open(partial, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            backup = write_backup(state, output, key, shared=shared)
            output.flush()
            os.fsync(output.fileno())
        partial.rename(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return backup


def _upload(state: Path, address: str, key: SigningKey, *, shared: bool) -> tuple[Backup, int]:
    """Write the backup and send it to object storage; return it with its size in bytes."""
    folder, name = ObjectStorage.holding(address)
    folder.check()
    if folder.exists(name):
        raise RefusedError(f"{address} exists already: remove it or name another FILE")
    run = Layout(state).run
    run.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="backup-", dir=run) as directory:
        file = Path(directory) / name
        backup = _write_file(state, file, key, shared=shared)
        folder.upload(file, name)
        return backup, file.stat().st_size


def served(version: str | None) -> str:
    """Return which version serves, in words."""
    return f"version {version}" if version else "no model"


def _tell(backup: Backup, where: str, seconds: float) -> str:
    what = f"{served(backup.model_version)}, {backup.predictions:,} predictions, {backup.files:,} files"
    text = f"{where}: {what}, in {seconds:.1f} s\n"
    if not backup.whole_prometheus:
        text += "of the metrics only Prometheus' finished blocks are in it, not the last two to three hours\n"
    return text


def reported(command: Callable[[str], int], undone: str) -> int:
    """Return the exit code of a command with the argument of this process, whose failure is one line: 0, 1, 130.

    ``undone`` begins the line.
    """
    argument = sys.argv[1] if len(sys.argv) > 1 else ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return command(argument)
    except StorageError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or argument or load_settings().state_dir}: {error.strerror or error}"
    except (RefusedError, BusyError, SignatureError, StoreError, sqlite3.Error) as error:
        problem = str(error)
    except KeyboardInterrupt:
        return 130
    sys.stderr.write(f"{undone}: {problem}\n")
    return 1


def backup(argument: str) -> int:
    """Write one backup, to stdout for ``-``, and return the exit code: 0 done, 3 a retraining runs."""
    settings = load_settings()
    state, key, storage = settings.state_dir, SigningKey.load(settings), ObjectStorage.of(settings)
    started, shared = time.monotonic(), storage is not None
    if not state.is_dir() or not entries(state):
        raise RefusedError(f"STATE_DIR={state} holds nothing yet")
    if not argument:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz"
        argument = storage.address(f"{BACKUPS}/{name}") if storage else str(Layout(state).backups / name)
    try:
        with retraining_lock(Layout(state), "a backup", database_url=settings.database_url.get_secret_value()):
            if argument == "-":
                _check_room(state, _saved(state, shared=shared), None)
                written = write_backup(state, sys.stdout.buffer, key, shared=shared)
                where, told = "written to stdout", sys.stderr
                sys.stdout.buffer.flush()
            elif argument.startswith(SCHEME):
                written, size = _upload(state, argument, key, shared=shared)
                where, told = f"{argument} ({size / 1e6:.1f} MB)", sys.stdout
            else:
                file = _target(state, argument)
                written = _write_file(state, file, key, shared=shared)
                where, told = f"{file} ({file.stat().st_size / 1e6:.1f} MB)", sys.stdout
    except BusyError as busy:
        sys.stderr.write(f"no backup now: {busy}; try again when it has ended\n")
        return BUSY
    told.write(_tell(written, where, time.monotonic() - started))
    if settings.database_url.get_secret_value():
        told.write("the database of DATABASE_URL is not in it: save that with pg_dump, now\n")
    if storage:
        told.write(f"what is in {storage.uri} is not in it: models, data and labels\n")
    return 0


if __name__ == "__main__":
    sys.exit(reported(backup, "no backup was written"))
