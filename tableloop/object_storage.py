"""Files in object storage (S3), for everything that must outlive the disk of one machine.

boto3 does the work, and is only imported where there is such an address. Login, region and endpoint are the variables
that every client of S3 reads: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from tableloop.settings import without_login

if TYPE_CHECKING:
    from tableloop.settings import RegistrySettings

# What lies in the folder.
MLFLOW: Final = "mlflow"  # the files of runs and versions
DVC: Final = "dvc"  # the data of every training
LABELS: Final = "labels"  # the batches of labels
WORKSPACE: Final = "workspace"  # what the next training goes on from
BACKUPS: Final = "backups"

SCHEME: Final = "s3://"
CONNECT_SECONDS: Final = 3  # until storage that is not there is given up
READ_SECONDS: Final = 20  # of silence in the middle of an answer
ATTEMPTS: Final = 2
CHECK_SECONDS: Final = 4  # of silence, before anything has begun

_NETWORK: Final = "see that the storage runs, and that AWS_ENDPOINT_URL or AWS_REGION names it"
_LOGIN: Final = "see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do there"
_BUCKET: Final = "make the bucket, or name another"
_REGION: Final = "the bucket is in another region: see AWS_REGION"
_REMEDIES: Final = {  # by the code that storage answers with; without one it is that of HTTP
    "NoSuchBucket": _BUCKET,
    "404": _BUCKET,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
}


class StorageError(OSError):
    """Object storage cannot be read or written; the message names the address and the remedy."""


class Stored(NamedTuple):
    """A file as the server knows it; ``tag`` is the md5 of its content, or something else of the server's own."""

    size: int
    tag: str


@dataclass(frozen=True)
class ObjectStorage:
    """The folder ``uri``, ``s3://bucket/folder``; names of files are relative to it.

    Every method raises `StorageError`.
    """

    uri: str

    @classmethod
    def of(cls, settings: RegistrySettings) -> ObjectStorage | None:
        """Return the folder of the settings, None where all files are in STATE_DIR."""
        return cls(settings.artifacts_uri) if settings.artifacts_uri else None

    @classmethod
    def holding(cls, address: str) -> tuple[ObjectStorage, str]:
        """Return the folder of a file, ``s3://bucket/folder/file``, and the file's name in it."""
        folder, _, name = address.rpartition("/")
        if not name or not re.fullmatch(r"s3://[^/]+(/.*)?", folder):
            raise StorageError(f"{address}: an address such as s3://bucket/folder/file is needed")
        return cls(folder), name

    def address(self, name: str) -> str:
        """Return the address of a file or folder."""
        return f"{self.uri}/{name}"

    def check(self) -> None:
        """Raise within seconds when the storage does not answer, or does not let us read."""
        with self._errors(""):
            self._client(CHECK_SECONDS, 1).list_objects_v2(Bucket=self._bucket, Prefix=self._key(""), MaxKeys=1)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, without those below it; none where there is no folder."""
        prefix = f"{self._key(folder)}/"
        with self._errors(folder):
            pages = self._files.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, Delimiter="/"
            )
            found = [entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", ())]
        return sorted(name for name in found if name)

    def contents(self) -> dict[str, Stored]:
        """Return every file of the folder and below it, by its name."""
        prefix = self._key("")
        with self._errors(""):
            pages = self._files.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            return {
                entry["Key"].removeprefix(prefix): Stored(entry["Size"], entry["ETag"].strip('"'))
                for page in pages
                for entry in page.get("Contents", ())
                if not entry["Key"].endswith("/")
            }

    def stored(self, name: str) -> Stored:
        """Return what the server knows of a file; where it has no tag, that is the time at which it was written.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        with self._errors(name):
            found = self._files.head_object(Bucket=self._bucket, Key=self._key(name))
        return Stored(found["ContentLength"], found["ETag"].strip('"') or found["LastModified"].isoformat())

    def tail(self, name: str, size: int) -> bytes:
        """Return the last bytes of a file, all of a shorter one; errors as of `stored`."""
        with self._errors(name):
            answer = self._files.get_object(Bucket=self._bucket, Key=self._key(name), Range=f"bytes=-{size}")
            return bytes(answer["Body"].read())

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        try:
            with self._errors(name):
                self._files.head_object(Bucket=self._bucket, Key=self._key(name))
        except FileNotFoundError:
            return False
        return True

    def upload(self, source: Path, name: str) -> None:
        """Write a file: it is there whole or not at all."""
        with self._errors(name), source.open("rb") as content:
            self._files.upload_fileobj(content, self._bucket, self._key(name))

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
            with self._errors(name), partial.open("wb") as content:
                self._files.download_fileobj(self._bucket, self._key(name), content)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file as a stream to be read once, from its beginning.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        """
        with self._errors(name):
            body = self._files.get_object(Bucket=self._bucket, Key=self._key(name))["Body"]
            try:
                yield body
            finally:
                body.close()

    @property
    def _bucket(self) -> str:
        return self.uri.removeprefix(SCHEME).partition("/")[0]

    def _key(self, name: str) -> str:
        folder = self.uri.removeprefix(SCHEME).partition("/")[2]
        return f"{folder}/{name}" if folder else name

    @cached_property
    def _files(self) -> Any:
        return self._client(READ_SECONDS, ATTEMPTS)

    def _client(self, read_seconds: int, attempts: int) -> Any:
        import boto3  # noqa: PLC0415 - the default start has no use for it
        from botocore.config import Config  # noqa: PLC0415 - as above

        config = Config(
            region_name=os.environ.get("AWS_REGION"),  # which boto3 itself reads under another name only
            connect_timeout=CONNECT_SECONDS,
            read_timeout=read_seconds,
            retries={"total_max_attempts": attempts, "mode": "standard"},
        )
        try:
            return boto3.session.Session().client("s3", config=config)
        except ValueError as error:  # an endpoint that is no address
            raise StorageError(f"{self.uri}: {_told(error)}; {_NETWORK}") from None

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turn what goes wrong with storage into a `StorageError`, or a FileNotFoundError; no secret is in either."""
        address = self.address(name).rstrip("/")
        try:
            from boto3.exceptions import Boto3Error  # noqa: PLC0415 - the default start has no use for it
            from botocore import exceptions as problems  # noqa: PLC0415 - as above
        except ImportError as error:
            raise StorageError(f"{address}: this needs the packages of .[cluster] ({error})") from None
        try:
            yield
        except problems.ClientError as error:
            code, status = str(error.response["Error"]["Code"]), error.response["ResponseMetadata"]["HTTPStatusCode"]
            if code == "NoSuchKey" or (code == "404" and name):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address) from None
            told = f"{code} {error.response['Error'].get('Message', '')}".strip().rstrip(".")
            remedy = _REMEDIES.get(code, _LOGIN if status < 500 else _NETWORK)
            raise StorageError(f"{address}: {told}; {remedy}") from None
        except (problems.NoCredentialsError, problems.PartialCredentialsError) as error:
            raise StorageError(f"{address}: {_told(error)}; {_LOGIN}") from None
        except (problems.BotoCoreError, Boto3Error) as error:
            raise StorageError(f"{address}: {_told(error)}; {_NETWORK}") from None


def _told(error: Exception) -> str:
    """Return what boto3 says, without the login and the long query that an address may have."""
    return re.sub(r"""\?[^\s"']*""", "", without_login(" ".join(str(error).split())))
