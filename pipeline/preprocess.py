"""First stage: the raw data, checked against the table and split into train, validation and test rows.

It is read, checked, split and written batch by batch, so that it may be larger than memory.

Raw rows are split by a hash of their features, so they stay on their side for ever. Labelled predictions are split by
time, because what they are held out for is the question whether a model knows the present:

- A row is its features. Asked about and labelled again, it counts once, with its newest label; a raw row that
  came back takes no part any more, neither in training nor in the test.
- The newest `gate_fraction` of the newest batch are for the gate, as far as nothing else was predicted after them and
  they are `gate_rows` at least; with fewer there are none, and the old test rows decide. They are trained on when
  the next batch has come.
- The rest is trained on, a hashed part of it as validation rows.
- One sender of labels is at most ``gate_share`` of those for the gate, and ``learnt_share`` of all rows that are
  learnt: the newest of theirs, and the others are set aside. Nor do they take a test row out of the test. The
  administrator and keys of scope admin are not bounded: who may do all may teach all.
- No place, if the table has one, has labels on both sides, or the gate would ask for what the neighbours' targets
  tell. Of a place that would, a hash says which side keeps its rows; the others are set aside until the next batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from loguru import logger

from pipeline.parts import RAW_PARTS, PartWriter, part_file
from pipeline.raw_rows import Check, batches, check
from pipeline.stage_runner import PROCESSED, REPORTS, StageError, load_params, raw_data, run_stage
from tableloop.senders import NO_SENDER, bounded, is_trusted
from tableloop.state.label_batches import FEEDBACK, read_batches
from tableloop.table import Table, load_table


def place_in_split(frame: pd.DataFrame, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each row, shape (n,): a hash of its features, which ``names`` are.

    It depends on nothing but the row, so no row changes side when others are added; and not on the target, so the
    same row with another label stays on the same side too.
    """
    return _hashed(frame[list(names)])


def split(
    frame: pd.DataFrame, names: Sequence[str], test_fraction: float, validation_fraction: float
) -> dict[str, pd.DataFrame]:
    """Return the parts "train", "validation" and "test"; ``validation_fraction`` is of the rows that are not test."""
    parts = part_of(place_in_split(frame, names), test_fraction, validation_fraction)
    return {name: frame[rows].reset_index(drop=True) for name, rows in parts.items()}


def part_of(
    place: npt.NDArray[np.float64], test_fraction: float, validation_fraction: float
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which rows are in each part, by their place in the split, shape (n,)."""
    validation_end = test_fraction + (1 - test_fraction) * validation_fraction
    return {
        "train": place >= validation_end,
        "validation": (place >= test_fraction) & (place < validation_end),
        "test": place < test_fraction,
    }


def split_feedback(
    batches: pd.DataFrame,
    table: Table,
    *,
    validation_fraction: float,
    gate_fraction: float,
    gate_rows: int,
    gate_share: float = 1.0,
    learnt_share: float = 1.0,
    others: int = 0,
) -> pd.DataFrame:
    """Return the rows that count, the oldest prediction first, with their ``part``.

    Parameters
    ----------
    batches
        What `tableloop.state.label_batches.read_batches` returns.
    gate_share, learnt_share
        One sender's part of the labels for the gate, and of all rows that are learnt, at most.
    others
        How many rows are learnt beside the labels.

    Returns
    -------
    pandas.DataFrame
        Features, target, "predicted_at", "batch", "sender" and "part": "train", "validation", "gate" or "aside".
    """
    rows = batches.sort_values(["predicted_at", "prediction_id"], kind="stable", ignore_index=True)
    rows = rows[~_row_keys(rows, table.feature_names).duplicated(keep="last").to_numpy()].reset_index(drop=True)
    gate = _for_the_gate(rows, gate_fraction, gate_rows)
    aside = np.zeros_like(gate)
    if table.place is not None:
        place = rows[[table.place.latitude, table.place.longitude]]
        places = pd.MultiIndex.from_frame(place)
        shared = places.isin(places[gate]) & places.isin(places[~gate])
        aside = shared & (gate != (_hashed(place, b"gate") < 0.5))
    for_gate = gate & ~aside
    aside[for_gate] = ~within_share(rows["sender"][for_gate], gate_share)
    if (gate & ~aside).sum() < gate_rows:
        gate[:] = aside[:] = False
    learnt = ~gate & ~aside
    aside[learnt] = ~within_share(rows["sender"][learnt], learnt_share, others)
    part = np.where(
        _hashed(rows[list(table.feature_names)], b"validation") < validation_fraction, "validation", "train"
    )
    part = np.where(aside, "aside", np.where(gate, "gate", part))
    return rows[[*table.feature_names, table.target_name, "predicted_at", "batch", "sender"]].assign(
        part=part.astype(str)
    )


def within_share(senders: pd.Series[Any], share: float, others: int = 0) -> npt.NDArray[np.bool_]:
    """Return which rows, the oldest first, stay when no sender is more than a share of them and the others.

    Of a sender the newest rows stay. The administrator's and those of keys of scope admin all do.
    """
    named = senders.fillna(NO_SENDER)
    kept = bounded({str(name): int(count) for name, count in named.value_counts().items()}, share, others)
    from_newest = named[::-1].groupby(named[::-1], sort=False).cumcount()[::-1]
    stays: npt.NDArray[np.bool_] = from_newest.to_numpy(np.int64) < np.array([kept[name] for name in named], np.int64)
    return stays


def superseded(
    labelled: Mapping[str, pd.Series[float]], test_rows: int, feedback: pd.DataFrame, names: Sequence[str], least: int
) -> tuple[dict[str, npt.NDArray[np.int64]], pd.DataFrame]:
    """Return which raw rows came back with a new label for training, so that they leave their part; and the feedback.

    Where fewer than ``least`` test rows would remain, the test part stays, and those labels are set aside. So are
    those of senders whose part is bounded: nobody takes rows out of the test by sending labels for them.

    Parameters
    ----------
    labelled
        By part, the keys of the raw rows that labels are about, by the number of the row in the part.
    test_rows
        How many there are in all.
    """
    trained = feedback["part"].isin(["train", "validation"])
    of_feedback, in_test = _row_keys(feedback, names), labelled["test"]
    trusted = np.array([is_trusted(name) for name in feedback["sender"].fillna(NO_SENDER)], bool)
    claimed = trained & ~trusted & of_feedback.isin(in_test)
    if claimed.any():
        feedback = feedback.assign(part=feedback["part"].mask(claimed, "aside"))
        trained &= ~claimed
    if test_rows - in_test.isin(of_feedback[trained]).sum() < min(least, test_rows):
        again = trained & of_feedback.isin(in_test)
        feedback = feedback.assign(part=feedback["part"].mask(again, "aside"))
        trained &= ~again
    known = of_feedback[trained]
    return {name: keys.index[keys.isin(known)].to_numpy(np.int64) for name, keys in labelled.items()}, feedback


def _for_the_gate(rows: pd.DataFrame, fraction: float, least: int) -> npt.NDArray[np.bool_]:
    """Return which of the rows, sorted by time, are the newest of the newest batch and newer than all others."""
    newest = (rows["batch"] == rows["batch"].max()).to_numpy()
    count = int(newest.sum() * fraction)
    gate = np.zeros(len(rows), dtype=bool)
    if 0 < least <= count:
        gate[np.flatnonzero(newest)[-count:]] = True
        at = rows["predicted_at"].to_numpy()
        gate &= at >= at[~gate].max(initial=-np.inf)
    return gate


def _row_keys(frame: pd.DataFrame, names: Sequence[str]) -> pd.Series[float]:
    return pd.Series(place_in_split(frame, names), index=frame.index)


def _hashed(columns: pd.DataFrame, purpose: bytes = b"") -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each row, shape (n,); another one for another purpose."""
    rows = np.column_stack([_octets(columns[name]) for name in columns])
    hashes = [hashlib.blake2b(row.tobytes(), digest_size=8, key=purpose).digest() for row in rows]
    # 53 bits are what a float64 holds exactly: a rounded 1.0 would be in no part.
    return np.array([int.from_bytes(number, "little") >> 11 for number in hashes], dtype=np.float64) / 2.0**53


def _octets(values: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """Return eight bytes for each value, those of a number itself; of a text, of a hash."""
    if values.dtype.kind in "fiu":
        return values.to_numpy("<f8")
    codes, distinct = values.factorize(use_na_sentinel=True)
    hashes = [hashlib.blake2b(str(text).encode(), digest_size=8).digest() for text in [*distinct, None]]
    made: npt.NDArray[np.float64] = np.frombuffer(b"".join(hashes), "<f8")[codes]
    return made


def write_raw_parts(
    writers: Mapping[str, PartWriter], table: Table, fractions: Mapping[str, float], keys: pd.Series[float]
) -> int:
    """Check the raw data and write its parts, batch by batch, and return how many rows it has.

    ``keys`` are those of the labels.

    Raises
    ------
    StageError
        The raw data cannot be read, or something in it is impossible.
    """
    checks, path, rows = Check(table), raw_data(table), 0
    try:
        for batch in batches(path, table):
            if (checked := checks.rows(batch)) is None:
                continue
            place = place_in_split(checked, table.feature_names)
            for name, inside in part_of(place, **fractions).items():
                of_part = pd.Series(place[inside])
                writers[name].add(checked[inside].reset_index(drop=True), of_part[of_part.isin(keys)])
            rows += len(checked)
    except (OSError, ValueError) as error:
        raise StageError(f"{path} cannot be read: {error}") from error
    checks.end("the raw data")
    return rows


def main() -> None:
    """Read the raw data and the labelled predictions, write the parts and a summary."""
    params = load_params()["preprocess"]
    table = load_table()
    try:
        labels = read_batches(FEEDBACK)
    except (OSError, ValueError) as error:
        raise StageError(f"{FEEDBACK} cannot be read: {error}") from error
    PROCESSED.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(PartWriter(name, table.target_name)) for name in RAW_PARTS}
        fractions = {name: params[name] for name in ("test_fraction", "validation_fraction")}
        rows = write_raw_parts(writers, table, fractions, _row_keys(labels, table.feature_names))
        if len(labels):
            check(labels[[*table.feature_names, table.target_name]], table, f"the labels in {FEEDBACK}")
        feedback = split_feedback(
            labels,
            table,
            validation_fraction=params["validation_fraction"],
            gate_fraction=params["gate_fraction"],
            gate_rows=params["gate_rows"],
            gate_share=params.get("gate_share", 1.0),  # none in the parameters of a version from before senders
            learnt_share=params.get("learnt_share", 1.0),
            others=writers["train"].rows + writers["validation"].rows,
        )
        labelled = {name: writer.labelled for name, writer in writers.items()}
        leave, feedback = superseded(
            labelled, writers["test"].rows, feedback, table.feature_names, params["gate_rows"]
        )
        for name, writer in writers.items():
            if len(leave[name]):
                writer.leave_out(leave[name])
            if not writer.rows:
                raise StageError(f"the {name} part has no rows: change the fractions in params.yaml")
        for writer in writers.values():
            writer.finish()
    feedback.to_parquet(part_file("feedback"), index=False)
    summary: dict[str, object] = {
        name: {"rows": writer.rows, "mean_value": round(writer.mean, 6)} for name, writer in writers.items()
    }
    counted = {name: int(count) for name, count in feedback["part"].value_counts().sort_index().items()}
    summary["feedback"] = {"labels": len(labels), "batches": int(labels["batch"].nunique()), **counted}
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / "data.json").write_text(json.dumps(summary, indent=2) + "\n")
    logger.info("{:,} rows: {}", rows, ", ".join(f"{writer.rows:,} {name}" for name, writer in writers.items()))
    if counted:
        parts_of_it = ", ".join(f"{count:,} {name}" for name, count in counted.items())
        logger.info("{:,} labels: {}", len(labels), parts_of_it)


if __name__ == "__main__":
    run_stage(main)
