"""Files in a real object storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tableloop.object_storage import ObjectStorage, StorageError
from tests.s3 import SECRET_KEY, S3Server


def test_a_file_comes_back_as_it_was(bucket: str, tmp_path: Path) -> None:
    storage, file = ObjectStorage(bucket), tmp_path / "a"
    file.write_bytes(b"what was written" * 1000)
    assert storage.names("folder") == []
    assert not storage.exists("folder/a")
    storage.upload(file, "folder/a")
    storage.upload(file, "folder/below/b")
    assert storage.exists("folder/a")
    assert storage.names("folder") == ["a"]
    storage.download("folder/a", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == file.read_bytes()
    with storage.open("folder/below/b") as stream:
        assert stream.read(16) == b"what was written"


def test_a_whole_bucket_can_be_the_folder(bucket: str, tmp_path: Path) -> None:
    whole = ObjectStorage(bucket.rpartition("/")[0])
    (tmp_path / "a").write_text("a")
    whole.upload(tmp_path / "a", "a")
    assert whole.exists("a")
    assert whole.names("state") == []


def test_a_large_file_goes_in_parts_and_is_there_whole(bucket: str, tmp_path: Path) -> None:
    storage, file = ObjectStorage(bucket), tmp_path / "large"
    file.write_bytes(bytes(range(256)) * 100_000)
    storage.upload(file, "large")
    storage.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def test_a_file_that_is_not_there_leaves_nothing(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{bucket}/none'"):
        ObjectStorage(bucket).download("none", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError), ObjectStorage(bucket).open("none"):
        pass


def test_an_address_is_divided_into_its_folder_and_the_name() -> None:
    assert ObjectStorage.holding("s3://bucket/a/b.parquet") == (ObjectStorage("s3://bucket/a"), "b.parquet")
    assert ObjectStorage.holding("s3://bucket/b") == (ObjectStorage("s3://bucket"), "b")
    for wrong in ("s3://bucket", "s3://bucket/a/", "s3://", "bucket/a"):
        with pytest.raises(StorageError, match=f"{wrong}: an address such as"):
            ObjectStorage.holding(wrong)


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"AWS_ACCESS_KEY_ID": "somebody"}, r"s3://bucket\d+/state: .*see AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, r"s3://bucket\d+/state: .*see AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, r"s3://bucket\d+/state: .*see AWS_ACCESS_KEY_ID"),
        ({"AWS_ENDPOINT_URL": "nowhere"}, r"s3://bucket\d+/state: Invalid endpoint: nowhere; .*AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": f"http://me:{SECRET_KEY}@127.0.0.1:9"}, r"s3://bucket\d+/state: .*AWS_ENDPOINT_URL"),
    ],
)
def test_what_is_wrong_is_told_with_the_variable_to_see_and_no_secret(
    bucket: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], problem: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=problem) as caught:
        ObjectStorage(bucket).check()
    assert SECRET_KEY not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_bucket_that_is_not_there_is_not_made(bucket: str, tmp_path: Path) -> None:
    nowhere = ObjectStorage(bucket.replace("/state", "-none/state"))
    (tmp_path / "a").touch()
    for attempt in (nowhere.check, lambda: nowhere.names("labels"), lambda: nowhere.upload(tmp_path / "a", "a")):
        with pytest.raises(StorageError, match=r"-none/state.*: .*make the bucket, or name another"):
            attempt()


@pytest.fixture
def own_server(new_s3: Callable[[], S3Server], monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Return a server that may be harmed; this process may use it."""
    server = new_s3()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def test_storage_that_is_not_there_is_named(own_server: S3Server) -> None:
    storage = ObjectStorage(own_server.new_bucket())
    own_server.kill()
    for attempt in (storage.check, lambda: storage.names("labels"), lambda: storage.exists("labels/a")):
        with pytest.raises(StorageError, match=r"s3://bucket1/state.*: .*see that the storage runs"):
            attempt()


def test_storage_that_stands_still_is_named_within_seconds(own_server: S3Server) -> None:
    storage = ObjectStorage(own_server.new_bucket())
    own_server.freeze(on=True)
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://bucket1/state: Read timeout.*see that the storage runs"):
        storage.check()
    assert time.monotonic() - started < 8
    own_server.freeze(on=False)
    storage.check()
