"""Have the version in the shadow score what was asked for since, and labels judge it; see `monitoring.shadow_check`.

New predictions are read from the store, and what the version says of the same rows is written beside them; under load
the oldest of them are left out. With PROMOTE=shadow labels judge it when there are enough.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor
from http.client import HTTPException
from pathlib import Path
from typing import Final

# Read when these libraries are loaded: one core, not all.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import yaml

from app.champion import Matrix, Version, tried
from app.model_loader import MlflowRegistry
from monitoring.drift_monitor import LEFT_THE_SHADOW
from tableloop.settings import Settings
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.shadow_evidence import MOST_FAILURES, evidence, verdict_due
from tableloop.state.shadows import Shadow, Value
from tableloop.table import load_table, params_file

MOST_ROWS: Final = 2_000  # scored at a look, the newest
ROWS_PER_COMMIT: Final = 500  # some milliseconds, for which predictions may have to wait in SQLite
PAUSE_SECONDS: Final = 0.25  # between commits, which are few: each may delay those who ask at that moment
VERDICT: Final = (sys.executable, "-m", "pipeline.shadow_verdict")


def look(settings: Settings, writer: Executor) -> int:
    """Score what is new, judge if that is due, and return the exit code of `monitoring.shadow_check`.

    Whatever is written to the store is written by ``writer``.

    Raises
    ------
    StoreError
    """
    registry, model, store = MlflowRegistry(settings, shadows.ALIAS), settings.model_name, Store.of(settings)
    directory = Layout(settings.state_dir).shadow
    seen = next(iter(shadows.history(store, model, 1)), None)
    before = seen if seen is not None and seen.ended_at is None else None
    serving = store.serving_champion(model)
    try:
        found = registry.find()
    except (OSError, HTTPException, ValueError, KeyError):  # what the store says holds
        found = None if before is None else Version(before.version, before.run_id, None)
    if serving is None:
        return 0
    if found is None:
        shutil.rmtree(directory, ignore_errors=True)
        if before is None:
            return 0
        writer.submit(shadows.end, store, model, shadows.WITHDRAWN, "the alias was taken from it").result()
        return _left(before)
    if (found.version, found.run_id) == (serving.version, serving.run_id):
        return 0 if before is None else _verdict(store, writer, before)
    begun = writer.submit(shadows.begin_unless_changed, store, model, found.version, found.run_id, seen)
    shadow: Shadow | None = begun.result()
    if shadow is None:  # somebody has decided meanwhile
        return 0
    if before is None or before.id != shadow.id:
        _say(f"version {shadow.version} is in the shadow: it scores what version {serving.version} answers")
    _keep(store, writer, shadow, _new_values(store, writer, registry, shadow, directory))
    is_due = settings.promote == "shadow" and _is_due(settings, store, serving.version)
    return _verdict(store, writer, shadow) if is_due else 0


def _verdict(store: Store, writer: Executor, shadow: Shadow) -> int:
    """Have it judged, and return the exit code; by the thread that writes, as a verdict has its priority."""
    code = writer.submit(subprocess.run, VERDICT, check=False).result().returncode
    return _left(shadow) if code == 0 and shadows.current(store, shadow.model) is None else 0


def _is_due(settings: Settings, store: Store, champion: str) -> bool:
    """Return whether the version in the shadow is to be judged now."""
    shadow = shadows.current(store, settings.model_name)
    if shadow is None:
        return False
    gate = yaml.safe_load(params_file().read_text())["preprocess"]
    labels = len(evidence(store, shadow, champion, gate.get("gate_share", 1.0)).rows)
    return verdict_due(shadow, labels, gate["gate_rows"], settings.shadow_days, time.time()) is not None


def _new_values(
    store: Store, writer: Executor, registry: MlflowRegistry, shadow: Shadow, directory: Path
) -> list[Value]:
    """Return what a version says of the newest predictions that it has not scored; nothing where it cannot score."""
    made = store.newest_predictions(MOST_ROWS, after=shadow.scored_to)[::-1]
    if not made:
        return []
    try:
        files = _fetched(registry, shadow, directory)
    except (OSError, HTTPException, ValueError, KeyError) as error:  # no fault of the version
        _say(f"version {shadow.version} in the shadow cannot be fetched now: {error}")
        return []
    coded = load_table().coding.rows([row.features for row in made])
    # Noted first: one that kills this process has failed.
    writer.submit(
        shadows.note_problem, store, shadow, shadow.failures + 1, "its process was killed, or took too long"
    ).result()
    try:
        scored = _scored(registry, shadow, files, coded)
    except (OSError, MemoryError) as error:  # no fault of the version either
        writer.submit(shadows.note_problem, store, shadow, shadow.failures, str(error)).result()
        return []
    except Exception as error:  # whatever its files hold
        problem = " ".join(str(error).split())[:300] or type(error).__name__
        writer.submit(shadows.note_problem, store, shadow, shadow.failures + 1, problem).result()
        if problem != shadow.problem:
            _say(f"version {shadow.version} in the shadow cannot score: {problem}")
        return []
    values = [Value(row.id, *numbers) for row, numbers in zip(made, scored.tolist(), strict=True)]
    if all(map(_is_finite, values)):
        writer.submit(shadows.note_problem, store, shadow, 0, "").result()
    else:  # which it would answer, too: that is enough to know
        said = "it predicts values that are not finite"
        writer.submit(shadows.note_problem, store, shadow, MOST_FAILURES, said).result()
    return values


def _keep(store: Store, writer: Executor, shadow: Shadow, values: list[Value]) -> None:
    """Write values, less what is no number, in small parts: predictions are written meanwhile."""
    for start in range(0, len(values), ROWS_PER_COMMIT):
        part = values[start : start + ROWS_PER_COMMIT]
        finite = [value for value in part if _is_finite(value)]
        writer.submit(shadows.add_values, store, shadow, finite, part[-1].id).result()
        time.sleep(PAUSE_SECONDS)


def _is_finite(value: Value) -> bool:
    return math.isfinite(value.value + value.low + value.high)


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


def _left(shadow: Shadow) -> int:
    _say(f"version {shadow.version} has left the shadow")
    return LEFT_THE_SHADOW


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
