"""First stage: the raw data, checked against the schema and split into train, validation and test rows."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pa
from loguru import logger

from pipeline.schema import FEATURE_NAMES, FEATURES, TARGET
from pipeline.stage import PROCESSED, RAW_DATA, REPORTS, StageError, load_params, run_stage

SHOWN = 5  # ranges and values shown of each problem


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with float64 columns in the order of the schema.

    Raises
    ------
    StageError
        Naming every column that is missing, unknown or holds something impossible, with the lines of the file
        (its header is line 1) and a few of the values.
    """
    schema = pa.DataFrameSchema(
        {
            column.name: pa.Column(float, pa.Check.in_range(column.minimum, column.maximum), coerce=True)
            for column in (*FEATURES, TARGET)
        },
        strict=True,
    )
    if frame.empty:
        raise StageError("the raw data holds no rows")
    try:
        checked: pd.DataFrame = schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        problems = _problems(frame, error.failure_cases)
        raise StageError("\n  ".join([f"{len(problems)} problems in the raw data", *problems])) from None
    return checked[[*FEATURE_NAMES, TARGET.name]]


def place_in_split(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each row, shape (n,): a hash of its eight features.

    It depends on nothing but the row, so no row changes side when others are added; and not on the target, so the
    same place with another label stays on the same side too.
    """
    rows = frame[list(FEATURE_NAMES)].to_numpy("<f8")
    hashes = [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in rows]
    # 53 bits are what a float64 holds exactly: a rounded 1.0 would be in no part.
    return np.array([number >> 11 for number in hashes], dtype=np.float64) / 2.0**53


def split(frame: pd.DataFrame, test_fraction: float, validation_fraction: float) -> dict[str, pd.DataFrame]:
    """Return the parts "train", "validation" and "test"; ``validation_fraction`` is of the rows that are not test."""
    place = place_in_split(frame)
    validation_end = test_fraction + (1 - test_fraction) * validation_fraction
    parts = {
        "train": place >= validation_end,
        "validation": (place >= test_fraction) & (place < validation_end),
        "test": place < test_fraction,
    }
    return {name: frame[rows].reset_index(drop=True) for name, rows in parts.items()}


def _problems(frame: pd.DataFrame, failures: pd.DataFrame) -> list[str]:
    """Return a line for each column and kind of problem, from pandera's table of single failures."""
    bounds = {column.name: f"{column.minimum:g} to {column.maximum:g}" for column in (*FEATURES, TARGET)}
    problems: list[str] = []
    for check_name, name in (("column_in_dataframe", "missing column"), ("column_in_schema", "unknown column")):
        problems += [f"{name}: {column}" for column in failures.loc[failures["check"] == check_name, "failure_case"]]
    for column, bound in bounds.items():
        if column not in frame:
            continue
        values = frame[column]
        numbers = pd.to_numeric(values, errors="coerce")
        text = numbers.isna() & values.notna()
        failed = failures.loc[failures["column"] == column, "index"].dropna().astype(int)
        bad = pd.Series(False, index=frame.index)
        bad.loc[failed] = True
        for what, rows in (
            ("empty", values.isna()),
            ("not a number", text),
            (f"not within {bound}", numbers.notna() & bad),
        ):
            if rows.any():
                problems.append(
                    f"{column}: {_count(int(rows.sum()))} {what}, {_lines(rows)}{_examples(values[rows])}"
                )
    return problems


def _count(rows: int) -> str:
    return "1 value" if rows == 1 else f"{rows:,} values"


def _lines(rows: pd.Series[bool]) -> str:
    """Return the lines of the file as ranges: "lines 3-5, 9"."""
    lines = np.flatnonzero(rows.to_numpy()) + 2
    starts = np.flatnonzero(np.diff(lines, prepend=-1) > 1)
    ranges = [
        f"{first}" if first == last else f"{first}-{last}"
        for first, last in zip(lines[starts], lines[np.append(starts[1:] - 1, len(lines) - 1)], strict=True)
    ]
    shown = ", ".join(ranges[:SHOWN]) + (f" and {len(ranges) - SHOWN} more ranges" if len(ranges) > SHOWN else "")
    return f"line {shown}" if len(lines) == 1 else f"lines {shown}"


def _examples(values: pd.Series[float]) -> str:
    examples = list(dict.fromkeys(str(value) for value in values.dropna()))[:SHOWN]
    return f" (for example {', '.join(examples)})" if examples else ""


def main() -> None:
    """Read the raw data, write the three parts and a summary."""
    params = load_params()["preprocess"]
    try:
        raw = pd.read_csv(RAW_DATA)
    except (OSError, ValueError) as error:
        raise StageError(f"{RAW_DATA} cannot be read: {error}") from error
    parts = split(check(raw), params["test_fraction"], params["validation_fraction"])
    PROCESSED.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if part.empty:
            raise StageError(f"the {name} part has no rows: change the fractions in params.yaml")
        part.to_parquet(PROCESSED / f"{name}.parquet", index=False)
    summary = {
        name: {"rows": len(part), "mean_value": round(float(part[TARGET.name].mean()), 6)}
        for name, part in parts.items()
    }
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / "data.json").write_text(json.dumps(summary, indent=2) + "\n")
    logger.info("{:,} rows: {}", len(raw), ", ".join(f"{len(part):,} {name}" for name, part in parts.items()))


if __name__ == "__main__":
    run_stage(main)
