"""Have the version in the shadow score what was asked for since: ``python -m monitoring.shadow_check``.

The drift monitor runs it, as a process of its own, and the version with a low priority: whatever that does, nothing
that answers is touched. It reads new predictions from the store and writes what the version says of the same rows
beside them; under load the oldest of them are left out. With PROMOTE=shadow it also has the labels judge when these
are enough.

Exit codes: 0 done, 1 it cannot be done now, 4 the version has left the shadow.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Final, TypeVar

# Read when these libraries are loaded: one core, not all.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml

from app.champion import Matrix, Version, tried
from app.model_loader import MlflowRegistry
from tableloop.settings import Settings, load_settings
from tableloop.state import shadows
from tableloop.state.database import PROMOTED, Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.shadow_evidence import MOST_FAILURES, Due, evidence, verdict_due
from tableloop.state.shadows import Shadow, Value
from tableloop.table import load_table, params_file

T = TypeVar("T")
LEFT: Final = 4
NICE: Final = 10
MOST_ROWS: Final = 2_000  # scored at a look, the newest
# A commit takes some two milliseconds, for which predictions have to wait in SQLite: those of a half of a percent of
# the time, where looks are 15 s apart.
ROWS_PER_COMMIT: Final = 50
PAUSE_SECONDS: Final = 0.05
VERDICT: Final = (sys.executable, "-m", "pipeline.shadow_verdict")


def look(settings: Settings, store: Store) -> int:
    """Score what is new, judge if that is due, and return the exit code.

    Raises
    ------
    StoreError
    """
    registry, model = MlflowRegistry(settings, shadows.ALIAS), settings.model_name
    directory = Layout(settings.state_dir).shadow
    before = shadows.current(store, model)
    serving = store.serving_champion(model)
    try:
        found = registry.find()
    except (OSError, HTTPException, ValueError, KeyError) as error:
        if before is None:
            return _fail(f"the registry does not answer: {error}")
        found = Version(before.version, before.run_id, None)
    if serving is None:
        return 0
    serves = found is not None and (found.version, found.run_id) == (serving.version, serving.run_id)
    if found is None or serves:
        shutil.rmtree(directory, ignore_errors=True)
        if before is None:
            return 0
        outcome, reason = (PROMOTED, "it serves") if serves else (shadows.WITHDRAWN, "the alias was taken from it")
        shadows.end(store, model, outcome, reason)
        return _left(before)
    shadow = shadows.begin(store, model, found.version, found.run_id)
    if before is None or before.id != shadow.id:
        _say(f"version {shadow.version} is in the shadow: it scores what version {serving.version} answers")
    if shadow.failures < MOST_FAILURES:
        _score_new(store, registry, shadow, directory)
    if settings.promote == "shadow" and _is_due(settings, store, serving.version):
        code = subprocess.run(VERDICT, check=False).returncode
        if code == 0 and shadows.current(store, model) is None:
            return _left(shadow)
    return 0


def _is_due(settings: Settings, store: Store, champion: str) -> bool:
    """Return whether the version in the shadow is to be judged now."""
    shadow = shadows.current(store, settings.model_name)
    if shadow is None:
        return False
    gate = yaml.safe_load(params_file().read_text())["preprocess"]
    labels = len(evidence(store, shadow, champion, gate.get("gate_share", 1.0)))
    due: Due | None = verdict_due(shadow, labels, gate["gate_rows"], settings.shadow_days, time.time())
    return due is not None


def _score_new(store: Store, registry: MlflowRegistry, shadow: Shadow, directory: Path) -> None:
    """Write what a version says of the newest predictions that it has not scored."""
    made = store.newest_predictions(MOST_ROWS, after=shadow.scored_to)[::-1]
    if not made:
        return
    try:
        files = _fetched(registry, shadow, directory)
    except (OSError, HTTPException, ValueError, KeyError) as error:  # no fault of the version
        _say(f"version {shadow.version} in the shadow cannot be fetched now: {error}")
        return
    # Noted first: one that kills this process has failed.
    shadows.note_attempt(store, shadow, "its process was killed, or took too long")
    try:
        coded = load_table().coding.rows([row.features for row in made])
        values = _at_low_priority(lambda: _scored(registry, shadow, files, coded))
    except Exception as error:  # whatever its files hold
        problem = " ".join(str(error).split())[:300] or type(error).__name__
        shadows.note_attempt(store, shadow, problem)
        if problem != shadow.problem:
            _say(f"version {shadow.version} in the shadow cannot score: {problem}")
        return
    finite = [math.isfinite(sum(row)) for row in values.tolist()]
    if all(finite):
        shadows.note_scored(store, shadow)
    else:
        shadows.note_attempt(store, shadow, "it predicts values that are not finite")
    for start in range(0, len(made), ROWS_PER_COMMIT):
        part = slice(start, start + ROWS_PER_COMMIT)
        rows = [
            Value(row.id, *numbers)
            for row, numbers, sound in zip(made[part], values[part].tolist(), finite[part], strict=True)
            if sound
        ]
        shadows.add_values(store, shadow, rows, made[part][-1].id)
        time.sleep(PAUSE_SECONDS)


def _fetched(registry: MlflowRegistry, shadow: Shadow, directory: Path) -> Path:
    """Return where its files are; they are kept from look to look."""
    files = directory / f"v{shadow.version}-{shadow.run_id}"
    if not files.is_dir():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        incoming = Path(tempfile.mkdtemp(dir=directory))
        registry.download(shadow.version, incoming)
        incoming.rename(files)
    return files


def _scored(registry: MlflowRegistry, shadow: Shadow, files: Path, rows: Matrix) -> Matrix:
    """Return what it says of rows, (n, features): values and ends of their intervals, (n, 3)."""
    version = Version(shadow.version, shadow.run_id, None)
    return np.column_stack(tried(registry.load(files, version, trial=False), version, "registry").predict(rows)[:3])


def _at_low_priority(work: Callable[[], T]) -> T:
    """Return what work returns, done in a thread of low priority.

    Not all of the process has it: services would wait for one that holds a lock of the store and gets no processor.
    """

    def run() -> T:
        own = threading.get_native_id()
        with suppress(OSError):  # where threads have no priority of their own
            os.setpriority(os.PRIO_PROCESS, own, max(os.getpriority(os.PRIO_PROCESS, own), NICE))
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def _left(shadow: Shadow) -> int:
    _say(f"version {shadow.version} has left the shadow")
    return LEFT


def _fail(problem: str) -> int:
    sys.stderr.write(f"{problem}\n")
    return 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Look once, and return the exit code."""
    settings = load_settings()
    try:
        return look(settings, Store.of(settings))
    except (StoreError, OSError) as error:
        return _fail(f"the version in the shadow has not scored: {error}")


if __name__ == "__main__":
    sys.exit(main())
