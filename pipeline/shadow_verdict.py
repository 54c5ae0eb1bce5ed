"""Judge the version in the shadow by labels of requests: ``python -m pipeline.shadow_verdict``.

With PROMOTE=shadow the drift monitor runs it when a look is due, when time is over, or when the version cannot score.
It promotes, rejects, or notes that it has looked. Exit codes: 0 done, 1 it cannot be, 3 a retraining runs.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any, Final

import numpy as np
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.gate import Decision, Held, decide_unscored, judge_shadow
from pipeline.mlflow_runs import configure_client, find_version
from pipeline.promote import NotPossibleError, promote
from pipeline.serving_version import ServingVersion, find_serving_version
from pipeline.version_tags import REJECTED_IN_SHADOW, challenger_of, leave_the_shadow, write_decision
from tableloop.credentials import NoPasswordError
from tableloop.mlflow_http import is_healthy
from tableloop.settings import RegistrySettings
from tableloop.state import shadows
from tableloop.state.database import PROMOTED, Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock
from tableloop.state.shadow_evidence import Due, Evidence, evidence, verdict_due
from tableloop.state.shadows import Shadow
from tableloop.table import params_file

LONGEST_SECONDS: Final = 240


def judge(client: MlflowClient, store: Store, settings: RegistrySettings, params: dict[str, Any]) -> str:
    """Look at the evidence, act on it, and return in words what came of it; the caller holds the lock.

    ``params`` are those of the table, of which the gate's are used.
    """
    model = settings.model_name
    shadow = shadows.current(store, model)
    serving = find_serving_version(client, store, settings)
    version = find_version(client, model, shadows.ALIAS)
    if shadow is None or serving is None or version is None or not _same(version, shadow):
        return "no version is in the shadow of another one"
    number = shadow.version
    if _same(serving, shadow):
        leave_the_shadow(client, store, model, number, outcome=PROMOTED, reason="it serves")
        return f"version {number} serves and leaves the shadow"
    share = params["preprocess"].get("gate_share", 1.0)
    found = evidence(store, shadow, serving.version, share)
    decision = _decide(shadow, version, found, champion=serving.version, settings=settings, params=params)
    if decision is None:
        return f"{found} to judge version {number}: no look is due"
    if decision.gate == "waiting":
        shadows.note_look(store, shadow, len(found.rows))
        return f"version {number} stays in the shadow: {decision.reason}"
    for_good = decision.decided_by == "shadow"
    if decision.gate == "promoted":
        try:
            promote(client, store, settings, number, decision=decision)
        except NotPossibleError as error:
            for_good = False
            decision = replace(decision, gate="rejected", reason=f"{error}. Otherwise promoted: {decision.reason}")
        else:
            return f"version {number} serves instead of {serving.version}: {decision.reason}"
    write_decision(client, version, decision)
    if for_good:
        client.set_model_version_tag(model, number, REJECTED_IN_SHADOW, f"in the shadow: {decision.reason}")
    leave_the_shadow(client, store, model, number, outcome="rejected", reason=decision.reason)
    return f"version {number} is rejected: {decision.reason}"


def _same(one: ModelVersion | ServingVersion, shadow: Shadow) -> bool:
    """Return whether this is the version in the shadow; the same number may be another run's, of another registry."""
    return (one.version, one.run_id) == (shadow.version, shadow.run_id)


def _decide(
    shadow: Shadow,
    version: ModelVersion,
    found: Evidence,
    *,
    champion: str,
    settings: RegistrySettings,
    params: dict[str, Any],
) -> Decision | None:
    """Return what becomes of the version, "waiting" where a look did not decide; None where none is due."""
    if refused := decide_unscored(challenger_of(version, math.nan), champion):
        return replace(refused, challenger_rmse=None)
    least = params["preprocess"]["gate_rows"]
    due = verdict_due(shadow, len(found.rows), least, settings.shadow_days, time.time())
    if due is None:
        return None
    decision = Decision("waiting", str(found), None, champion_version=champion)
    if len(found.rows) >= least and due is not Due.FAILED:
        actual, ours, theirs = np.array([(row.actual, row.shadow, row.prediction) for row in found.rows]).T
        held = Held(actual, ours, theirs, Counter(row.sender for row in found.rows))
        decision = judge_shadow(held, champion, shadow.looks, params["register"]["tolerance"])
    if decision.gate != "waiting" or due is Due.LOOK:
        return decision
    if due is Due.FAILED:
        reason = f"it could not score requests: {shadow.problem}"
        return replace(decision, gate="rejected", reason=reason, decided_by="shadow")
    # Where no label counted, nothing was said against it: it may come back.
    reason = f"SHADOW_DAYS={settings.shadow_days:g} are over and do not say that it is no worse: {decision.reason}"
    return replace(decision, gate="rejected", reason=reason, decided_by="shadow" if found.rows else None)


def main() -> int:
    """Judge once, and return the exit code."""
    signal.alarm(LONGEST_SECONDS)  # a registry that hangs must not hold the lock of retrainings for ever
    settings = RegistrySettings()
    if not is_healthy(settings.mlflow_tracking_uri):
        sys.stderr.write(f"{settings.registry} does not answer\n")
        return 1
    try:
        configure_client(settings)
        store = Store.of(settings)
        url = settings.database_url.get_secret_value()
        with retraining_lock(Layout(settings.state_dir), "the verdict on the shadow", database_url=url):
            said = judge(MlflowClient(), store, settings, yaml.safe_load(params_file().read_text()))
    except (BusyError, StoreError, NoPasswordError, MlflowException, OSError) as error:
        sys.stderr.write(f"the version in the shadow is not judged now: {' '.join(str(error).split())[:600]}\n")
        return BUSY if isinstance(error, BusyError) else 1
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
