"""Where files to score come from and go to: a directory, or a folder of object storage; both in the same words.

What is written appears under its name when it is whole. A place can be sent to another process or machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, Protocol

import pyarrow as pa
from pyarrow import parquet

from tableloop.object_storage import ObjectStorage

FOOTER_BYTES: Final = 1 << 16  # that are read first of the end of a Parquet file
LOCK: Final = ".scoring"  # in a directory that is written to: held by the one run that writes there, with its token


class Content(NamedTuple):
    """What a file held when it was looked at; ``stamp`` differs as soon as somebody has written to it since."""

    digest: str
    size: int
    stamp: object


class Place(Protocol):
    """A folder; names are relative to it, with slashes."""

    def address(self, name: str) -> str:
        """Return how a file is named to people."""

    def names(self) -> list[str]:
        """Return the names of all files below it, but of hidden ones: a part of theirs begins with . or _."""

    def content(self, name: str) -> Content:
        """Return what a file holds.

        Raises
        ------
        OSError
            It is not there, or cannot be read.
        """

    def stamp(self, name: str) -> object:
        """Return the stamp of what a file holds now; errors as of `content`."""

    def footer(self, name: str) -> dict[str, str]:
        """Return what the footer of a Parquet file says beside its columns; nothing where there is no such file."""

    def reading(self, name: str) -> Any:
        """Return a context with a file of this machine that has the content of another."""

    def writing(self, name: str) -> Any:
        """Return a context with a new file of this machine, which takes its place when the context is left well."""


def place_of(address: str) -> Place:
    """Return the folder at an address: ``s3://bucket/folder``, or a path."""
    if address.startswith("s3://"):
        return Storage(address.rstrip("/"))
    return Directory(Path(address).absolute())


def split(address: str) -> tuple[Place, str]:
    """Return the folder of a file, and its name there."""
    if address.startswith("s3://"):
        folder, _, name = address.rpartition("/")
        return place_of(folder), name
    path = Path(address).absolute()
    return Directory(path.parent), path.name


@dataclass(frozen=True)
class Directory:
    """A directory of a disk; ``token`` is what the run that writes to it has left there."""

    path: Path
    token: str = ""

    def address(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.path / name)

    def names(self) -> list[str]:
        """Return the names of all files below it."""
        found = (file.relative_to(self.path) for file in self.path.rglob("*") if file.is_file())
        return sorted(name.as_posix() for name in found if not _is_hidden(name.as_posix()))

    def content(self, name: str) -> Content:
        """Return what a file holds, by its sha256."""
        stamp = self.stamp(name)
        with (self.path / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Content(f"sha256:{digest}", os.fstat(file.fileno()).st_size, stamp)

    def stamp(self, name: str) -> object:
        """Return when and where a file was written."""
        try:
            found = (self.path / name).stat()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path / name}: there is no such file {_where()}") from None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def footer(self, name: str) -> dict[str, str]:
        """Return what the footer of a Parquet file says."""
        try:
            with (self.path / name).open("rb") as file:
                return _footer(file)
        except FileNotFoundError:
            return {}

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Yield the file itself."""
        yield self.path / name

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a file beside the one that it will be."""
        self._check_token()
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            yield partial
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def claimed(self) -> Iterator[Directory]:
        """Yield this directory, made if need be, to one run at a time; what a killed one has left half is removed.

        Raises
        ------
        OSError
            Another run writes to it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / LOCK).open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f"another scoring writes to {self.path}: wait for its end") from None
            if not os.fstat(lock.fileno()).st_nlink:  # removed since it was opened
                raise OSError(f"another scoring to {self.path} has ended just now: start this one again")
            for left in self.path.rglob(".*.partial"):
                left.unlink(missing_ok=True)
            claimed = replace(self, token=secrets.token_hex(16))
            lock.truncate(0)
            lock.write(claimed.token)
            lock.flush()
            try:
                yield claimed
            finally:
                (self.path / LOCK).unlink(missing_ok=True)

    def _check_token(self) -> None:
        """Return when this process sees the very directory that was claimed, perhaps on another machine."""
        if not self.token:
            return
        try:
            found = (self.path / LOCK).read_text()
        except OSError:
            found = ""
        if found != self.token:
            raise OSError(
                f"{self.path} is not the same directory {_where()} as where the scoring was started, or that has "
                "ended: with workers on other machines name an s3:// folder, or a path that all of them share"
            )


@dataclass(frozen=True)
class Storage:
    """A folder of object storage; files are copied to this machine's disk and back."""

    uri: str

    def address(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.uri}/{name}"

    def names(self) -> list[str]:
        """Return the names of all files below it."""
        return [name for name in sorted(self._storage.contents()) if not _is_hidden(name)]

    def content(self, name: str) -> Content:
        """Return what a file holds, by its ETag."""
        size, tag = self._storage.stored(name)
        return Content(f"etag:{tag}", size, tag)

    def stamp(self, name: str) -> object:
        """Return the ETag of a file."""
        return self._storage.stored(name).tag

    def footer(self, name: str) -> dict[str, str]:
        """Return what the footer of a Parquet file says; the rest of the file is not read."""
        try:
            end = self._storage.tail(name, FOOTER_BYTES)
            size = int.from_bytes(end[-8:-4], "little") + 8  # it stands before the last four bytes, which are PAR1
            if end.endswith(b"PAR1") and size > len(end):
                end = self._storage.tail(name, size)
        except FileNotFoundError:
            return {}
        return _footer(pa.BufferReader(end))

    @contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """Yield a copy."""
        with tempfile.TemporaryDirectory(prefix="scoring-") as directory:
            copy = Path(directory) / "file"
            self._storage.download(name, copy)
            yield copy

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a file that is uploaded at the end: by one request, or by some of which the last makes it appear."""
        with tempfile.TemporaryDirectory(prefix="scoring-") as directory:
            new = Path(directory) / "file"
            yield new
            self._storage.upload(new, name)

    @property
    def _storage(self) -> ObjectStorage:
        return _connected(self.uri, os.getpid())


@cache
def _connected(uri: str, _process: int) -> ObjectStorage:
    """Return the storage at an address; a forked process must not go on with the connections of its parent."""
    return ObjectStorage(uri)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _where() -> str:
    return f"on {socket.gethostname()}"


def _footer(file: Any) -> dict[str, str]:
    try:
        found = parquet.read_metadata(file)
    except (pa.ArrowException, OSError):
        return {}  # no Parquet file
    return {
        key.decode(): value.decode(errors="replace")
        for key, value in ({} if found.metadata is None else found.metadata).items()
    } | {"num_rows": str(found.num_rows)}
