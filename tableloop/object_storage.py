"""Files in object storage (S3), for everything that must outlive the disk of one machine.

fsspec does the work; s3fs, which it takes for ``s3://``, is only imported where there is such an address. Login,
region and endpoint are the variables that every client of S3 reads: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_REGION``, ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tableloop.settings import RegistrySettings

# What lies in the folder.
MLFLOW: Final = "mlflow"  # the files of runs and versions
DVC: Final = "dvc"  # the data of every training
LABELS: Final = "labels"  # the batches of labels
WORKSPACE: Final = "workspace"  # what the next training goes on from
BACKUPS: Final = "backups"

# Seconds, and attempts: object storage that does not answer is said to, not waited for.
PATIENCE: Final[dict[str, Any]] = {"connect_timeout": 3, "read_timeout": 30, "retries": {"max_attempts": 2}}


class StorageError(OSError):
    """Object storage cannot be read or written; the message names the address and the remedy."""


@dataclass(frozen=True)
class ObjectStorage:
    """The folder ``uri``, ``s3://bucket/folder``; names of files are relative to it."""

    uri: str

    @classmethod
    def of(cls, settings: RegistrySettings) -> ObjectStorage | None:
        """Return the folder of the settings, None where all files are in STATE_DIR."""
        return cls(settings.artifacts_uri) if settings.artifacts_uri else None

    def address(self, name: str) -> str:
        """Return the address of a file or folder."""
        return f"{self.uri}/{name}"

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, without those below it; none where there is no folder."""
        with self._files(folder) as (files, path):
            try:
                found = files.ls(path, detail=False, refresh=True)
            except FileNotFoundError:
                return []
            return sorted(name for name in (one.rpartition("/")[2] for one in found) if name)

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        with self._files(name) as (files, path):
            files.invalidate_cache()
            return bool(files.isfile(path))

    def upload(self, source: Path, name: str) -> None:
        """Write a file: it is there whole or not at all."""
        with self._files(name) as (files, path):
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            files.put_file(os.fspath(source), path)

    def download(self, name: str, target: Path) -> None:
        """Write a copy of a file to ``target``, whole or not at all.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with self._files(name) as (files, path):
                files.get_file(path, os.fspath(partial))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _files(self, name: str) -> Iterator[tuple[Any, str]]:
        """Return the file system and the path in it; what goes wrong with it becomes a `StorageError`."""
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415 - the default start has no use for it

            # Its address is named, or fsspec would go on with a connection to a former one.
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            yield url_to_fs(self.address(name), endpoint_url=endpoint, config_kwargs=PATIENCE)
        except FileNotFoundError:
            raise
        except ImportError as error:
            raise StorageError(f"ARTIFACTS_URI={self.uri} needs the packages of .[cluster] ({error})") from error
        except Exception as error:
            raise StorageError(
                f"{self.address(name)}: {error or type(error).__name__}; see that the storage runs and that "
                "ARTIFACTS_URI and the variables of AWS are right"
            ) from error
