"""One look at the newest predictions: ``python -m monitoring.drift_check [--json]``.

Exit codes: 0 no drift, 1 drift, 2 nothing can be said (too few predictions, no version, a file that cannot be read).
It reads the store by its primary keys, so its time does not depend on how many predictions there are.

The drift monitor runs it with ``--retraining``, as a process of its own: what scikit-learn and SQLAlchemy take in
memory goes when it ends. Then it also decides what follows, keeps that in the store, and tells the monitor as JSON:
"says" in words, "start" (why a retraining is to be started, or null), "trigger" (what it is started by), "again_at"
(unix seconds, when a check is due though nothing is new, or null), "shadow" (whether a version is in the shadow) and
"ended" (how the monitor's retraining ended, if it did).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from http.client import HTTPException
from typing import Any

# Read when OpenMP is loaded: a check in the background takes one core, not all.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml

from monitoring.drift_decision import Memory, after_retraining, decide, iso, on_schedule
from tableloop.drift.levels import with_unknown
from tableloop.drift.reference import REFERENCE_FILE, Reference
from tableloop.drift.report import as_text
from tableloop.drift.statistics import Matrix, Policy, compare, live_error
from tableloop.mlflow_http import has_alias
from tableloop.model.coding import Coding
from tableloop.schedule import next_time
from tableloop.settings import Settings, load_settings
from tableloop.state import shadows
from tableloop.state.database import Predicted, Retraining, Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.local_copy import local_copy
from tableloop.state.locks import BUSY
from tableloop.table import load_table, params_file

EXIT_CODES = {"no drift": 0, "drift": 1}
UNKNOWN = 2
NEWEST_LABELS = 500  # of the serving version, among so many times ten of all versions
LOCK_TIMEOUT_SECONDS = 5.0
NEWEST_RETRAININGS = 100  # among which the last one is that is no first training


class NothingToSayError(Exception):
    """There is nothing to compare, or nothing to compare it with; the message says what is missing."""


def check(store: Store, layout: Layout, policy: Policy) -> dict[str, Any]:
    """Return the report on the newest predictions, whatever the store and the files hold."""
    report: dict[str, Any] = {
        "checked_at": iso(time.time()),
        "version": None,
        "policy": asdict(policy),
        "window": {"rows": 0, "last_id": 0},
        "new_labels": 0,
        "live": None,
    }
    try:
        window = _window(store, policy.window)
        report["window"] = {
            "rows": len(window),
            "last_id": window[0].id,
            "first_at": iso(window[-1].requested_at),
            "last_at": iso(window[0].requested_at),
        }
        report["new_labels"] = store.count_unused_labels()
        version, reference = _reference(layout)
        report["version"] = version
        errors, inside = _newest_errors(store, version)
        report["live"] = live_error(errors, reference.test_rmse, policy) | {"inside_interval": inside}
    except (NothingToSayError, StoreError) as problem:
        summary = str(problem) if isinstance(problem, NothingToSayError) else f"{store.place}: {problem}"
        return report | {"status": "not enough data", "summary": summary, "columns": [], "joint": None}
    coding = Coding(reference.columns, reference.kinds)
    given = np.array([[value is not None for value in made.features] for made in window])
    rows = with_unknown(coding.rows([made.features for made in window]), given, coding)
    predictions: Matrix = np.array([made.prediction for made in window if made.model_version == version])
    return report | compare(reference, rows, predictions, policy, load_table())


def look(settings: Settings, retraining: str) -> dict[str, Any]:
    """Check, decide, keep both in the store, and return what the monitor has to do.

    ``retraining`` is "running" while one of the monitor's does, the exit code of one that has ended since the last
    check, or "none".

    Raises
    ------
    StoreError
    """
    layout = Layout(settings.state_dir)
    store = Store.of(settings, timeout=LOCK_TIMEOUT_SECONDS)
    now = time.time()
    _renew_copy(settings)
    code = int(retraining) if retraining not in {"running", "none"} else None
    memory = Memory.of(store.monitor_memory())
    if retraining != "running":
        memory = after_retraining(memory, code, now)
    report = check(store, layout, load_policy())
    history = store.retrainings(NEWEST_RETRAININGS)
    last = next((item.ended_at for item in history if item.trigger != "start" and item.ended_at), None)
    if settings.log_retention_days:  # what a version said in the shadow goes with the predictions that it is of
        shadows.forget_values(store, now - settings.log_retention_days * 86_400)
    shadow = shadows.current(store, settings.model_name)
    judging = shadow.version if shadow is not None and settings.promote == "shadow" else None
    on = settings.retrain_on_drift
    decision = decide(memory, report, now=now, last_retraining=last, on=on, judging=judging)
    due = _due(settings.retrain_every, history, memory)
    decision = on_schedule(decision, settings.retrain_every, due, now, judging)
    memory = decision.memory
    if decision.start is not None:
        # In the store first: whoever is started after a kill knows that there was one.
        memory = replace(memory, retraining_since=now, retraining_reason=decision.start)
    monitor = {
        "looked_at": iso(now),
        "says": decision.says,
        "windows": memory.windows,
        "waits_for": decision.waits_for,
        "pauses_until": None if decision.pauses_until is None else iso(decision.pauses_until),
        "retraining": decision.start is not None,
        "retrain_on_drift": settings.retrain_on_drift,
        "promote": settings.promote,
    }
    store.add_drift_report(report | {"monitor": monitor}, asdict(memory))
    ended = "" if code is None else f"exit code {code}"
    if code == BUSY:
        ended = "another retraining runs: tries again later"
    elif ended and history:
        ended = f"the retraining has ended: {history[0].outcome}, {history[0].reason}"
    if judging is not None and shadow is not None:
        due = shadow.began_at + settings.shadow_days * 86_400  # the verdict comes first
    times = [at for at in (decision.pauses_until, due if decision.start is None else None) if at is not None]
    return {
        "says": decision.says,
        "start": decision.start,
        "trigger": decision.trigger,
        "again_at": min(times, default=None),
        "shadow": shadow is not None or _names_a_shadow(settings),
        "ended": ended,
    }


def _due(schedule: str, history: list[Retraining], memory: Memory) -> float | None:
    """Return when the schedule asks for the next retraining; None without one, and before the first training."""
    last = [item.ended_at or item.started_at for item in history[:1]]  # one that was killed has no end
    last += [memory.tried_at] if memory.tried_at is not None else []
    return next_time(schedule, max(last)) if schedule and last else None


def _names_a_shadow(settings: Settings) -> bool:
    """Return whether somebody has given a version the alias by hand, as far as the registry answers."""
    uri, login = settings.mlflow_tracking_uri, settings.registry_login
    try:
        return has_alias(uri, settings.model_name, shadows.ALIAS, login=login)
    except (OSError, HTTPException, ValueError, KeyError):
        return False


def load_policy() -> Policy:
    """Return the section ``drift`` of the table's params.yaml."""
    return Policy(**yaml.safe_load(params_file().read_text())["drift"])


def _renew_copy(settings: Settings) -> None:
    """Fetch the version that serves where this disk is ours alone: else the service keeps a copy of it here."""
    if not settings.artifacts_uri:
        return
    from monitoring.champion_copy import renew_copy  # noqa: PLC0415 - the parts of the service

    renew_copy(settings)


def _window(store: Store, rows: int) -> list[Predicted]:
    if window := store.newest_predictions(rows):
        return window
    raise NothingToSayError("nothing was predicted yet")


def _newest_errors(store: Store, version: str) -> tuple[Matrix, float | None]:
    """Return the errors of the version's newest labelled predictions, and the share inside their intervals."""
    newest = store.newest_labelled(NEWEST_LABELS, version, among=10 * NEWEST_LABELS)
    if not newest:
        return np.empty(0), None
    inside = sum(made.low <= made.actual_value <= made.high for made in newest)
    return np.array([made.prediction - made.actual_value for made in newest]), inside / len(newest)


def _reference(layout: Layout) -> tuple[str, Reference]:
    """Return the version that serves and its reference, from the service's copy of it."""
    try:
        copy = local_copy(layout)
    except ValueError as error:
        raise NothingToSayError(str(error)) from None
    if copy is None:
        raise NothingToSayError("no version of the model serves yet")
    try:
        return copy.version, Reference.load(copy.directory / REFERENCE_FILE, load_table().feature_names)
    except FileNotFoundError:
        raise NothingToSayError(f"version {copy.version} has no {REFERENCE_FILE}: retrain to get one") from None
    except (OSError, ValueError) as error:
        raise NothingToSayError(f"the drift reference of version {copy.version} cannot be read: {error}") from None


def main() -> int:
    """Print a report and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare the newest predictions with what the model was made from.")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--retraining", metavar="CODE", help="for the drift monitor, see above")
    arguments = parser.parse_args()
    settings = load_settings()
    if arguments.retraining:
        sys.stdout.write(json.dumps(look(settings, arguments.retraining)) + "\n")
        return 0
    _renew_copy(settings)
    report = check(Store.of(settings, timeout=LOCK_TIMEOUT_SECONDS), Layout(settings.state_dir), load_policy())
    sys.stdout.write(json.dumps(report, allow_nan=False) + "\n" if arguments.json else as_text(report))
    return EXIT_CODES.get(report["status"], UNKNOWN)


if __name__ == "__main__":
    sys.exit(main())
