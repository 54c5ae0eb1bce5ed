"""Judge the version in the shadow by labels of requests: ``python -m pipeline.shadow_verdict``.

With PROMOTE=shadow the drift monitor runs it when a look is due, when time is over, or when the version cannot score.
It promotes, rejects, or notes that it has looked. Exit codes: 0 done, 1 it cannot be, 3 a retraining runs.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.gate import Decision, Held, judge_shadow
from pipeline.mlflow_runs import configure_client
from pipeline.promote import NotPossibleError, promote
from pipeline.serving_version import find_serving_version
from pipeline.version_tags import REJECTED_IN_SHADOW, leave_the_shadow, write_decision
from tableloop.credentials import NoPasswordError
from tableloop.mlflow_http import is_healthy
from tableloop.settings import RegistrySettings
from tableloop.state import shadows
from tableloop.state.database import PROMOTED, Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock
from tableloop.state.shadow_evidence import Due, evidence, verdict_due
from tableloop.table import params_file


def judge(client: MlflowClient, store: Store, settings: RegistrySettings, params: dict[str, Any]) -> str:
    """Look at the evidence, act on it, and return in words what came of it; the caller holds the lock.

    ``params`` are those of the table, of which the gate's are used.
    """
    model = settings.model_name
    shadow = shadows.current(store, model)
    serving = find_serving_version(client, store, settings)
    if shadow is None or serving is None:
        return "no version is in the shadow of another one"
    number = shadow.version
    if (serving.version, serving.run_id) == (number, shadow.run_id):
        leave_the_shadow(client, store, model, number, outcome=PROMOTED, reason="it serves")
        return f"version {number} serves and leaves the shadow"
    least, share = params["preprocess"]["gate_rows"], params["preprocess"].get("gate_share", 1.0)
    found = evidence(store, shadow, serving.version, share)
    due = verdict_due(shadow, len(found), least, settings.shadow_days, time.time())
    if due is None:
        return f"{len(found):,} labels judge version {number} by now: no look is due"
    decision = Decision("waiting", "", None, champion_version=serving.version, decided_by="shadow")
    if len(found) >= least and due is not Due.FAILED:
        senders = Counter(row.sender for row in found)
        actual, ours, theirs = np.array([(row.actual, row.shadow, row.prediction) for row in found]).T
        held = Held(actual, ours, theirs, senders)
        decision = judge_shadow(held, serving.version, shadow.looks, params["register"]["tolerance"])
    if decision.gate == "waiting" and due is Due.LOOK:
        shadows.note_look(store, shadow)
        return f"version {number} stays in the shadow: {decision.reason}"
    if decision.gate == "waiting":
        decision = replace(decision, gate="rejected", reason=_why(due, shadow, len(found), settings, decision.reason))
    if decision.gate == "promoted":
        try:
            promote(client, store, settings, number, decision=decision)
        except NotPossibleError as error:
            decision = replace(decision, gate="rejected", reason=f"{error}. Otherwise promoted: {decision.reason}")
        else:
            return f"version {number} serves instead of {serving.version}: {decision.reason}"
    write_decision(client, model, number, decision)
    client.set_model_version_tag(model, number, REJECTED_IN_SHADOW, f"in the shadow: {decision.reason}")
    leave_the_shadow(client, store, model, number, outcome="rejected", reason=decision.reason)
    return f"version {number} is rejected: {decision.reason}"


def _why(due: Due, shadow: shadows.Shadow, labels: int, settings: RegistrySettings, said: str) -> str:
    """Return why a version is rejected without labels that are against it."""
    if due is Due.FAILED:
        return f"it could not score requests, {shadow.failures} times in a row: {shadow.problem}"
    so_far = said or f"{labels:,} labels have come"
    return f"SHADOW_DAYS={settings.shadow_days:g} are over and do not say that it is no worse: {so_far}"


def main() -> int:
    """Judge once, and return the exit code."""
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
