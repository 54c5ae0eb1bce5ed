"""How often drift is reported without any, and found when there is: ``python -m bench.false_alarms``.

Windows are drawn from the test rows, which no model has seen, and compared with the reference of the rows that are
trained on. Predictions are those of a gradient boosting model of the train and validation rows. With ``--log-rows N``
a log of so many predictions is made in a temporary directory as well, and one check of it is timed as a process. With
``--made`` the rows are those of a made table of categories, a boolean, a date, and values that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import root_mean_squared_error
from threadpoolctl import threadpool_limits

from monitoring.drift_check import load_policy
from scenarios.market import split_rows
from tableloop.drift.levels import level_names, with_unknown
from tableloop.drift.reference import REFERENCE_FILE, Reference
from tableloop.drift.statistics import Matrix, Policy, compare, live_error, make_reference
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.prediction_rows import row
from tableloop.table import Table, load_table

UNDRIFTED = 500
DRIFTED = 100
SEED = 1

Change = Callable[[Matrix, np.random.Generator], Matrix]


class Case(NamedTuple):
    """So many windows of so many rows, drawn from ``source`` and changed."""

    name: str
    source: Matrix
    change: Change
    rows: int
    windows: int


def unchanged(rows: Matrix, rng: np.random.Generator) -> Matrix:
    """Return the rows."""
    return rows


def made_table() -> Table:
    """Return a table with a column of each kind, most of which may be missing."""
    optional = {"required": False}
    days = {"minimum": "2000-01-01", "maximum": "2100-01-01"}
    fields: list[dict[str, Any]] = [
        {"name": "size", "example": 1, "constraints": {"minimum": -100, "maximum": 100} | optional},
        {"name": "count", "type": "integer", "example": 1, "constraints": {"minimum": 0, "maximum": 100} | optional},
        {"name": "two", "type": "string", "categories": ["a", "b"], "example": "a"},
        {"name": "rare", "type": "string", "categories": ["a", "b", "c"], "example": "a", "constraints": optional},
        {
            "name": "many",
            "type": "string",
            "categories": [f"l{number}" for number in range(200)],
            "example": "l0",
            "constraints": optional,
        },
        {"name": "flag", "type": "boolean", "example": True},
        {"name": "day", "type": "date", "example": "2020-01-01", "constraints": days | optional},
        {"name": "value", "example": 1, "constraints": {"minimum": -1000, "maximum": 1000}},
    ]
    return Table.model_validate({"name": "made", "path": "raw/made.csv", "fields": fields, "target": "value"})


def made_rows(count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return rows of the made table: independent columns, rare levels, and levels that it does not list."""
    many = np.minimum(rng.zipf(1.3, count) - 1, 300)
    rows = pd.DataFrame(
        {
            "size": np.where(rng.random(count) < 0.05, np.nan, rng.normal(size=count)),
            "count": np.where(rng.random(count) < 0.001, np.nan, rng.poisson(2, count)),
            "two": rng.choice(["a", "b"], count, p=[0.8, 0.2]),
            "rare": rng.choice(
                np.array(["a", "b", "c", "d", None], dtype=object), count, p=[0.6, 0.389, 0.005, 0.001, 0.005]
            ),
            "many": [f"l{number}" if number < 300 else None for number in many],
            "flag": rng.random(count) < 0.4,
            "day": (np.datetime64("2020-01-01") + rng.integers(0, 1000, count)).astype(str),
        }
    )
    rows["day"] = rows["day"].mask(rng.random(count) < 0.2)
    rows["value"] = rows["size"].fillna(0) + 3 * (rows["two"] == "a") + rng.normal(size=count)
    return rows


def moved_level(rows: Matrix, rng: np.random.Generator, column: int, level: float) -> Matrix:
    """Return the rows, of which a seventh have this level in this column; NaN is missing."""
    changed = rows.copy()
    changed[rng.random(len(rows)) < 1 / 7, column] = level
    return changed


def raised(rows: Matrix, rng: np.random.Generator, columns: list[int]) -> Matrix:
    """Return the rows with these columns a quarter higher."""
    changed = rows.copy()
    changed[:, columns] *= 1.25
    return changed


def mixed(rows: Matrix, rng: np.random.Generator, columns: list[int]) -> Matrix:
    """Return the rows with these columns of each row given to another one: every column stays as it was."""
    changed = rows.copy()
    changed[:, columns] = rows[rng.permutation(len(rows))][:, columns]
    return changed


def cases_of(table: Table, test: Matrix, policy: Policy, undrifted: int) -> list[Case]:
    """Return unchanged windows, and windows with each kind of change that the table allows."""
    cases = [
        Case("nothing changed", test, unchanged, policy.window, undrifted),
        Case("nothing changed", test, unchanged, policy.least_rows, undrifted),
    ]
    for number, column in enumerate(table.features):
        name, rows = column.name, policy.window
        if column.is_number:
            cases.append(Case(f"{name} x 1.25", test, partial(raised, columns=[number]), rows, DRIFTED))
        elif levels := level_names(name, table.kinds):
            for level in (0, len(levels) - 1):
                change = partial(moved_level, column=number, level=level)
                cases.append(Case(f"a seventh of {name} {levels[level]}", test, change, rows, DRIFTED))
        if not column.required:
            change = partial(moved_level, column=number, level=np.nan)
            cases.append(Case(f"a seventh of {name} missing", test, change, rows, DRIFTED))
        cases.append(Case(f"joint: {name} of another row", test, partial(mixed, columns=[number]), rows, DRIFTED))
    if table.place is not None:
        place = [table.feature_names.index(name) for name in (table.place.latitude, table.place.longitude)]
        south = test[test[:, place[0]] < np.median(test[:, place[0]])]
        cases += [
            Case("the southern half only", south, unchanged, policy.window, DRIFTED),
            Case("joint: place of another row", test, partial(mixed, columns=place), policy.window, DRIFTED),
        ]
    return cases


def main() -> None:
    """Print both kinds of rates, and what a check of a long log costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log-rows", type=int, default=0, help="also time one check of a log of so many predictions")
    parser.add_argument("--made", action="store_true", help="of a made table with columns of every kind")
    parser.add_argument("--windows", type=int, default=UNDRIFTED, help="of each kind in which nothing changes")
    arguments = parser.parse_args()
    policy, table = load_policy(), made_table() if arguments.made else load_table()
    if arguments.made:
        rng = np.random.default_rng(SEED)
        fitted, unseen = made_rows(16_000, rng), made_rows(200_000, rng)
    else:
        parts = split_rows(table)
        fitted, unseen = pd.concat([parts["train"], parts["validation"]], ignore_index=True), parts["test"]
    rows, test = (coded(part, table) for part in (fitted, unseen))
    with threadpool_limits(1):
        model = HistGradientBoostingRegressor(random_state=0).fit(rows, fitted[table.target_name])
        predicted = model.predict(test)
        actual = unseen[table.target_name].to_numpy(np.float64)
        test_rmse = float(root_mean_squared_error(actual, predicted))
        reference = make_reference(rows, predicted, test_rmse, columns=table.feature_names, kinds=table.kinds)
        _say(
            f"{'':<32}{'rows':>6}{'windows':>9}{'any':>8}{'columns':>9}{'joint':>8}{'p < a':>8}   columns found, "
            "seconds a window; p < a: a column is significant, large or not"
        )
        for case in cases_of(table, test, policy, arguments.windows):
            _say(_rates(case, model, reference, policy, table))
        _say(_live_alarms(predicted - actual, reference.test_rmse, policy))
        if arguments.log_rows and not arguments.made:
            _time_check(reference, test, predicted, arguments.log_rows)


def coded(rows: pd.DataFrame, table: Table) -> Matrix:
    """Return the features as drift compares them."""
    given = rows[list(table.feature_names)].notna().to_numpy()
    return with_unknown(table.coding.frame(rows), given, table.coding)


def _rates(
    case: Case, model: HistGradientBoostingRegressor, reference: Reference, policy: Policy, table: Table
) -> str:
    """Return a line with the shares of windows in which something, a column, or the rows as a whole drifted."""
    rng = np.random.default_rng(SEED)
    found: Counter[str] = Counter()
    start = time.perf_counter()
    for _ in range(case.windows):
        window = case.change(case.source[rng.choice(len(case.source), case.rows, replace=False)], rng)
        report = compare(reference, window, model.predict(window), policy, table)
        columns = [column["name"] for column in report["columns"] if column["drifted"]]
        found.update(["any"] * (report["status"] == "drift") + ["columns"] * bool(columns) + columns)
        found["joint"] += report["joint"]["drifted"]
        found["p < a"] += any(column["p_value"] < policy.alpha for column in report["columns"])
    seconds = (time.perf_counter() - start) / case.windows
    shares = "".join(
        f"{found[what] / case.windows:>{width}.1%}"
        for what, width in (("any", 8), ("columns", 9), ("joint", 8), ("p < a", 8))
    )
    names = " ".join(
        f"{what} {found[what] / case.windows:.0%}" for what in (*table.feature_names, "prediction") if found[what]
    )
    return f"{case.name:<32}{case.rows:>6,}{case.windows:>9}{shares}   {names or '-'}, {seconds:.2f} s"


def _live_alarms(errors: Matrix, test_rmse: float, policy: Policy) -> str:
    """Return a line with the share of undrifted windows in which the live error alone would want a retraining."""
    rng = np.random.default_rng(SEED)
    alarms = [
        live_error(errors[rng.choice(len(errors), policy.live_labels, replace=False)], test_rmse, policy)["worse"]
        for _ in range(10_000)
    ]
    return f"live error of {policy.live_labels} labels called worse without drift: {np.mean(alarms):.2%} of windows"


def _time_check(reference: Reference, test: Matrix, predicted: Matrix, log_rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        layout = Layout(Path(name))
        directory = layout.champion / "v1"
        directory.mkdir(parents=True)
        reference.save(directory / REFERENCE_FILE)
        layout.champion_pointer.write_text(json.dumps({"version": "1", "directory": "v1"}))
        start = time.perf_counter()
        _fill(layout.database, test, predicted, log_rows)
        _say(f"a log of {log_rows:,} predictions made in {time.perf_counter() - start:.0f} s")
        for _ in range(3):
            before, start = _child_cpu_seconds(), time.perf_counter()
            result = subprocess.run(
                [sys.executable, "-m", "monitoring.drift_check"],
                env=os.environ | {"STATE_DIR": name},
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.perf_counter() - start
            cpu = _child_cpu_seconds() - before
            largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000
            first = (result.stdout or result.stderr).partition("\n")[0]
            _say(f"a check as a process: {seconds:.2f} s, {cpu:.2f} s of a core, {largest:.0f} MB: {first}")


def _child_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _fill(path: Path, test: Matrix, predicted: Matrix, rows: int) -> None:
    chosen = np.random.default_rng(SEED).integers(0, len(test), rows)
    now = time.time()
    made = [
        row(f"{n:032x}", "request", now - rows + n, "1", test[i].tolist(), float(predicted[i]), 0.0, 9.0)
        for n, i in enumerate(chosen)
    ]
    with closing(Store(path).writer()) as writer:
        writer.insert(made)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
