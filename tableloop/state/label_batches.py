"""Labelled predictions as training data: immutable Parquet batches, one a retraining.

The batches are the truth about what was taken from the store. A label that is in one is never taken again, whatever
the store says, so a process that is killed between writing a batch and marking its rows neither loses nor
doubles any: the next one finds them in the batch, and marks them then. Where several machines train, object storage
has each batch before its directory does (`pipeline.shared_workspace`), and its rows are marked last.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:  # the stages read batches and have no time for SQLAlchemy
    from tableloop.state.database import Store
from tableloop.table import load_table

FEEDBACK = Path("data/feedback")
COLUMNS = (
    *load_table().feature_names,
    load_table().target_name,
    "predicted_at",
    "received_at",
    "prediction_id",
    "sender",
)


def take_batch(store: Store, directory: Path, share: Callable[[Path, str], None] | None = None) -> Path | None:
    """Write the labelled rows that no batch holds to a new batch, mark them as used, and return it.

    ``share`` is called with a file and its name in the directory before it is there.

    Returns
    -------
    Path or None
        ``directory/<UTC time>-<number>.parquet``; None when there is no new label.

    Raises
    ------
    StoreError, OSError
        When the store cannot be read or written, or the batch cannot be written or shared.
    """
    labelled = _read_labelled(store)
    new = labelled[~labelled["prediction_id"].isin(_taken(directory))]
    batch = _write(new, directory, share) if len(new) else None
    if taken := _taken(directory):
        # Those that an earlier, killed retraining wrote and did not mark are among them, revoked since or not.
        store.mark_labels(taken)
    return batch


def batch_files(directory: Path) -> list[Path]:
    """Return the batches in the order they were made: by their number, as clocks are set back."""
    return sorted(directory.glob("*.parquet"), key=batch_number)


def batch_number(batch: Path) -> int:
    """Return the number in the name of a batch."""
    return int(batch.stem.rpartition("-")[2])


def read_batches(directory: Path) -> pd.DataFrame:
    """Return the rows of all batches with the number of their ``batch``; a prediction counts once, the first time.

    Those that were revoked are left out.
    """
    frames = [pd.read_parquet(file).assign(batch=batch_number(file)) for file in batch_files(directory)]
    rows = pd.concat(frames, ignore_index=True) if frames else _empty().assign(batch=pd.Series(dtype="int64"))
    if "sender" not in rows:  # all are of a time before senders were noted
        rows["sender"] = None
    revoked = {name for file in revocation_files(directory) for name in json.loads(file.read_text())}
    rows = rows[~rows["prediction_id"].isin(revoked)].astype({"sender": object})
    return rows.drop_duplicates("prediction_id", ignore_index=True)


def take_revocations(store: Store, directory: Path) -> None:
    """Write a file for each revocation that has none yet: the prediction ids whose labels no later training takes."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, ids in store.revoked().items():
        file = directory / f"revoked-{number:04d}.json"
        if not file.exists():
            partial = directory.with_name(f".{directory.name}.part")
            partial.write_text(json.dumps(ids) + "\n")
            partial.replace(file)


def revocation_files(directory: Path) -> list[Path]:
    """Return the revocations in the order they were made."""
    return sorted(directory.glob("revoked-*.json"))


def batches_md5(batches: list[Path]) -> str:
    """Return the md5 of the list of their names and md5, in the form in which DVC hashes a directory.

    Files of revocations are hashed as batches are.
    """
    listed = [{"md5": _md5(file.read_bytes()), "relpath": file.name} for file in sorted(batches)]
    return _md5(json.dumps(listed, sort_keys=True).encode())


def _read_labelled(store: Store) -> pd.DataFrame:
    """Return every labelled row of the store, the oldest prediction first."""
    rows = store.labelled_rows(load_table().target_name)
    return pd.DataFrame(rows, columns=list(COLUMNS)) if rows else _empty()


def _taken(directory: Path) -> dict[str, str]:
    """Return the name of the batch that holds each prediction."""
    taken: dict[str, str] = {}
    for file in batch_files(directory):
        taken |= dict.fromkeys(pd.read_parquet(file, columns=["prediction_id"])["prediction_id"], file.name)
    return taken


def _write(rows: pd.DataFrame, directory: Path, share: Callable[[Path, str], None] | None) -> Path:
    """Write a batch so that it is there whole or not at all, crash of the machine included."""
    number = max(map(batch_number, batch_files(directory)), default=0) + 1
    batch = directory / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{number:04d}.parquet"
    # Beside the directory, not in it: DVC takes whatever is in there for data.
    partial = directory.with_name(f".{directory.name}.part")
    directory.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(partial, index=False)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.chmod(0o444)
    if share:
        share(partial, batch.name)
    partial.replace(batch)
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return batch


def _empty() -> pd.DataFrame:
    texts = [column.name for column in load_table().features if column.is_text]
    kinds = dict.fromkeys(COLUMNS, "float64") | dict.fromkeys([*texts, "prediction_id"], "str") | {"sender": "object"}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
