"""Move the files that outlive a machine from STATE_DIR into object storage: what is there already is not sent again.

A file is the same when the server's tag is the md5 of the local one. Of a file whose tag is something else, as of one
that was sent in parts, the content is fetched and compared.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.workspace import CACHE
from tableloop.object_storage import DVC, LABELS, MLFLOW, WORKSPACE, ObjectStorage, StorageError, Stored
from tableloop.state.label_batches import FEEDBACK, batch_files, revocation_files
from tableloop.state.layout import Layout

MARK: Final = "migrated-from"  # the file that says which appliance is being moved
AT_ONCE: Final = 8  # files on their way
_OF_DVC: Final = ("files", "runs")  # in its cache as in its remote: data by their md5, and what each run had made
_UNFINISHED: Final = (".tmp", ".part", ".partial")


class FilesMoved(NamedTuple):
    """How many files there are, how many of them were sent now, and their bytes."""

    files: int
    sent: int
    bytes: int


def begin(storage: ObjectStorage, source: str) -> None:
    """Note that the folder is that of the appliance with the identity ``source``.

    Raises
    ------
    StorageError
        It holds something else, or cannot be used.
    """
    with tempfile.TemporaryDirectory() as directory:
        mark = Path(directory) / MARK
        try:
            storage.download(MARK, mark)
        except FileNotFoundError:
            if storage.contents():
                raise StorageError(
                    f"{storage.uri} holds files already: name an empty folder, or remove what is in it"
                ) from None
            mark.write_text(f"{source}\n")
            storage.upload(mark, MARK)
            return
        if (found := mark.read_text().strip()) != source:
            raise StorageError(
                f"{storage.uri} holds the files of another appliance, that with the signing key {found}: name an "
                "empty folder, or remove what is in it"
            )


def send(storage: ObjectStorage, layout: Layout) -> FilesMoved:
    """Send the files that the folder lacks, or has otherwise.

    Raises
    ------
    StorageError, OSError
    """
    there = storage.contents()
    files = dict(_files(layout))

    def send_one(name: str) -> int | None:
        """Return the bytes that were sent, None when there was nothing to send."""
        file = files[name]
        try:
            if _is_the_same(storage, name, file, there.get(name)):
                return None
            storage.upload(file, name)
            return file.stat().st_size
        except FileNotFoundError:  # removed meanwhile
            return None

    with ThreadPoolExecutor(AT_ONCE) as threads:
        sent = [size for size in threads.map(send_one, files) if size is not None]
    return FilesMoved(len(files), len(sent), sum(sent))


def differences(storage: ObjectStorage, layout: Layout) -> list[str]:
    """Return the names of the files that the folder lacks, or has with other content.

    Raises
    ------
    StorageError, OSError
    """
    there = storage.contents()
    files = dict(_files(layout))

    def differs(name: str) -> bool:
        return not _is_the_same(storage, name, files[name], there.get(name))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return [name for name, different in zip(files, threads.map(differs, files), strict=True) if different]


def _files(layout: Layout) -> Iterator[tuple[str, Path]]:
    """Yield each file with its name in the folder."""
    yield from _below(layout.mlflow_artifacts, MLFLOW)
    for part in _OF_DVC:
        yield from _below(layout.workspace / CACHE / part, f"{DVC}/{part}")
    feedback = layout.workspace / FEEDBACK
    for file in (*batch_files(feedback), *revocation_files(feedback)):
        yield f"{LABELS}/{file.name}", file
    lock = layout.workspace / "dvc.lock"
    if lock.exists():
        yield f"{WORKSPACE}/{lock.name}", lock


def _below(directory: Path, folder: str) -> Iterator[tuple[str, Path]]:
    for file in sorted(directory.rglob("*")):
        if file.is_file() and not file.name.endswith(_UNFINISHED):
            yield f"{folder}/{file.relative_to(directory).as_posix()}", file


def _is_the_same(storage: ObjectStorage, name: str, file: Path, stored: Stored | None) -> bool:
    if stored is None or stored.size != file.stat().st_size:
        return False
    if stored.tag == (md5 := _md5(file)):
        return True
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "copy"
        storage.download(name, copy)
        return _md5(copy) == md5


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
