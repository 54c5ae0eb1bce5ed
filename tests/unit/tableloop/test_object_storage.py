"""Files in a real object storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tableloop.object_storage import ObjectStorage, StorageError
from tests.s3 import S3Server


def test_a_file_comes_back_as_it_was(bucket: str, tmp_path: Path) -> None:
    storage, file = ObjectStorage(bucket), tmp_path / "a"
    file.write_bytes(b"what was written" * 1000)
    assert storage.names("folder") == []
    assert not storage.exists("folder/a")
    storage.upload(file, "folder/a")
    storage.upload(file, "folder/below/b")
    assert storage.exists("folder/a")
    assert storage.names("folder") == ["a", "below"]
    storage.download("folder/a", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == file.read_bytes()


def test_a_file_that_is_not_there_leaves_nothing(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ObjectStorage(bucket).download("none", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_storage_that_does_not_answer_is_named(
    new_s3: Callable[[], S3Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = new_s3()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    storage = ObjectStorage(server.new_bucket())
    server.kill()
    with pytest.raises(StorageError, match=r"s3://bucket1/state/labels: .*see that the storage runs"):
        storage.names("labels")
