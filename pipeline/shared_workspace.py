"""What trainings on several machines share in object storage: labels, and the dvc.lock that the next one starts from.

DVC's remote, which holds the data, is the third part: `pipeline.workspace` names it, `pipeline.retrain` pushes.

What is in object storage counts, and comes first: a batch is there before it is in a workspace. So a training that is
killed before that has taken no labels, and one that is killed after it is found by the next, on whatever machine.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from tableloop.object_storage import LABELS, WORKSPACE, ObjectStorage, StorageError
from tableloop.state.label_batches import FEEDBACK, batch_files, batch_number, revocation_files

LOCK: Final = "dvc.lock"


class SharedWorkspace:
    """The workspace at a path, with what it shares in ``storage``; who calls holds the lock of retrainings.

    Every method raises `StorageError`, or another OSError where the workspace cannot be read or written.
    """

    def __init__(self, storage: ObjectStorage, workspace: Path) -> None:
        self._storage = storage
        self._workspace = workspace
        self._feedback = workspace / FEEDBACK

    def check(self) -> None:
        """Raise within seconds when the storage cannot be used."""
        self._storage.check()

    def fetch(self) -> None:
        """Take labels and dvc.lock from storage; labels of a time before this state had any are shared."""
        fetch_labels(self._storage, self._feedback)
        shared = self._storage.names(LABELS)
        for batch in batch_files(self._feedback):
            if batch.name not in shared:
                self.share_batch(batch, batch.name)
        self.share_revocations()
        with suppress(FileNotFoundError):  # the first training of all
            self._storage.download(f"{WORKSPACE}/{LOCK}", self._workspace / LOCK)

    def share_batch(self, file: Path, name: str) -> None:
        """Upload a batch under its name, if it is the first of its number."""
        there = {batch_number(Path(other)): other for other in self._storage.names(LABELS) if _is_batch(other)}
        if other := there.get(batch_number(Path(name))):
            raise StorageError(
                f"{self._storage.address(LABELS)} has {other} already, and {name} has the same number: another "
                f"training was faster, or {self._feedback} is of another state"
            )
        self._storage.upload(file, f"{LABELS}/{name}")

    def share_revocations(self) -> None:
        """Upload the revocations that are not there yet."""
        shared = self._storage.names(LABELS)
        for file in revocation_files(self._feedback):
            if file.name not in shared:
                self._storage.upload(file, f"{LABELS}/{file.name}")

    def share_lock(self) -> None:
        """Upload dvc.lock; the data that it names are in DVC's remote."""
        self._storage.upload(self._workspace / LOCK, f"{WORKSPACE}/{LOCK}")


def fetch_labels(storage: ObjectStorage, directory: Path) -> None:
    """Copy all batches and revocations to a directory.

    Raises
    ------
    StorageError, OSError
        Storage or the directory cannot be read or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Beside the directory, not in it: DVC takes whatever is in there for data.
    partial = directory.with_name(f".{directory.name}.part")
    for name in storage.names(LABELS):
        # A batch never changes. A revocation may be here as a killed training wrote it.
        if not (_is_batch(name) and (directory / name).exists()):
            storage.download(f"{LABELS}/{name}", partial)
            partial.chmod(0o444)
            partial.replace(directory / name)


def _is_batch(name: str) -> bool:
    return name.endswith(".parquet")
