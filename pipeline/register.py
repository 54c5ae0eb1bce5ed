"""Third stage: the runs in MLflow, the best of them registered, and the alias moved if it passes the gate.

It may run any number of times: what the server has already is found by its fingerprint and left alone. So outputs
that DVC restored from its cache, a fresh server and an earlier run that was killed all end the same.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from loguru import logger
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.sklearn import load_model
from sklearn.metrics import root_mean_squared_error
from skops import io as skops_io

from pipeline.schema import FEATURE_NAMES, TARGET
from pipeline.server import wait_until_healthy
from pipeline.settings import RegistrySettings
from pipeline.stage import MODELS, PROCESSED, REPORTS, StageError, best_of, load_params, run_stage
from pipeline.tracking import (
    Candidate,
    Lineage,
    LoggedRun,
    as_datasets,
    configure_client,
    find_run,
    flatten,
    log_candidate,
    read_lineage,
)
from pipeline.trusted import TRUSTED_TYPES


@dataclass(frozen=True)
class Decision:
    """What the gate says: "promoted", "rejected" or "unchanged", and on what figures."""

    gate: str
    reason: str
    challenger_rmse: float
    champion_rmse: float | None = None
    champion_version: str | None = None


def judge(challenger_rmse: float, champion_rmse: float, champion_version: str, tolerance: float) -> Decision:
    """Return whether the challenger may take the champion's place: no worse on the same test rows."""
    limit = champion_rmse * (1 + tolerance)
    passed = challenger_rmse <= limit
    reason = (
        f"test RMSE {challenger_rmse:.4f} against {champion_rmse:.4f} of version {champion_version} on the same "
        f"rows; at most {limit:.4f} passes"
    )
    return Decision("promoted" if passed else "rejected", reason, challenger_rmse, champion_rmse, champion_version)


def main() -> None:
    """Log, register, decide; write reports/registration.json."""
    settings = RegistrySettings()
    params = load_params()
    if not wait_until_healthy(settings.mlflow_tracking_uri):
        raise StageError(f"the MLflow server does not answer at {settings.mlflow_tracking_uri}")
    configure_client(settings.mlflow_tracking_uri)
    client = MlflowClient()
    experiment_id = _experiment(client, params["register"]["experiment"])
    metrics = json.loads((REPORTS / "metrics.json").read_text())
    lineage = read_lineage()
    parts = {name: pd.read_parquet(PROCESSED / f"{name}.parquet") for name in ("train", "validation", "test")}

    best = best_of(metrics)
    candidates = {name: _read_candidate(name, params, metrics[name], refitted=name == best) for name in metrics}
    runs = _log_missing(client, experiment_id, candidates, lineage, parts)
    model, alias = settings.model_name, settings.model_alias
    version = _register(client, model, candidate=candidates[best], run=runs[best], lineage=lineage, parts=parts)
    champion = _serving_version(client, model, alias)
    tolerance = params["register"]["tolerance"]
    decision = _decide(version, candidates[best], champion, parts["test"], tolerance)
    _apply(client, model, alias, version, decision)
    report = {
        "model": model,
        "version": version.version,
        "run_id": runs[best].run_id,
        "candidate": best,
        **asdict(decision),
        "serving_version": client.get_model_version_by_alias(model, alias).version,
    }
    (REPORTS / "registration.json").write_text(json.dumps(report, indent=2) + "\n")
    logger.info(
        "{} is version {} of {}, {}: {}. Version {} serves.",
        best, version.version, model, decision.gate, decision.reason, report["serving_version"],
    )  # fmt: skip


def _experiment(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


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
    datasets = as_datasets(parts) if missing else {}
    for name in missing:
        start = time.perf_counter()
        model = skops_io.load(MODELS / f"{name}.skops", trusted=list(TRUSTED_TYPES))
        runs[name] = log_candidate(
            client, experiment_id, candidates[name], model=model, lineage=lineage, datasets=datasets
        )
        logger.info("{:<24} logged in {:.2f} s", name, time.perf_counter() - start)
    return runs


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
    return Candidate(
        name=name,
        params=flatten(own),
        metrics=metrics,
        started_at=timing["started_at"],
        train_seconds=timing["train_seconds"],
    )


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
    try:
        client.create_registered_model(
            model, description="Median house values of California's block groups, 1990 census, in 100,000 US dollars."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{model}' and run_id = '{run.run_id}'")
    if known:
        return known[0]
    return client.create_model_version(
        model,
        source=f"models:/{run.model_id}",
        run_id=run.run_id,
        tags=lineage.tags()
        | {
            "family": candidate.name,
            "params_digest": candidate.params_digest(),
            "fingerprint": candidate.fingerprint(lineage),
        },
        description=_description(candidate, lineage, parts),
        model_id=run.model_id,
        await_creation_for=0,
    )


def _description(candidate: Candidate, lineage: Lineage, parts: dict[str, pd.DataFrame]) -> str:
    scores = candidate.metrics
    coverage = float(candidate.params["coverage"])
    origin = f"commit {lineage.git_commit}" if lineage.git_commit else f"code digest {lineage.code_digest}"
    return f"""\
{candidate.name}: RMSE {scores["custom_rmse"]:.3f}, R² {scores["custom_r2_score"]:.3f} on \
{len(parts["validation"]):,} validation rows; RMSE {scores["test_rmse"]:.3f}, MAE {scores["test_mae"]:.3f} on \
{len(parts["test"]):,} test rows (100,000 US dollars of 1990). Its {coverage:.0%} intervals hold \
{scores["test_interval_coverage"]:.1%} of the test rows and are {scores["test_interval_width"]:.2f} wide on average.

Trained on {len(parts["train"]) + len(parts["validation"]):,} block groups of the 1990 census, California only. The \
source caps values at 5.00001, so dear places are underestimated; it knows nothing of prices since, nor of single \
houses. The validation rows chose this candidate; then it was fitted again with them among the training rows.

To reproduce: {origin}, data/raw/california_housing.csv with md5 {lineage.data_md5}, the run's parameters in \
params.yaml, the model's requirements, then `dvc repro`."""


def _decide(
    version: ModelVersion,
    challenger: Candidate,
    champion: ModelVersion | None,
    test: pd.DataFrame,
    tolerance: float,
) -> Decision:
    """Return what the gate says of a version; the champion is scored anew, on the challenger's test rows."""
    rmse = challenger.metrics["test_rmse"]
    if champion is None:
        return Decision("promoted", "no version served before", rmse)
    if champion.version == version.version:
        return Decision("unchanged", "the best run is the version that serves", rmse, rmse, champion.version)
    with tempfile.TemporaryDirectory() as directory:
        # A download that fails ends the stage; a model that is here and does not load is no champion.
        path = download_artifacts(f"models:/{champion.name}/{champion.version}", dst_path=directory)
        try:
            predicted = load_model(path).predict(test[list(FEATURE_NAMES)])
        except Exception as error:
            logger.opt(exception=error).warning("version {} cannot be used any more", champion.version)
            reason = f"version {champion.version} cannot be used any more: {type(error).__name__}: {error}"
            return Decision("promoted", reason, rmse, champion_version=champion.version)
    return judge(rmse, root_mean_squared_error(test[TARGET.name], predicted), champion.version, tolerance)


def _serving_version(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _apply(client: MlflowClient, model: str, alias: str, version: ModelVersion, decision: Decision) -> None:
    """Write the decision on the version, then move the alias: whoever sees it moved can read why."""
    for key, value in asdict(decision).items():
        if value is not None:
            tag = key if key.startswith("gate") else f"gate_{key}"
            client.set_model_version_tag(model, version.version, tag, str(value))
    if decision.gate == "promoted":
        client.set_registered_model_alias(model, alias, version.version)


if __name__ == "__main__":
    run_stage(main)
