"""Third stage: log the runs to MLflow, register the best of them, and move the alias if it passes the gate.

It may run any number of times: what the server has already is found by its fingerprint and left alone. So outputs
that DVC restored from its cache, a fresh server and an earlier run that was killed all end the same.

`pipeline.gate` decides; this module reads what the decision needs and writes what follows from it.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from loguru import logger
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from sklearn.metrics import root_mean_squared_error
from skops import io as skops_io

from pipeline.gate import (
    Decision,
    Forced,
    Held,
    Limits,
    NotScored,
    Scores,
    ask_first,
    decide,
    decide_unscored,
    try_first,
)
from pipeline.mlflow_runs import (
    Candidate,
    Lineage,
    LoggedRun,
    answered,
    as_datasets,
    configure_client,
    ensure_experiment,
    ensure_model,
    ensure_version,
    find_run,
    find_version,
    flatten,
    log_candidate,
    read_lineage,
)
from pipeline.model_card import (
    comparison,
    describe_model,
    describe_run,
    describe_version,
    experiment_tags,
    model_tags,
)
from pipeline.parts import read_batches, read_part, read_parts
from pipeline.serving_version import ServingVersion, find_serving_version, open_serving_version, predict_batches
from pipeline.stage_runner import FORCED, MODELS, REPORTS, StageError, best_of, load_params, run_stage
from pipeline.version_tags import (
    REPLACED,
    challenger_of,
    leave_the_shadow,
    put_in_shadow,
    write_decision,
)
from tableloop.mlflow_http import wait_until_healthy
from tableloop.model.conformal import ConformalRegressor
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.model_process import ModelProcess, ModelProcessError
from tableloop.senders import NO_SENDER
from tableloop.settings import RegistrySettings
from tableloop.signing import SigningKey
from tableloop.state.database import PROMOTED, Store
from tableloop.table import load_table
from tableloop.version_files import VersionFilesError


def main() -> None:
    """Log, register, decide; write reports/registration.json."""
    settings = RegistrySettings()
    params = load_params()
    if not wait_until_healthy(settings.mlflow_tracking_uri):
        raise StageError(f"{settings.registry} does not answer")
    configure_client(settings)
    client = MlflowClient()
    model, alias = settings.model_name, settings.model_alias
    experiment = params["register"]["experiment"]
    experiment_id = ensure_experiment(client, experiment, lambda made: experiment_tags(load_table(), model, made))
    metrics = json.loads((REPORTS / "metrics.json").read_text())
    lineage = read_lineage()
    parts = read_parts(params["train"]) | {"feedback": read_part("feedback")}

    best = best_of(metrics)
    candidates = {name: _read_candidate(name, params, metrics[name], refitted=name == best) for name in metrics}
    key = SigningKey.load(settings)
    runs = _log_missing(client, experiment_id, candidates, lineage=lineage, parts=parts, key=key)
    table = load_table()
    ensure_model(client, model, model_tags(table), describe_model(table, model, alias, experiment_id))
    until = _trained_until(parts["feedback"])
    version = ensure_version(client, model, candidates[best], run=runs[best], lineage=lineage, tags=until)
    _describe_version(client, version, experiment_id, candidate=candidates[best], lineage=lineage, parts=parts)

    store = Store.of(settings)
    champion = find_serving_version(client, store, settings)
    serves = champion is not None and (champion.version, champion.run_id) == (version.version, version.run_id)
    challenger = challenger_of(version, metrics[best]["test_rmse"], serves=serves)
    scores = None
    if champion is not None and decide_unscored(challenger, champion.version) is None:
        least = params["preprocess"]["gate_rows"]
        scores = _score(client, champion, _read_model(best), settings=settings, parts=parts, least=least)
    serving = champion.version if champion else None
    limits = Limits(params["register"]["tolerance"], params["register"]["most_fall"])
    forced = _read_forced()
    decision = decide(challenger, serving, scores, limits, forced)
    if settings.promote == "ask" and forced is None:
        decision = ask_first(decision, version.version)
    elif settings.promote == "shadow" and forced is None:
        decision = try_first(decision, limits, params["preprocess"]["gate_rows"])
    _apply(client, store, version, alias=alias, decision=decision, champion=champion)
    if decision.gate == "promoted":
        store.record_serving(model, version.version, version.run_id, PROMOTED, decision.reason)
    serving = version.version if decision.gate == "promoted" else serving
    report = {
        "model": model,
        "version": version.version,
        "run_id": runs[best].run_id,
        "candidate": best,
        **asdict(decision),
        "serving_version": serving,
    }
    (REPORTS / "registration.json").write_text(json.dumps(report, indent=2) + "\n")
    if serving is None:
        raise StageError(
            f"version {version.version} ({best}) is {decision.gate} and no other serves: {decision.reason}"
        )
    logger.info(
        "{} is version {} of {}, {}: {}. Version {} serves.",
        best, version.version, model, decision.gate, decision.reason, serving,
    )  # fmt: skip


def _log_missing(
    client: MlflowClient,
    experiment_id: str,
    candidates: dict[str, Candidate],
    *,
    lineage: Lineage,
    parts: dict[str, pd.DataFrame],
    key: SigningKey,
) -> dict[str, LoggedRun]:
    """Return the run of each candidate, after logging those that the server lacks."""
    runs = {}
    for name, candidate in candidates.items():
        if known := find_run(client, experiment_id, candidate.fingerprint(lineage)):
            runs[name] = known
    logger.info("{} of {} runs are on the server already", len(runs), len(candidates))
    missing = [name for name in candidates if name not in runs]
    datasets = as_datasets(_used(parts)) if missing else {}
    for name in missing:
        start = time.perf_counter()
        runs[name] = log_candidate(
            client,
            experiment_id,
            candidates[name],
            model=_read_model(name),
            lineage=lineage,
            datasets=datasets,
            note=describe_run(candidates[name]),
            key=key,
        )
        logger.info("{:<24} logged in {:.2f} s", name, time.perf_counter() - start)
    return runs


def _read_model(name: str) -> ConformalRegressor:
    model: ConformalRegressor = skops_io.load(MODELS / f"{name}.skops", trusted=list(TRUSTED_TYPES))
    return model


def _used(parts: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the parts with the labels divided into "feedback", trained on, and "gate", held out."""
    labels = parts["feedback"]
    divided = {"feedback": labels[_is_trained_on(labels)], "gate": labels[labels["part"] == "gate"]}
    return parts | {name: rows.reset_index(drop=True) for name, rows in divided.items()}


def _is_trained_on(labels: pd.DataFrame) -> pd.Series[bool]:
    return labels["part"].isin(["train", "validation"])


def _read_candidate(name: str, params: dict[str, Any], metrics: dict[str, float], *, refitted: bool) -> Candidate:
    timing = json.loads((REPORTS / "timings.json").read_text())[name]
    train = params["train"]
    own = {
        "preprocess": params["preprocess"],
        **{key: value for key, value in train.items() if key != "candidates"},
        name: train["candidates"][name] or {},
        # Part of its fingerprint: with other rivals the same candidate may not win, and is then another model.
        "fitted_on": "train and validation" if refitted else "train",
    }
    limits = json.loads((REPORTS / "limits.json").read_text()) if refitted else None
    return Candidate(
        name=name,
        params=flatten(own),
        metrics=metrics,
        started_at=timing["started_at"],
        train_seconds=timing["train_seconds"],
        limits=limits,
    )


def _describe_version(
    client: MlflowClient,
    version: ModelVersion,
    experiment_id: str,
    *,
    candidate: Candidate,
    lineage: Lineage,
    parts: dict[str, pd.DataFrame],
) -> None:
    """Write the version's card, which needs its number, unless it has one."""
    if version.description:
        return
    gate = _used(parts)["gate"]
    run = f"[its run, with plots and parameters](#/experiments/{experiment_id}/runs/{version.run_id})"
    card = describe_version(
        load_table(),
        candidate,
        lineage,
        answered(_read_model(candidate.name), gate if len(gate) else parts["test"]),
        of_labels=len(gate) > 0,
        number=version.version,
        links=(run, f"[all candidates compared]({comparison(experiment_id)})"),
        fitted_rows=json.loads((REPORTS / "timings.json").read_text())[candidate.name]["fitted_rows"],
    )
    client.update_model_version(version.name, version.version, card)


def _trained_until(feedback: pd.DataFrame) -> dict[str, str]:
    trained = feedback[_is_trained_on(feedback)]
    return {"trained_until": repr(float(trained["predicted_at"].max()))} if len(trained) else {}


def _read_forced() -> Forced | None:
    """Return who forces this retraining and why; None when nobody does."""
    forced = os.environ.get(FORCED)
    return Forced(**json.loads(forced)) if forced else None


def _score(
    client: MlflowClient,
    champion: ServingVersion,
    challenger: ConformalRegressor,
    *,
    settings: RegistrySettings,
    parts: dict[str, pd.DataFrame],
    least: int,
) -> Scores | NotScored:
    """Return the champion's scores, predicted by its own code, on the rows that the challenger is judged by."""
    gate = _unseen_labels(parts["feedback"], champion)
    judged = len(gate) >= least
    try:
        with tempfile.TemporaryDirectory() as directory:
            files = open_serving_version(client, champion, settings, Path(directory))
            with ModelProcess(files) as process:
                rmse = root_mean_squared_error(*predict_batches(process, read_batches("test"), load_table()))
                held = predict_batches(process, [gate], load_table()) if judged else None
    except (ModelProcessError, VersionFilesError, OSError) as error:
        logger.warning("version {} could not be scored: {}", champion.version, error)
        return NotScored(str(error))
    if held is None:
        return Scores(rmse)
    senders = {str(name): int(count) for name, count in gate["sender"].fillna(NO_SENDER).value_counts().items()}
    return Scores(rmse, Held(held[0], challenger.predict(gate), held[1], senders))


def _unseen_labels(feedback: pd.DataFrame, champion: ServingVersion) -> pd.DataFrame:
    """Return the labels held out for the gate that the champion too was not trained on."""
    gate = feedback[feedback["part"] == "gate"]
    if champion.tags is None:
        return gate.head(0)  # it may have been trained on any of them
    if gate.empty or int(champion.tags.get("feedback_batches", "0")) < gate["batch"].max():
        return gate
    # Trained on the same batches, with other parameters or code: it may have held out less.
    return gate[gate["predicted_at"] > float(champion.tags.get("trained_until", "inf"))]


def _apply(
    client: MlflowClient,
    store: Store,
    version: ModelVersion,
    *,
    alias: str,
    decision: Decision,
    champion: ServingVersion | None,
) -> None:
    """Write the decision on the version, then move the alias: whoever sees it moved can read why.

    An alias that somebody deleted is given back to the version that serves.
    """
    model = version.name
    if decision.gate != "unchanged":  # what the gate said of it when it was new stays
        write_decision(client, version, decision)
    if decision.gate == "promoted":
        if decision.champion_version:
            client.set_model_version_tag(model, version.version, REPLACED, decision.champion_version)
        client.set_registered_model_alias(model, alias, version.version)
        leave_the_shadow(client, store, model, version.version, outcome=decision.gate, reason=decision.reason)
        return
    if decision.gate == "waiting":
        put_in_shadow(client, store, version)
    if champion and champion.tags is not None and find_version(client, model, alias) is None:
        client.set_registered_model_alias(model, alias, champion.version)


if __name__ == "__main__":
    run_stage(main)
