"""Labels that several machines share: none lost, none doubled, whenever a training is killed."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.shared_workspace import SharedWorkspace, fetch_labels
from tableloop.object_storage import ObjectStorage, StorageError
from tableloop.state.database import Store
from tableloop.state.label_batches import FEEDBACK, batch_files, read_batches, take_batch, take_revocations
from tableloop.state.prediction_rows import Sent, row
from tableloop.table import load_table


@pytest.fixture
def store(place: Path | str) -> Store:
    return Store(place)


@pytest.fixture
def storage(bucket: str) -> ObjectStorage:
    return ObjectStorage(bucket)


class Machine:
    """A machine with a disk of its own, which retrains as far as its labels go."""

    def __init__(self, disk: Path, storage: ObjectStorage, store: Store) -> None:
        self.shared = SharedWorkspace(storage, disk)
        self.feedback = disk / FEEDBACK
        self._store = store

    def retrain(self) -> Path | None:
        self.shared.fetch()
        return take_batch(self._store, self.feedback, self.shared.share_batch)

    def labels(self) -> list[str]:
        """Return what a training reads."""
        return sorted(read_batches(self.feedback)["prediction_id"])


@pytest.fixture
def one(tmp_path: Path, storage: ObjectStorage, store: Store) -> Machine:
    return Machine(tmp_path / "one", storage, store)


@pytest.fixture
def two(tmp_path: Path, storage: ObjectStorage, store: Store) -> Machine:
    return Machine(tmp_path / "two", storage, store)


def label(store: Store, *numbers: int) -> None:
    with closing(store.writer()) as writer:
        for n in numbers:
            features = [column.example + n for column in load_table().features]
            writer.insert([row(f"p{n}", "r", 100.0 + n, "1", features, 2.0, 1.0, 3.0)])
            writer.insert_labels([Sent(f"p{n}", 2.0 + n)], "crm", load_table())


def marks(store: Store) -> dict[str, str | None]:
    with store.reading() as connection:
        return dict(connection.exec_driver_sql("SELECT prediction_id, batch FROM feedback").fetchall())


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_another_machine_has_the_batches_and_goes_on_numbering(one: Machine, two: Machine, store: Store) -> None:
    label(store, 1, 2)
    first = one.retrain()
    label(store, 3)
    second = two.retrain()
    assert first is not None
    assert second is not None
    assert [file.name[-12:] for file in batch_files(two.feedback)] == ["0001.parquet", "0002.parquet"]
    assert one.retrain() is None
    assert one.labels() == two.labels() == ["p1", "p2", "p3"]
    assert [file.read_bytes() for file in batch_files(one.feedback)] == [
        file.read_bytes() for file in batch_files(two.feedback)
    ]
    assert set(marks(store).values()) == {first.name, second.name}


@pytest.mark.parametrize("next_is_another", [False, True])
def test_killed_before_a_batch_is_shared_nothing_is_lost(
    one: Machine, two: Machine, store: Store, monkeypatch: pytest.MonkeyPatch, *, next_is_another: bool
) -> None:
    label(store, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "upload", killed)
        with pytest.raises(KeyboardInterrupt):
            one.retrain()
    assert batch_files(one.feedback) == []
    assert set(marks(store).values()) == {None}
    label(store, 3)
    if next_is_another:
        two.retrain()
        assert two.labels() == ["p1", "p2", "p3"]
    one.retrain()
    two.retrain()
    assert one.labels() == two.labels() == ["p1", "p2", "p3"]
    batches = batch_files(one.feedback)
    assert [file.name for file in batches] == [file.name for file in batch_files(two.feedback)]
    assert len(batches) == 1
    assert set(marks(store).values()) == {file.name for file in batches}


@pytest.mark.parametrize("next_is_another", [False, True])
def test_killed_after_a_batch_is_shared_it_is_taken_from_there(
    one: Machine, two: Machine, store: Store, monkeypatch: pytest.MonkeyPatch, *, next_is_another: bool
) -> None:
    label(store, 1, 2)
    upload = ObjectStorage.upload

    def upload_and_die(storage: ObjectStorage, file: Path, name: str) -> None:
        upload(storage, file, name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "upload", upload_and_die)
        with pytest.raises(KeyboardInterrupt):
            one.retrain()
    assert batch_files(one.feedback) == []
    assert set(marks(store).values()) == {None}
    machine = two if next_is_another else one
    assert machine.retrain() is None
    assert machine.labels() == ["p1", "p2"]
    assert set(marks(store).values()) == {batch_files(machine.feedback)[0].name}


@pytest.mark.parametrize("next_is_another", [False, True])
def test_killed_before_its_rows_are_marked_nothing_is_doubled(
    one: Machine, two: Machine, store: Store, monkeypatch: pytest.MonkeyPatch, *, next_is_another: bool
) -> None:
    label(store, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "mark_labels", killed)
        with pytest.raises(KeyboardInterrupt):
            one.retrain()
    assert set(marks(store).values()) == {None}
    machine = two if next_is_another else one
    assert machine.retrain() is None
    assert machine.labels() == ["p1", "p2"]
    assert set(marks(store).values()) == {batch_files(one.feedback)[0].name}


def test_killed_while_a_batch_comes_it_is_no_data(
    one: Machine, two: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(store, 1)
    one.retrain()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            two.retrain()
    assert list(two.feedback.iterdir()) == []
    two.retrain()
    assert two.labels() == ["p1"]


def test_two_machines_never_share_the_same_number(one: Machine, two: Machine, store: Store) -> None:
    label(store, 1)

    def after_another(file: Path, name: str) -> None:  # whose lock was lost
        assert one.retrain()
        two.shared.share_batch(file, name)

    with pytest.raises(StorageError, match=r"labels has 20.*-0001\.parquet already, .* another training was faster"):
        take_batch(store, two.feedback, after_another)
    assert two.retrain() is None
    assert two.labels() == ["p1"]


def test_a_revocation_holds_on_every_machine(one: Machine, two: Machine, store: Store) -> None:
    label(store, 1, 2)
    one.retrain()
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE feedback SET sender = 'erp' WHERE prediction_id = 'p1'")
    store.revoke_labels("me", "wrong", sender="erp")
    take_revocations(store, one.feedback)
    one.shared.share_revocations()
    two.retrain()
    assert two.labels() == ["p2"]
    assert json.loads((two.feedback / "revoked-0001.json").read_text()) == ["p1"]


def test_labels_of_a_state_that_had_no_storage_are_shared(
    one: Machine, two: Machine, store: Store, storage: ObjectStorage
) -> None:
    label(store, 1)
    take_batch(store, one.feedback)
    label(store, 2)
    one.retrain()
    two.retrain()
    assert two.labels() == ["p1", "p2"]
    assert len(storage.names("labels")) == 2


def test_a_copy_of_all_labels_can_be_had_anywhere(
    one: Machine, store: Store, storage: ObjectStorage, tmp_path: Path
) -> None:
    label(store, 1)
    one.retrain()
    fetch_labels(storage, tmp_path / "elsewhere")
    assert len(read_batches(tmp_path / "elsewhere")) == 1
