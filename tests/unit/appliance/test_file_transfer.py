"""The files of a state moved to object storage: sent once, compared by content, and into no folder of others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance import file_transfer
from tableloop.object_storage import ObjectStorage, StorageError
from tableloop.state.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A state with a file of each kind, one so large that it is sent in parts."""
    layout = Layout(tmp_path / "state")
    cache = layout.workspace / ".dvc/cache"
    files = {
        layout.mlflow_artifacts / "0/models/m-1/artifacts/MLmodel": b"model",
        layout.mlflow_artifacts / "0/empty": b"",
        layout.mlflow_artifacts / "0/large": os.urandom(17 << 20),
        cache / "files/md5/ab/cd": b"data",
        cache / "files/md5/ab/unfinished.tmp": b"dat",
        cache / "runs/ab/abc/def": b"run",
        layout.workspace / "data/feedback/20260101T000000Z-0001.parquet": b"labels",
        layout.workspace / "data/feedback/revoked-0001.json": b"[]",
        layout.workspace / "data/feedback/README.md": b"about them",
        layout.workspace / "dvc.lock": b"lock",
    }
    for file, content in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return layout


def test_every_file_is_there_under_its_name_and_is_not_sent_again(layout: Layout, bucket: str) -> None:
    storage = ObjectStorage(bucket)
    file_transfer.begin(storage, "this one")
    sent = file_transfer.send(storage, layout)
    assert (sent.files, sent.sent) == (8, 8)
    assert set(storage.contents()) == {
        *("mlflow/0/models/m-1/artifacts/MLmodel", "mlflow/0/empty", "mlflow/0/large"),
        *("dvc/files/md5/ab/cd", "dvc/runs/ab/abc/def", "workspace/dvc.lock", file_transfer.MARK),
        *("labels/20260101T000000Z-0001.parquet", "labels/revoked-0001.json"),
    }
    assert file_transfer.differences(storage, layout) == []
    (layout.workspace / "dvc.lock").write_bytes(b"rock")  # as long, and something else
    file_transfer.begin(storage, "this one")
    assert file_transfer.send(storage, layout)[:2] == (8, 1)
    assert file_transfer.differences(storage, layout) == []


def test_what_is_missing_or_other_there_is_found(layout: Layout, bucket: str, tmp_path: Path) -> None:
    storage = ObjectStorage(bucket)
    file_transfer.send(storage, layout)
    other = tmp_path / "other"
    other.write_bytes(os.urandom(17 << 20))
    storage.upload(other, "mlflow/0/large")
    (layout.mlflow_artifacts / "0/new").write_bytes(b"new")
    assert file_transfer.differences(storage, layout) == ["mlflow/0/large", "mlflow/0/new"]


def test_a_folder_of_others_is_refused_with_the_remedy(bucket: str, tmp_path: Path) -> None:
    storage = ObjectStorage(bucket)
    file = tmp_path / "theirs"
    file.write_text("x")
    storage.upload(file, "theirs")
    with pytest.raises(StorageError, match=r"holds files already: name an empty folder"):
        file_transfer.begin(storage, "this one")


def test_a_folder_that_another_appliance_moves_to_is_refused(bucket: str) -> None:
    storage = ObjectStorage(bucket)
    file_transfer.begin(storage, "this one")
    file_transfer.begin(storage, "this one")
    with pytest.raises(StorageError, match=r"with the signing key this one: name an empty folder"):
        file_transfer.begin(storage, "another one")
