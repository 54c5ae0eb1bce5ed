"""First stage: the raw data, checked against the table and split into train, validation and test rows.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa
from loguru import logger

from pipeline.stage_runner import PROCESSED, REPORTS, StageError, load_params, raw_data, run_stage
from tableloop.state.label_batches import FEEDBACK, is_trusted, read_batches
from tableloop.table import Column, Table, load_table

WORDS = {"not_nullable": "empty", "coerce_dtype('float64')": "not a number"}  # for pandera's names of checks
SHOWN = 5  # ranges and values shown of each problem


def check(frame: pd.DataFrame, table: Table, what: str = "the raw data") -> pd.DataFrame:
    """Return the frame with columns of the table's types, the features in its order and then the target.

    Numbers are float64, categories and dates text, the latter in the form that `Column.written` gives them.

    Raises
    ------
    StageError
        Naming every column that is missing, unknown or holds something impossible, with the lines of the file
        (its header is line 1) and a few of the values.
    """
    if frame.empty:
        raise StageError(f"{what} holds no rows")
    schema = pa.DataFrameSchema({column.name: _schema(column) for column in table.fields}, strict=True)
    try:
        checked: pd.DataFrame = schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        problems = _problems(error.failure_cases)
        raise StageError("\n  ".join([f"{len(problems)} problems in {what}", *problems])) from None
    checked = checked[[*table.feature_names, table.target_name]]
    return checked.assign(
        **{
            column.name: _in_one_form(checked[column.name], column)
            for column in table.features
            if not column.is_number
        }
    )


def read_raw(file: Path, table: Table) -> pd.DataFrame:
    """Return the raw data as it is: of CSV numbers as numbers, everything else as text, only nothing as missing.

    Raises
    ------
    OSError, ValueError
        The file cannot be read.
    """
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    texts = {column.name: "str" for column in table.fields if not column.is_number}
    return pd.read_csv(file, dtype=texts, keep_default_na=False, na_values=[""])


def _schema(column: Column) -> pa.Column:
    """Return what a column of the raw data has to be."""
    nullable = not column.required
    if column.is_number:
        within = f"not within {column.minimum:g} to {column.maximum:g}"
        checks = [pa.Check.in_range(column.minimum, column.maximum, error=within)]
        if column.type == "integer":
            checks.append(pa.Check(lambda values: values % 1 == 0, error="not a whole number"))
        return pa.Column(float, checks, coerce=True, nullable=nullable)

    def sound(values: pd.Series[Any]) -> pd.Series[bool]:
        return values.map({value: _is_sound(column, value) for value in values.dropna().unique()}).astype(bool)

    what = {
        "boolean": "neither true nor false",
        "string": f"none of {', '.join(column.categories)}",
    }.get(column.type, "no date in ISO 8601, or one that is not possible")
    return pa.Column(None, pa.Check(sound, error=what), nullable=nullable)


def _is_sound(column: Column, value: object) -> bool:
    try:
        column.read(str(value))
    except ValueError:
        return False
    return True


def _in_one_form(values: pd.Series[Any], column: Column) -> pd.Series[Any]:
    """Return booleans as booleans, and levels and dates as text in one form."""
    read = values.map({value: column.read(str(value)) for value in values.dropna().unique()})
    return read.astype("boolean" if column.type == "boolean" else "str")


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
    place = place_in_split(frame, names)
    validation_end = test_fraction + (1 - test_fraction) * validation_fraction
    parts = {
        "train": place >= validation_end,
        "validation": (place >= test_fraction) & (place < validation_end),
        "test": place < test_fraction,
    }
    return {name: frame[rows].reset_index(drop=True) for name, rows in parts.items()}


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
    trusted = is_trusted(senders).to_numpy(bool)
    counts = senders[~trusted].value_counts()
    kept = counts.copy()
    while len(kept):  # each sender that shrinks makes the whole smaller, and the share with it
        most = int(share * (others + trusted.sum() + kept.sum()))
        if kept.max() <= most:
            break
        kept = kept.clip(upper=most)
    from_newest = senders[::-1].groupby(senders[::-1], sort=False).cumcount()[::-1]
    stays: npt.NDArray[np.bool_] = trusted | (from_newest < senders.map(kept.to_dict()).astype(float)).to_numpy(bool)
    return stays


def superseded(
    parts: dict[str, pd.DataFrame], feedback: pd.DataFrame, names: Sequence[str], least: int
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return the raw parts without the rows that came back with a new label for training, and the feedback.

    Where fewer than ``least`` test rows would remain, the test part stays, and those labels are set aside. So are
    those of senders whose part is bounded: nobody takes rows out of the test by sending labels for them.
    """
    trained = feedback["part"].isin(["train", "validation"])
    keys = {name: _row_keys(part, names) for name, part in parts.items()}
    of_feedback = _row_keys(feedback, names)
    bounded = trained & ~is_trusted(feedback["sender"]) & of_feedback.isin(keys["test"])
    if bounded.any():
        feedback = feedback.assign(part=feedback["part"].mask(bounded, "aside"))
        trained &= ~bounded
    if (~keys["test"].isin(of_feedback[trained])).sum() < min(least, len(parts["test"])):
        again = trained & of_feedback.isin(keys["test"])
        feedback = feedback.assign(part=feedback["part"].mask(again, "aside"))
        trained &= ~again
    known = of_feedback[trained]
    kept = {name: part[~keys[name].isin(known).to_numpy()].reset_index(drop=True) for name, part in parts.items()}
    return kept, feedback


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


def _problems(failures: pd.DataFrame) -> list[str]:
    """Return a line for each column and kind of problem, from pandera's table of single failures."""
    problems = []
    for kind, what in (("column_in_dataframe", "missing column"), ("column_in_schema", "unknown column")):
        problems += [f"{what}: {name}" for name in failures.loc[failures["check"] == kind, "failure_case"]]
    of_values = failures.dropna(subset=["column", "index"])
    # What pandera says of a whole column's type it has said of the values before.
    of_values = of_values[~of_values["check"].str.startswith("dtype")]
    for (name, check_name), cases in of_values.groupby(["column", "check"], sort=False):
        what = WORDS.get(str(check_name), str(check_name))
        lines = np.sort(cases["index"].to_numpy(np.int64)) + 2
        problems.append(f"{name}: {_count(len(cases))} {what}, {_lines(lines)}{_examples(cases['failure_case'])}")
    return problems


def _count(rows: int) -> str:
    return "1 value" if rows == 1 else f"{rows:,} values"


def _lines(lines: npt.NDArray[np.int64]) -> str:
    """Return the lines of the file as ranges: "lines 3-5, 9"."""
    starts = np.flatnonzero(np.diff(lines, prepend=-1) > 1)
    ranges = [
        f"{first}" if first == last else f"{first}-{last}"
        for first, last in zip(lines[starts], lines[np.append(starts[1:] - 1, len(lines) - 1)], strict=True)
    ]
    shown = ", ".join(ranges[:SHOWN]) + (f" and {len(ranges) - SHOWN} more ranges" if len(ranges) > SHOWN else "")
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}"


def _examples(values: pd.Series[Any]) -> str:
    examples = list(dict.fromkeys(str(value) for value in values.dropna()))[:SHOWN]
    return f" (for example {', '.join(examples)})" if examples else ""


def main() -> None:
    """Read the raw data and the labelled predictions, write the parts and a summary."""
    params = load_params()["preprocess"]
    table = load_table()
    try:
        raw = read_raw(raw_data(table), table)
    except (OSError, ValueError) as error:
        raise StageError(f"{raw_data(table)} cannot be read: {error}") from error
    parts = split(check(raw, table), table.feature_names, params["test_fraction"], params["validation_fraction"])
    try:
        batches = read_batches(FEEDBACK)
    except (OSError, ValueError) as error:
        raise StageError(f"{FEEDBACK} cannot be read: {error}") from error
    if len(batches):
        check(batches[[*table.feature_names, table.target_name]], table, f"the labels in {FEEDBACK}")
    feedback = split_feedback(
        batches,
        table,
        validation_fraction=params["validation_fraction"],
        gate_fraction=params["gate_fraction"],
        gate_rows=params["gate_rows"],
        gate_share=params.get("gate_share", 1.0),  # none in the parameters of a version from before senders
        learnt_share=params.get("learnt_share", 1.0),
        others=len(parts["train"]) + len(parts["validation"]),
    )
    parts, feedback = superseded(parts, feedback, table.feature_names, params["gate_rows"])
    PROCESSED.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if part.empty:
            raise StageError(f"the {name} part has no rows: change the fractions in params.yaml")
        part.to_parquet(PROCESSED / f"{name}.parquet", index=False)
    feedback.to_parquet(PROCESSED / "feedback.parquet", index=False)
    summary: dict[str, object] = {
        name: {"rows": len(part), "mean_value": round(float(part[table.target_name].mean()), 6)}
        for name, part in parts.items()
    }
    counted = {name: int(count) for name, count in feedback["part"].value_counts().sort_index().items()}
    summary["feedback"] = {"labels": len(batches), "batches": int(batches["batch"].nunique()), **counted}
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / "data.json").write_text(json.dumps(summary, indent=2) + "\n")
    logger.info("{:,} rows: {}", len(raw), ", ".join(f"{len(part):,} {name}" for name, part in parts.items()))
    if counted:
        parts_of_it = ", ".join(f"{count:,} {name}" for name, count in counted.items())
        logger.info("{:,} labels: {}", len(batches), parts_of_it)


if __name__ == "__main__":
    run_stage(main)
