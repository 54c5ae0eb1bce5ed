"""Third stage: the runs in MLflow, the best of them registered, and the alias moved if it passes the gate.

It may run any number of times: what the server has already is found by its fingerprint and left alone. So outputs
that DVC restored from its cache, a fresh server and an earlier run that was killed all end the same.

`pipeline.gate` has the rule by which the alias moves.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from loguru import logger
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.sklearn import load_model
from sklearn.metrics import root_mean_squared_error
from skops import io as skops_io

from pipeline.gate import Decision, Held, judge
from pipeline.mlflow_runs import (
    Candidate,
    Lineage,
    LoggedRun,
    answered,
    as_datasets,
    configure_client,
    find_run,
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
from pipeline.stage_runner import MODELS, PROCESSED, REPORTS, StageError, best_of, load_params, run_stage
from tableloop.mlflow_http import wait_until_healthy
from tableloop.model.conformal import as_matrix
from tableloop.model.onnx_export import NotCompilableError, write_scorer
from tableloop.model.onnx_scorer import DIRECTORY, TOLERANCE, BrokenScorerError, Scorer
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.settings import RegistrySettings
from tableloop.table import load_table

SCORER = "scorer"  # tag of a version: "passed", "failed", or "none" for a family that has none
ROLLED_BACK = "rolled_back"  # tag of a version: why its users wanted the former one again
REPLACED = "replaced_version"  # tag of a version: which one served before it
PARTS = ("train", "validation", "test", "feedback")
EXAMPLE_ROWS = 50  # kept with the scorer, so that whoever loads it can see that it still answers the same


def main() -> None:
    """Log, register, decide; write reports/registration.json."""
    settings = RegistrySettings()
    params = load_params()
    if not wait_until_healthy(settings.mlflow_tracking_uri):
        raise StageError(f"the MLflow server does not answer at {settings.mlflow_tracking_uri}")
    configure_client(settings.mlflow_tracking_uri)
    client = MlflowClient()
    experiment_id = _experiment(client, params["register"]["experiment"], settings.model_name)
    metrics = json.loads((REPORTS / "metrics.json").read_text())
    lineage = read_lineage()
    parts = {name: pd.read_parquet(PROCESSED / f"{name}.parquet") for name in PARTS}

    best = best_of(metrics)
    candidates = {name: _read_candidate(name, params, metrics[name], refitted=name == best) for name in metrics}
    runs = _log_missing(client, experiment_id, candidates, lineage, parts)
    model, alias = settings.model_name, settings.model_alias
    _describe_model(client, model, describe_model(load_table(), model, alias, experiment_id))
    version = _register(client, model, candidate=candidates[best], run=runs[best], lineage=lineage, parts=parts)
    _describe_version(client, version, experiment_id, candidate=candidates[best], lineage=lineage, parts=parts)
    champion = _serving_version(client, model, alias)
    decision = _decide(
        version,
        candidates[best],
        champion,
        parts,
        tolerance=params["register"]["tolerance"],
        least=params["preprocess"]["gate_rows"],
    )
    _apply(client, model, alias, version, decision)
    serving = _serving_version(client, model, alias)
    report = {
        "model": model,
        "version": version.version,
        "run_id": runs[best].run_id,
        "candidate": best,
        **asdict(decision),
        "serving_version": serving and serving.version,
    }
    (REPORTS / "registration.json").write_text(json.dumps(report, indent=2) + "\n")
    if serving is None:
        raise StageError(
            f"version {version.version} ({best}) is {decision.gate} and no other serves: {decision.reason}"
        )
    logger.info(
        "{} is version {} of {}, {}: {}. Version {} serves.",
        best, version.version, model, decision.gate, decision.reason, serving.version,
    )  # fmt: skip


def _experiment(client: MlflowClient, name: str, model: str) -> str:
    """Return the id of the experiment, which is made when there is none, after telling its readers what it is."""
    experiment = client.get_experiment_by_name(name)
    experiment_id = str(experiment.experiment_id if experiment else client.create_experiment(name))
    for key, value in experiment_tags(load_table(), model, experiment_id).items():
        if experiment is None or experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)
    return experiment_id


def _log_missing(
    client: MlflowClient,
    experiment_id: str,
    candidates: dict[str, Candidate],
    lineage: Lineage,
    parts: dict[str, pd.DataFrame],
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
        model = skops_io.load(MODELS / f"{name}.skops", trusted=list(TRUSTED_TYPES))
        runs[name] = log_candidate(
            client,
            experiment_id,
            candidates[name],
            model=model,
            lineage=lineage,
            datasets=datasets,
            note=describe_run(candidates[name]),
        )
        logger.info("{:<24} logged in {:.2f} s", name, time.perf_counter() - start)
    return runs


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


def _describe_model(client: MlflowClient, model: str, description: str) -> None:
    """Make the registered model when there is none, with a description that is of this code."""
    try:
        client.create_registered_model(model, model_tags(load_table()), description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if client.get_registered_model(model).description != description:
            client.update_registered_model(model, description)


def _register(
    client: MlflowClient,
    model: str,
    *,
    candidate: Candidate,
    run: LoggedRun,
    lineage: Lineage,
    parts: dict[str, pd.DataFrame],
) -> ModelVersion:
    """Return the version of this run; it is made when there is none."""
    # Not by name: MLflow's filters have no way to write one with a quote in it.
    for version in client.search_model_versions(f"run_id = '{run.run_id}'"):
        if version.name == model:
            return version
    return client.create_model_version(
        model,
        source=f"models:/{run.model_id}",
        run_id=run.run_id,
        tags=lineage.tags()
        | _trained_until(parts["feedback"])
        | _add_scorer(client, candidate, run, parts["test"])
        | {
            "family": candidate.name,
            "params_digest": candidate.params_digest(),
            "fingerprint": candidate.fingerprint(lineage),
        },
        model_id=run.model_id,
        await_creation_for=0,
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
    model = skops_io.load(MODELS / f"{candidate.name}.skops", trusted=list(TRUSTED_TYPES))
    gate = _used(parts)["gate"]
    run = f"[its run, with plots and parameters](#/experiments/{experiment_id}/runs/{version.run_id})"
    card = describe_version(
        load_table(),
        candidate,
        lineage,
        answered(model, gate if len(gate) else parts["test"]),
        of_labels=len(gate) > 0,
        number=version.version,
        links=(run, f"[all candidates compared]({comparison(experiment_id)})"),
        fitted_rows=len(parts["train"]) + len(parts["validation"]),
    )
    client.update_model_version(version.name, version.version, card)


def _trained_until(feedback: pd.DataFrame) -> dict[str, str]:
    trained = feedback[_is_trained_on(feedback)]
    return {"trained_until": repr(float(trained["predicted_at"].max()))} if len(trained) else {}


def _add_scorer(client: MlflowClient, candidate: Candidate, run: LoggedRun, test: pd.DataFrame) -> dict[str, str]:
    """Store the compiled scorer beside the model if it answers as the model does; return the version's tags of it."""
    model = skops_io.load(MODELS / f"{candidate.name}.skops", trusted=list(TRUSTED_TYPES))
    rows = as_matrix(test, model.columns)
    with tempfile.TemporaryDirectory() as directory:
        try:
            write_scorer(model, rows[:EXAMPLE_ROWS], Path(directory) / DIRECTORY)
        except NotCompilableError as error:
            return {SCORER: "none", "scorer_reason": str(error)}
        try:
            scorer = Scorer.load(Path(directory) / DIRECTORY)
            difference = scorer.difference(rows, np.stack(model.predict_interval(rows), axis=1))
        except BrokenScorerError as error:
            return {SCORER: "failed", "scorer_reason": f"the compiled scorer is not sound: {error}"}
        client.log_metric(run.run_id, "scorer_largest_difference", difference, model_id=run.model_id)
        reason = f"the compiled scorer is at most {difference:.1e} from scikit-learn on {len(rows):,} test rows"
        if not difference <= TOLERANCE:
            return {SCORER: "failed", "scorer_reason": f"{reason}; {TOLERANCE:g} passes"}
        client.log_model_artifacts(run.model_id, directory)
    return {SCORER: "passed", "scorer_reason": reason}


def _decide(
    version: ModelVersion,
    challenger: Candidate,
    champion: ModelVersion | None,
    parts: dict[str, pd.DataFrame],
    *,
    tolerance: float,
    least: int,
) -> Decision:
    """Return what the gate says of a version; the champion is scored anew, on the same rows."""
    rmse = challenger.metrics["test_rmse"]
    if champion is not None and champion.version == version.version:
        return Decision("unchanged", "the best run is the version that serves", rmse, rmse, champion.version)
    if version.tags.get(SCORER) == "failed":
        return Decision("rejected", version.tags["scorer_reason"], rmse)
    if ROLLED_BACK in version.tags:
        return Decision("rejected", f"it was rolled back: {version.tags[ROLLED_BACK]}", rmse)
    if champion is None:
        return Decision("promoted", "no version served before", rmse)
    gate = _unseen_labels(parts["feedback"], champion)
    with tempfile.TemporaryDirectory() as directory:
        # A download that fails ends the stage; a model that is here and does not load is no champion.
        # Not by "models:/name/version", which a name with a question mark is not.
        where = MlflowClient().get_model_version_download_uri(champion.name, champion.version)
        path = download_artifacts(where, dst_path=directory)
        try:
            model = load_model(path)
            names, target = list(load_table().feature_names), load_table().target_name
            predicted = model.predict(parts["test"][names])
            of_gate = model.predict(gate[names]) if len(gate) >= least else None
        except Exception as error:
            logger.opt(exception=error).warning("version {} cannot be used any more", champion.version)
            reason = f"version {champion.version} cannot be used any more: {type(error).__name__}: {error}"
            return Decision("promoted", reason, rmse, champion_version=champion.version)
    held = None
    if of_gate is not None:
        ours = skops_io.load(MODELS / f"{challenger.name}.skops", trusted=list(TRUSTED_TYPES))
        held = Held(gate[target].to_numpy(float), ours.predict(gate), of_gate)
    champion_rmse = root_mean_squared_error(parts["test"][target].to_numpy(float), predicted)
    return judge(rmse, champion_rmse, champion.version, tolerance, held)


def _unseen_labels(feedback: pd.DataFrame, champion: ModelVersion) -> pd.DataFrame:
    """Return the labels held out for the gate that the champion too was not trained on."""
    gate = feedback[feedback["part"] == "gate"]
    if gate.empty or int(champion.tags.get("feedback_batches", "0")) < gate["batch"].max():
        return gate
    # Trained on the same batches, with other parameters or code: it may have held out less.
    return gate[gate["predicted_at"] > float(champion.tags.get("trained_until", "inf"))]


def _serving_version(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _apply(client: MlflowClient, model: str, alias: str, version: ModelVersion, decision: Decision) -> None:
    """Write the decision on the version, then move the alias: whoever sees it moved can read why."""
    if decision.gate == "unchanged":
        return  # what the gate said of it when it was new stays
    for key, value in asdict(decision).items():
        if value is not None:
            tag = key if key.startswith("gate") else f"gate_{key}"
            client.set_model_version_tag(model, version.version, tag, str(value))
    if decision.gate == "promoted":
        if decision.champion_version:
            client.set_model_version_tag(model, version.version, REPLACED, decision.champion_version)
        client.set_registered_model_alias(model, alias, version.version)


if __name__ == "__main__":
    run_stage(main)
