"""One look at the newest predictions: ``python -m monitoring.drift_check [--json]``.

Exit codes: 0 no drift, 1 drift, 2 nothing can be said (too few predictions, no version, a file that cannot be read).
It reads the prediction log by its primary key, so its time does not depend on the length of the log. The drift
monitor runs it as a process of its own: what scikit-learn takes in memory goes when it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Read when OpenMP is loaded: a check in the background takes one core, not all.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml

from tableloop.drift.report import as_text
from tableloop.drift.statistics import REFERENCE_FILE, Matrix, Policy, Reference, compare, live_error
from tableloop.settings import load_settings
from tableloop.table import FEATURE_NAMES, load_table

PARAMS = Path(__file__).resolve().parent.parent / "params.yaml"
EXIT_CODES = {"no drift": 0, "drift": 1}
UNKNOWN = 2
NEWEST_LABELS = 500  # of the serving version, among so many times ten of all versions
LOCK_TIMEOUT_SECONDS = 5.0


class NothingToSayError(Exception):
    """There is nothing to compare, or nothing to compare it with; the message says what is missing."""


def check(state_dir: Path, policy: Policy) -> dict[str, Any]:
    """Return the report on the newest predictions under ``state_dir``, whatever its files hold."""
    report: dict[str, Any] = {
        "checked_at": _iso(datetime.now(UTC).timestamp()),
        "version": None,
        "policy": asdict(policy),
        "window": {"rows": 0, "last_id": 0},
        "new_labels": 0,
        "live": None,
    }
    database = state_dir / "predictions.db"
    try:
        with closing(_open(database)) as connection:
            window = _newest(connection, policy.window)
            report["window"] = _describe(window)
            report["new_labels"] = _new_labels(connection)
            version, reference = _reference(state_dir / "champion")
            report["version"] = version
            errors, inside = _newest_errors(connection, version)
            report["live"] = live_error(errors, reference.test_rmse, policy) | {"inside_interval": inside}
    except (NothingToSayError, sqlite3.Error) as problem:
        summary = str(problem) if isinstance(problem, NothingToSayError) else f"{database}: {problem}"
        return report | {"status": "not enough data", "summary": summary, "columns": [], "joint": None}
    rows = np.array([row[3:-1] for row in window], dtype=np.float64).reshape(len(window), len(FEATURE_NAMES))
    predictions: Matrix = np.array([row[-1] for row in window if row[2] == version], dtype=np.float64)
    return report | compare(reference, rows, predictions, policy, load_table())


def load_policy() -> Policy:
    """Return the section ``drift`` of params.yaml."""
    return Policy(**yaml.safe_load(PARAMS.read_text())["drift"])


def _open(database: Path) -> sqlite3.Connection:
    if not database.exists():
        raise NothingToSayError("nothing was predicted yet")
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=LOCK_TIMEOUT_SECONDS)


def _newest(connection: sqlite3.Connection, limit: int) -> list[tuple[Any, ...]]:
    """Return id, time, version, features and prediction of the newest rows, the newest first."""
    query = (
        f"SELECT id, requested_at, model_version, {', '.join(FEATURE_NAMES)}, prediction"  # noqa: S608 - constants
        " FROM predictions ORDER BY id DESC LIMIT ?"
    )
    return connection.execute(query, (limit,)).fetchall()


def _describe(window: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    if not window:
        return {"rows": 0, "last_id": 0}
    newest, oldest = window[0], window[-1]
    return {"rows": len(window), "last_id": newest[0], "first_at": _iso(oldest[1]), "last_at": _iso(newest[1])}


def _new_labels(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM feedback WHERE batch IS NULL").fetchone()
    return int(count)


def _newest_errors(connection: sqlite3.Connection, version: str) -> tuple[Matrix, float | None]:
    """Return the errors of the version's newest labelled predictions, and the share inside their intervals."""
    query = """
        SELECT prediction - actual_value, low <= actual_value AND actual_value <= high
        FROM (SELECT prediction_id, actual_value, id AS label_id FROM feedback ORDER BY id DESC LIMIT ?)
        JOIN predictions USING (prediction_id) WHERE model_version = ? ORDER BY label_id DESC LIMIT ?"""
    rows = connection.execute(query, (10 * NEWEST_LABELS, version, NEWEST_LABELS)).fetchall()
    if not rows:
        return np.empty(0), None
    errors, inside = np.array(rows, dtype=np.float64).T
    return errors, float(inside.mean())


def _reference(champion: Path) -> tuple[str, Reference]:
    """Return the version that serves and its reference, from the service's copy of it."""
    try:
        pointer = json.loads((champion / "current.json").read_text())
        version, directory = str(pointer["version"]), champion / pointer["directory"]
    except FileNotFoundError:
        raise NothingToSayError("no version of the model serves yet") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NothingToSayError(f"{champion / 'current.json'} cannot be read: {error}") from None
    try:
        return version, Reference.load(directory / REFERENCE_FILE, FEATURE_NAMES)
    except FileNotFoundError:
        raise NothingToSayError(f"version {version} has no {REFERENCE_FILE}: retrain to get one") from None
    except (OSError, ValueError) as error:
        raise NothingToSayError(f"the drift reference of version {version} cannot be read: {error}") from None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def main() -> int:
    """Print a report and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare the newest predictions with what the model was made from.")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    arguments = parser.parse_args()
    report = check(load_settings().state_dir, load_policy())
    sys.stdout.write(json.dumps(report, allow_nan=False) + "\n" if arguments.json else as_text(report))
    return EXIT_CODES.get(report["status"], UNKNOWN)


if __name__ == "__main__":
    sys.exit(main())
