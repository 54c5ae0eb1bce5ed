from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tableloop.state.database import Store
from tableloop.state.label_batches import COLUMNS, batch_files, batches_md5, read_batches, take_batch
from tableloop.state.prediction_rows import Sent, row
from tableloop.table import load_table

FEATURE_NAMES = load_table().feature_names
FEATURES = load_table().features
TARGET = load_table().target


@pytest.fixture
def store(place: Path | str) -> Store:
    return Store(place)


def label(store: Store, *numbers: int) -> None:
    """Store predictions and their labels."""
    with closing(store.writer()) as writer:
        for n in numbers:
            features = [column.example + n for column in FEATURES]
            writer.insert([row(f"p{n}", "r", 100.0 + n, "1", features, 2.0, 1.0, 3.0)])
            writer.insert_labels([Sent(f"p{n}", 2.0 + n)], "crm", load_table())
    with store.writing() as connection:
        for n in numbers:
            connection.exec_driver_sql(f"UPDATE feedback SET received_at = {1000.0 + n} WHERE prediction_id = 'p{n}'")


def marks(store: Store) -> dict[str, str | None]:
    with store.reading() as connection:
        return dict(connection.exec_driver_sql("SELECT prediction_id, batch FROM feedback").fetchall())


def test_every_label_becomes_a_row_of_one_batch(store: Store, tmp_path: Path) -> None:
    label(store, 1, 2)
    first = take_batch(store, tmp_path / "batches")
    assert first is not None
    assert first.name.endswith("Z-0001.parquet")
    assert take_batch(store, tmp_path / "batches") is None
    label(store, 3)
    second = take_batch(store, tmp_path / "batches")
    assert second is not None
    rows = read_batches(tmp_path / "batches")
    assert list(rows) == [*COLUMNS, "batch"]
    assert rows[["prediction_id", "batch", TARGET.name, "predicted_at", "received_at"]].to_numpy().tolist() == [
        ["p1", 1, 3.0, 101.0, 1001.0],
        ["p2", 1, 4.0, 102.0, 1002.0],
        ["p3", 2, 5.0, 103.0, 1003.0],
    ]
    assert rows[list(FEATURE_NAMES)].to_numpy()[2].tolist() == [column.example + 3 for column in FEATURES]
    assert marks(store) == {"p1": first.name, "p2": first.name, "p3": second.name}


def test_killed_before_the_batch_is_there_nothing_is_lost(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(store, 1, 2)
    directory = tmp_path / "batches"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _killed)
        with pytest.raises(KeyboardInterrupt):
            take_batch(store, directory)
    assert not list(directory.iterdir())
    assert set(marks(store).values()) == {None}
    assert take_batch(store, directory) is not None
    assert read_batches(directory)["prediction_id"].tolist() == ["p1", "p2"]


def test_killed_before_the_rows_are_marked_nothing_is_doubled(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(store, 1, 2)
    directory = tmp_path / "batches"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "mark_labels", _killed)
        with pytest.raises(KeyboardInterrupt):
            take_batch(store, directory)
    label(store, 3)
    take_batch(store, directory)
    first, second = batch_files(directory)
    assert read_batches(directory)["prediction_id"].tolist() == ["p1", "p2", "p3"]
    assert marks(store) == {"p1": first.name, "p2": first.name, "p3": second.name}


def test_batches_are_in_the_order_of_their_numbers_even_when_the_clock_was_set_back(tmp_path: Path) -> None:
    for name in ("20260101T000000Z-0002.parquet", "20270101T000000Z-0001.parquet", "20250101T000000Z-10000.parquet"):
        (tmp_path / name).touch()
    assert [file.stem[-4:] for file in batch_files(tmp_path)] == ["0001", "0002", "0000"]


def test_without_a_log_or_labels_there_is_no_batch(store: Store, tmp_path: Path) -> None:
    assert take_batch(store, tmp_path / "batches") is None
    store.prepare()
    assert take_batch(store, tmp_path / "batches") is None
    rows = read_batches(tmp_path / "batches")
    assert rows.empty
    assert rows[TARGET.name].dtype == np.float64


def test_the_hash_of_the_batches_is_the_one_dvc_gives_to_their_directory(tmp_path: Path) -> None:
    (tmp_path / "b.parquet").write_text("x\n")
    (tmp_path / "a.parquet").write_text("y\n")
    # What dvc.lock says of this directory, less its ".dir".
    assert batches_md5(list(tmp_path.iterdir())) == "90969f68916551bb68766d5790a0bf9d"


def test_a_prediction_in_two_batches_counts_once(tmp_path: Path) -> None:
    rows = pd.DataFrame({name: [1.0] for name in COLUMNS[:-1]} | {"prediction_id": ["p"]})
    for number in (1, 2):
        rows.to_parquet(tmp_path / f"20260101T000000Z-{number:04d}.parquet", index=False)
    assert read_batches(tmp_path)["batch"].tolist() == [1]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt
