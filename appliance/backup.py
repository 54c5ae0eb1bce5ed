"""The whole state in one file, made while the appliance runs: ``make backup``; `appliance.restore` reads it.

The file is a gzip-compressed tar: ``manifest.json`` first, the files under ``state/``, and ``SHA256SUMS`` last, so
that a foreign file is known by its beginning and a broken one by its end. What makes it consistent under load:

- No retraining and no rollback runs meanwhile: their lock is held, and a backup is refused while one of them does.
- SQLite databases are copied with SQLite's own backup, each as of one moment. That of MLflow comes before the files
  it names: what is logged meanwhile may leave a file that no row names, never a row without its file. A prediction
  that was answered is committed, so every one answered before the backup began is in it.
- The service's local copy of the model is read under the lock under which it is replaced.
- Prometheus' newest two to three hours lie in a log that only Prometheus can copy; of a running one the finished
  blocks are kept, of a stopped one everything.

Left out: what only a running appliance needs (``run``), DVC's temporary files, ``backups``, what a restore has
replaced. gzip, because everybody can open it: level 1 makes 28 MB of 92 MB in 1.0 s, level 6 26 MB in 2.0 s.
"""

from __future__ import annotations

import contextlib
import fcntl
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
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from appliance.prepare import BACKUPS, REPLACED, ROOT, RefusedError, revision
from appliance.status import is_running
from pipeline.git_commit import source_commit
from tableloop.settings import Settings, load_settings
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock

PRODUCT, FORMER_PRODUCT, FORMAT = "tableloop", "house-price-appliance", 1
MANIFEST, CHECKSUMS, CONTENT = "manifest.json", "SHA256SUMS", "state"
LEFT_OUT = {"run", BACKUPS, "workspace/.dvc/tmp", "workspace/.dvc/site"}
MLFLOW, PREDICTIONS = Path("mlflow/mlflow.db"), Path("predictions.db")
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


def write_backup(state: Path, output: IO[bytes]) -> Backup:
    """Write the state to a binary stream; the caller holds the lock of retrainings.

    Raises
    ------
    OSError, sqlite3.Error
        Something cannot be read or written; what was written till then is of no use.
    """
    running = in_use(state)
    (state / "run").mkdir(exist_ok=True)  # which a start empties: nothing stays of a backup that was killed
    with (
        tempfile.TemporaryDirectory(prefix="backup-", dir=state / "run") as copies,
        gzip.GzipFile("", "wb", COMPRESSION, output, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        databases = _copy_databases(state, Path(copies))
        version = _served_version(state)
        predictions = _count(databases.get(PREDICTIONS))
        archive = _Archive(tar)
        archive.add_text(MANIFEST, json.dumps(_manifest(state, databases, version, predictions), indent=2) + "\n")
        for name, copy in databases.items():
            archive.add(copy, name, mode=(state / name).stat().st_mode)
        with _unchanged_champion(state):
            _add_tree(archive, state, Path("champion"), databases)
        for entry in sorted(entries(state)):
            if entry == "prometheus" and running:
                _add_blocks(archive, state)
            elif entry != "champion":
                _add_tree(archive, state, Path(entry), databases)
        archive.add_checksums()
    return Backup(archive.files, version, predictions, whole_prometheus=not running)


def in_use(state: Path) -> bool:
    """Return whether an appliance works with this state, be it as services of their own that hold no common lock."""
    return is_running(state) or any(_is_open(state / database) for database in (MLFLOW, PREDICTIONS))


class _Archive:
    """A tar stream that remembers the checksums of what went into it."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.files = 0
        self._tar = tar
        self._sums: list[str] = []

    def add(self, file: Path, name: Path, mode: int | None = None) -> bool:
        """Add a file as ``state/name``, as long as it is now; return False when it is gone."""
        try:
            source = file.open("rb")
        except FileNotFoundError:
            return False
        with source:
            status = os.fstat(source.fileno())
            info = tarfile.TarInfo(f"{CONTENT}/{name.as_posix()}")
            info.size, info.mtime = status.st_size, int(status.st_mtime)
            info.mode = (status.st_mode if mode is None else mode) & 0o777
            hashing = _Hashing(source)
            self._tar.addfile(info, hashing)
        self._sums.append(f"{hashing.hexdigest()}  {info.name}")
        self.files += 1
        return True

    def add_directory(self, directory: Path, name: Path) -> None:
        """Add a directory without what is in it."""
        info = tarfile.TarInfo(f"{CONTENT}/{name.as_posix()}")
        status = directory.stat()
        info.type, info.mode, info.mtime = tarfile.DIRTYPE, status.st_mode & 0o777, int(status.st_mtime)
        self._tar.addfile(info)

    def add_text(self, name: str, text: str) -> None:
        """Add a file of the archive's own."""
        info = tarfile.TarInfo(name)
        content = text.encode()
        info.size, info.mtime = len(content), int(time.time())
        self._tar.addfile(info, io.BytesIO(content))

    def add_checksums(self) -> None:
        """Add the list that ``sha256sum --check`` reads; whoever finds it has all of the archive."""
        self.add_text(CHECKSUMS, "\n".join([*self._sums, ""]))


class _Hashing:
    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        content = self._source.read(size)
        self._sum.update(content)
        return content

    def hexdigest(self) -> str:
        return self._sum.hexdigest()


def entries(state: Path) -> set[str]:
    """Return the names in the state that are saved and replaced; with a dot begins what is just being made."""
    passing = (".", REPLACED)
    return {
        entry.name for entry in state.iterdir() if entry.name not in LEFT_OUT and not entry.name.startswith(passing)
    }


def _files(state: Path) -> Iterator[Path]:
    for name in entries(state):
        yield from (file for file in [state / name, *(state / name).rglob("*")] if file.is_file())


def _copy_databases(state: Path, copies: Path) -> dict[Path, Path]:
    """Return a copy, as of one moment, of each SQLite database by its name in the state, MLflow's first."""
    found = [
        file.relative_to(state)
        for file in _files(state)
        if file.suffix == ".db" and not _is_left_out(file.relative_to(state)) and _is_sqlite(file)
    ]
    databases = {}
    for number, name in enumerate(sorted(found, key=lambda name: (name != MLFLOW, name))):
        copy = copies / f"{number}.db"
        with (
            closing(sqlite3.connect(state / name, timeout=LOCK_SECONDS)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        databases[name] = copy
    return databases


def _add_tree(archive: _Archive, state: Path, name: Path, databases: dict[Path, Path]) -> None:
    """Add a file, or a directory with all that is in it, but not what was added as a database."""
    path = state / name
    is_companion = any(
        name.name.endswith(ending) and name.with_name(name.name.removesuffix(ending)) in databases
        for ending in SQLITE_COMPANIONS
    )
    if name in databases or is_companion or _is_left_out(name):
        return
    if path.is_dir():
        archive.add_directory(path, name)
        for child in sorted(path.iterdir()):
            if not child.name.startswith(".incoming"):  # a download of the service that is under way
                _add_tree(archive, state, name / child.name, databases)
    elif path.is_file():  # no socket
        archive.add(path, name)


def _add_blocks(archive: _Archive, state: Path) -> None:
    """Add Prometheus' finished blocks; one that it deletes meanwhile stays without meta.json and counts as none."""
    prometheus = Path("prometheus")
    archive.add_directory(state / prometheus, prometheus)
    for meta in sorted((state / prometheus).glob("*/meta.json")):
        files = sorted(file for file in meta.parent.rglob("*") if file.is_file() and file != meta)
        for file in [*files, meta]:
            if not archive.add(file, file.relative_to(state)):
                break


def _is_left_out(name: Path) -> bool:
    return name.as_posix() in LEFT_OUT or any(parent.as_posix() in LEFT_OUT for parent in name.parents)


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
        connection.execute("ROLLBACK")
    return False


@contextlib.contextmanager
def _unchanged_champion(state: Path) -> Iterator[None]:
    """Keep the service from replacing its local copy; see `app.champion`."""
    champion = state / "champion"
    if not champion.exists():
        yield
        return
    descriptor = os.open(champion, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _served_version(state: Path) -> str | None:
    try:
        pointer = json.loads((state / "champion" / "current.json").read_text())
    except (OSError, ValueError):
        return None
    return str(pointer["version"])


def _count(predictions: Path | None) -> int:
    if predictions is None:
        return 0
    with closing(sqlite3.connect(predictions)) as connection:
        return int(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])


def _manifest(state: Path, databases: dict[Path, Path], version: str | None, predictions: int) -> dict[str, Any]:
    return {
        "product": PRODUCT,
        "format": FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": source_commit(ROOT),
        "mlflow_schema": revision(databases[MLFLOW]) if MLFLOW in databases else None,
        "model_version": version,
        "predictions": predictions,
        "state_dir": str(state),
    }


def _check_content(state: Path) -> None:
    if not state.is_dir() or not entries(state):
        raise RefusedError(f"STATE_DIR={state} holds nothing yet")


def _check_room(state: Path, directory: Path | None) -> None:
    """Refuse when the copies of the databases, or what may become of the archive, do not fit.

    Raises
    ------
    RefusedError
    """
    sizes = [(file.suffix, _size(file)) for file in _files(state)]
    needed = {state: SPARE_BYTES + sum(size for suffix, size in sizes if suffix == ".db")}
    if directory is not None:
        whole = sum(size for _, size in sizes)
        together = directory.stat().st_dev == state.stat().st_dev
        needed[directory] = whole + (needed[state] if together else 0)
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


def _target(settings: Settings, argument: str) -> Path:
    """Return the absolute path to write to.

    Raises
    ------
    RefusedError
        It exists, or lies where the next backup would take it for a part of the state.
    """
    state = settings.state_dir
    if not argument:
        return state / BACKUPS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz"
    file = Path(argument).expanduser().absolute()
    if file.exists():
        raise RefusedError(f"{file} exists already: remove it or name another FILE")
    if file.resolve().is_relative_to(state.resolve()) and not file.resolve().is_relative_to(
        state.resolve() / BACKUPS
    ):
        raise RefusedError(f"{file} lies in the state itself: name a FILE in {state / BACKUPS} or elsewhere")
    return file


def _write_file(state: Path, file: Path) -> Backup:
    """Write the backup beside its name, and give it the name when it is whole and on the disk."""
    if file.parent == state / BACKUPS:
        file.parent.mkdir(exist_ok=True)
    _check_room(state, file.parent)
    partial = file.with_name(f"{file.name}.partial")
    try:
        # Its owner's alone: the administrator's password of Grafana is in it.
        with open(partial, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
            backup = write_backup(state, output)
            output.flush()
            os.fsync(output.fileno())
        partial.rename(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return backup


def served(version: str | None) -> str:
    """Return which version serves, in words."""
    return f"version {version}" if version else "no model"


def _tell(backup: Backup, where: str, seconds: float) -> str:
    what = f"{served(backup.model_version)}, {backup.predictions:,} predictions, {backup.files:,} files"
    text = f"{where}: {what}, in {seconds:.1f} s"
    if not backup.whole_prometheus:
        text += "\nof the metrics only Prometheus' finished blocks are in it, not the last two to three hours"
    return text


def main() -> int:
    """Write one backup and return the exit code: 0 done, 1 not, 3 a retraining runs."""
    argument = sys.argv[1] if len(sys.argv) > 1 else ""
    settings = load_settings()
    state = settings.state_dir
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        _check_content(state)
        with retraining_lock(Layout(state), "a backup"):
            if argument == "-":
                _check_room(state, None)
                backup, where = write_backup(state, sys.stdout.buffer), "written to stdout"
                sys.stdout.buffer.flush()
            else:
                file = _target(settings, argument)
                backup = _write_file(state, file)
                where = f"{file} ({file.stat().st_size / 1e6:.1f} MB)"
    except BusyError as busy:
        sys.stderr.write(f"no backup now: {busy}; try again when it has ended\n")
        return BUSY
    except OSError as error:
        sys.stderr.write(f"no backup was written: {error.filename or argument or state}: {error.strerror or error}\n")
        return 1
    except (RefusedError, sqlite3.Error) as problem:
        sys.stderr.write(f"no backup was written: {problem}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    (sys.stderr if argument == "-" else sys.stdout).write(_tell(backup, where, time.monotonic() - started) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
