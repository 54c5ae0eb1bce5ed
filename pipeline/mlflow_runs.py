"""Log trained candidates to MLflow, register their versions, and look both up again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import yaml
from loguru import logger
from mlflow import MlflowClient
from mlflow.data.pandas_dataset import PandasDataset, from_pandas
from mlflow.entities import LifecycleStage, LoggedModelOutput, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline.build_version import build_version
from pipeline.code_identity import code_digest
from pipeline.git_commit import source_commit
from pipeline.raw_rows import raw_md5
from pipeline.stage_runner import REPORTS, raw_data
from tableloop.credentials import ADMIN, read_password
from tableloop.drift.levels import with_unknown
from tableloop.drift.reference import Reference
from tableloop.drift.statistics import make_reference
from tableloop.evaluation.error_breakdown import DECILES, Answered, by_quantile, by_region
from tableloop.evaluation.extrapolation import Limits
from tableloop.evaluation.importance import importance
from tableloop.model.coding import Coding
from tableloop.model.conformal import ConformalRegressor, as_matrix
from tableloop.settings import RegistrySettings
from tableloop.signing import SigningKey
from tableloop.state.label_batches import FEEDBACK, batch_files, batches_md5, revocation_files
from tableloop.state.layout import Layout
from tableloop.table import Table, load_table

FINGERPRINT = "training.fingerprint"
SCORER = "scorer"  # tag of a run and of a version: "passed", "failed", or "none" for a family that has none
LEAST_REFERENCE, NEWEST_REFERENCE = 300, 1000  # labels, of which the reference for drift is made
INPUTS = ("params.yaml", "dvc.lock")  # kept with every run: what it takes to train it again
# What it takes to load a model; the same versions that trained it.
LIBRARIES = ("mlflow", "scikit-learn", "skops", "numpy", "scipy", "pykdtree", "pandas")


@dataclass(frozen=True)
class Lineage:
    """Where the models of one training come from: what must be the same for the same numbers."""

    data_md5: str
    code_digest: str
    git_commit: str | None
    requirements: tuple[str, ...]
    batches: int = 0  # of labelled predictions
    feedback_md5: str = ""
    revocations: int = 0  # of labels

    def tags(self) -> dict[str, str]:
        """Return the lineage as tags of a run or of a model version."""
        tags = {
            "data_md5": self.data_md5,
            "code_digest": self.code_digest,
            "libraries": ", ".join(self.requirements),
        }
        if self.batches:
            tags |= {"feedback_batches": str(self.batches), "feedback_md5": self.feedback_md5}
        if self.revocations:
            tags["revocations"] = str(self.revocations)
        return tags | ({"git_commit": self.git_commit} if self.git_commit else {})

    def made_by(self) -> dict[str, str]:
        """Return which product made the models, for the manifests of their versions."""
        product = {"product": "tableloop", "code_digest": self.code_digest}
        return product | ({"git_commit": self.git_commit} if self.git_commit else {})


@dataclass(frozen=True)
class Candidate:
    """What the train stage reports of a candidate, with the parameters that made it."""

    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    started_at: float
    train_seconds: float
    limits: Limits | None = None  # of the winner: what it cannot do

    def params_digest(self) -> str:
        """Return a digest of the candidate's parameters."""
        return _digest(json.dumps(self.params, sort_keys=True).encode())

    def fingerprint(self, lineage: Lineage) -> str:
        """Return a digest that is the same for the same model of the same data, code, libraries and parameters."""
        data = [lineage.data_md5, lineage.feedback_md5]
        identity = [self.name, self.params_digest(), *data, lineage.code_digest, *lineage.requirements]
        return _digest("\n".join(identity).encode())


@dataclass(frozen=True)
class LoggedRun:
    """A run of the server that is complete: everything of the candidate is there."""

    run_id: str
    model_id: str


def read_lineage() -> Lineage:
    """Return the lineage of the training in the current directory.

    The data's md5 is the one of dvc.lock.
    """
    batches, revocations = batch_files(FEEDBACK), revocation_files(FEEDBACK)
    return Lineage(
        batches=len(batches),
        feedback_md5=batches_md5([*batches, *revocations]) if batches else "",
        revocations=len(revocations),
        data_md5=raw_md5(raw_data(load_table())),
        code_digest=code_digest(Path(), _declared_code()),
        git_commit=source_commit(Path()),
        requirements=tuple(f"{name}=={installed_version(name)}" for name in LIBRARIES),
    )


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as {"section.key": "value"}."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat


def configure_client(settings: RegistrySettings) -> None:
    """Point MLflow's client at the server, and log in; progress bars and look-ups of packages are off by default.

    Raises
    ------
    NoPasswordError
        There is no password for the appliance's own server.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # No pip beside the packages is no fault: whoever restores the model brings their own.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    # Another server gets what the user has set, and never the appliance's password.
    user, password = settings.mlflow_tracking_username, settings.mlflow_tracking_password.get_secret_value()
    if not settings.has_foreign_registry:
        user, password = ADMIN, read_password(Layout(settings.state_dir).admin_password)
    for name, value in (("MLFLOW_TRACKING_USERNAME", user), ("MLFLOW_TRACKING_PASSWORD", password)):
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    mlflow.set_tracking_uri(settings.mlflow_tracking_uri)
    mlflow.set_registry_uri(settings.mlflow_tracking_uri)


def as_datasets(parts: Mapping[str, pd.DataFrame]) -> dict[str, PandasDataset]:
    """Return the parts as MLflow's datasets; their digests and schemas take a second, so make them once."""
    table = load_table()
    with warnings.catch_warnings():
        # MLflow registers its source for local files twice, and warns that it had to choose.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted in multiple ways")
        return {
            name: from_pandas(
                part[[*table.feature_names, table.target_name]],
                source=str(FEEDBACK if name == "feedback" else raw_data(table)),
                targets=table.target_name,
                name=f"{table.path.stem}-{name}",
            )
            for name, part in parts.items()
            if len(part)
        }


def find_run(client: MlflowClient, experiment_id: str, fingerprint: str) -> LoggedRun | None:
    """Return the complete run of this fingerprint, or None.

    Runs that a killed `register` left half-done are marked as killed: they are not taken for done.
    """
    found = None
    for run in client.search_runs([experiment_id], f"tags.`{FINGERPRINT}` = '{fingerprint}'"):
        if run.info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")
        if run.info.status == "FINISHED" and run.outputs.model_outputs:
            found = LoggedRun(run.info.run_id, run.outputs.model_outputs[0].model_id)
    return found


def find_version(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias names, None when there is no such model or alias."""
    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def ensure_experiment(client: MlflowClient, name: str, tags: Callable[[str], dict[str, str]]) -> str:
    """Return the id of the experiment, made or restored if need be, after setting the tags made from its id."""
    experiment = client.get_experiment_by_name(name)
    experiment_id = str(experiment.experiment_id if experiment else client.create_experiment(name))
    if experiment and experiment.lifecycle_stage == LifecycleStage.DELETED:
        client.restore_experiment(experiment_id)
        logger.warning("the experiment {} had been deleted in MLflow and is restored, with its runs", name)
    for key, value in tags(experiment_id).items():
        if experiment is None or experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)
    return experiment_id


def ensure_model(client: MlflowClient, model: str, tags: dict[str, str], description: str) -> None:
    """Make the registered model when there is none, and give it this description."""
    try:
        client.create_registered_model(model, tags, description)
        logger.info("there was no model {} in the registry: it is made", model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if client.get_registered_model(model).description != description:
            client.update_registered_model(model, description)


def ensure_version(
    client: MlflowClient,
    model: str,
    candidate: Candidate,
    *,
    run: LoggedRun,
    lineage: Lineage,
    tags: dict[str, str],
) -> ModelVersion:
    """Return the version of this run; it is registered, with these tags and its lineage's, when there is none."""
    # Not by name: MLflow's filters have no way to write one with a quote in it.
    for version in client.search_model_versions(f"run_id = '{run.run_id}'"):
        if version.name == model:
            return version
    of_run = client.get_run(run.run_id).data.tags
    scorer = {key: of_run[key] for key in (SCORER, "scorer_reason") if key in of_run}
    made = {
        "family": candidate.name,
        "params_digest": candidate.params_digest(),
        "fingerprint": candidate.fingerprint(lineage),
    }
    return client.create_model_version(
        model,
        source=f"models:/{run.model_id}",
        run_id=run.run_id,
        tags=lineage.tags() | tags | scorer | made,
        model_id=run.model_id,
        await_creation_for=0,
    )


def log_candidate(
    client: MlflowClient,
    experiment_id: str,
    candidate: Candidate,
    *,
    model: ConformalRegressor,
    lineage: Lineage,
    datasets: Mapping[str, PandasDataset],
    note: str,
    key: SigningKey,
) -> LoggedRun:
    """Log a candidate as one run, and return it; the run is FINISHED only when all of it is there."""
    fingerprint = candidate.fingerprint(lineage)
    tags = lineage.tags() | {
        FINGERPRINT: fingerprint,
        "family": candidate.name,
        "params_digest": candidate.params_digest(),
        "mlflow.note.content": note,
        "mlflow.source.name": "python -m pipeline.register",
        "mlflow.source.type": "PROJECT",
    }
    if lineage.git_commit:
        tags["mlflow.source.git.commit"] = lineage.git_commit.removesuffix("-dirty")
    start = round(candidate.started_at * 1000)
    run_id = client.create_run(experiment_id, start, tags, f"{candidate.name}-{fingerprint[:8]}").info.run_id
    with mlflow.start_run(run_id=run_id) as run:
        mlflow.log_params(candidate.params)
        contexts = {"train": "training"}
        mlflow.log_inputs(
            list(datasets.values()), [contexts.get(name, name) for name in datasets], [None] * len(datasets)
        )
        for file in INPUTS:
            mlflow.log_artifact(file, "inputs")
        fitted_on = [*candidate.params["fitted_on"].split(" and "), "feedback"]
        rows = pd.concat([datasets[part].df for part in fitted_on if part in datasets], ignore_index=True)
        model_id = _log_version(
            client, run, candidate, model=model, lineage=lineage, fitted=rows, datasets=datasets, key=key
        )
        of_validation = {name: value for name, value in candidate.metrics.items() if name.startswith("custom_")}
        of_test = {name: value for name, value in candidate.metrics.items() if name.startswith("test_")}
        mlflow.log_metrics(of_validation, model_id=model_id, dataset=datasets["validation"])
        mlflow.log_metrics(of_test, model_id=model_id, dataset=datasets["test"])
        if "gate" in datasets:
            of_gate = {name: value for name, value in candidate.metrics.items() if name.startswith("gate_")}
            mlflow.log_metrics(of_gate, model_id=model_id, dataset=datasets["gate"])
        mlflow.log_metrics({"train_seconds": candidate.train_seconds}, model_id=model_id, dataset=datasets["train"])
        _log_deciles(client, run_id, answered(model, datasets["test"].df))
        mlflow.log_artifacts(str(REPORTS / "plots" / candidate.name), "plots")
    # The run tells when the candidate was trained, not when it was logged.
    client.set_terminated(run_id, "FINISHED", start + round(candidate.train_seconds * 1000))
    return LoggedRun(run_id, model_id)


def answered(model: ConformalRegressor, part: pd.DataFrame) -> Answered:
    """Return what a model says of rows that it has not seen."""
    rows = as_matrix(part, model.columns, model.kinds)
    return Answered(rows, part[load_table().target_name].to_numpy(np.float64), *model.predict_interval(rows))


def _log_deciles(client: MlflowClient, run_id: str, test: Answered) -> None:
    """Log error and coverage by tenth of the actual values, the lowest at step 1."""
    now = round(time.time() * 1000)
    client.log_batch(
        run_id,
        [
            Metric(name, value, now, step)
            for step, group in enumerate(by_quantile(test, DECILES), 1)
            for name, value in (
                ("rmse_by_value_decile", group.rmse),
                ("coverage_by_value_decile", group.coverage),
            )
        ],
    )


def _ranges(fitted: pd.DataFrame, table: Table) -> dict[str, list[float]]:
    """Return the smallest and the largest value of each ordered column, as they are coded."""
    rows = table.coding.frame(fitted)
    return {
        column.name: [float(np.nanmin(values)), float(np.nanmax(values))]
        for column, values in zip(table.features, rows.T, strict=True)
        if column.is_ordered
    }


def _looked_into(candidate: Candidate, model: ConformalRegressor, test: pd.DataFrame) -> dict[str, Any]:
    """Return what a model looks at and where it errs, for its page."""
    table = load_table()
    of_test = answered(model, test)
    first = slice(int(candidate.params["importance_rows"]))
    return {
        "importance": importance(model.predict, of_test.rows[first], of_test.actual[first], table.inputs),
        "error_by_region": [asdict(group) for group in by_region(of_test, table)],
    }


def _log_version(
    client: MlflowClient,
    run: Run,
    candidate: Candidate,
    *,
    model: ConformalRegressor,
    lineage: Lineage,
    fitted: pd.DataFrame,
    datasets: Mapping[str, PandasDataset],
    key: SigningKey,
) -> str:
    """Build the version's files, log them as a model of the run, and return the model's id.

    `mlflow.sklearn.log_model` uploads what it has written itself. Here the files are complete, their manifest and its
    signature included, before the first of them is uploaded.
    """
    table = load_table()
    scores = ("custom_rmse", "custom_r2_score", "test_rmse", "test_r2", "test_mae")
    metadata = {
        "family": candidate.name,
        "training_range": _ranges(fitted, table),
        "kinds": table.kinds,
        "scores": {name: candidate.metrics[name] for name in scores},
        "interval_coverage": model.coverage,
        "limits": candidate.limits,
        "data_md5": lineage.data_md5,
        "code_digest": lineage.code_digest,
    }
    if candidate.limits is not None:
        metadata |= _looked_into(candidate, model, datasets["test"].df)
    run_id = run.info.run_id
    logged = client.create_logged_model(
        run.info.experiment_id,
        candidate.name,
        source_run_id=run_id,
        tags=lineage.tags() | {"family": candidate.name},
        params=candidate.params,
    )
    model_id: str = logged.model_id
    described = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        metadata=metadata,
        model_uuid=model_id,
        model_id=model_id,
    )
    try:
        with tempfile.TemporaryDirectory() as parent:
            directory = Path(parent) / "version"
            scorer = build_version(
                directory,
                model,
                described,
                example=fitted[list(model.columns)].head(5),
                requirements=list(lineage.requirements),
                reference=_drift_reference(candidate, model, fitted, datasets),
                test=datasets["test"].df,
                made_by=lineage.made_by(),
            )
            key.sign(directory, run_id)
            client.log_model_artifacts(model_id, str(directory))
    except BaseException:
        client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    for tag, value in scorer.tags().items():
        client.set_tag(run_id, tag, value)
    if scorer.difference is not None:
        client.log_metric(run_id, "scorer_largest_difference", scorer.difference, model_id=model_id)
    return model_id


def _drift_reference(
    candidate: Candidate, model: ConformalRegressor, fitted: pd.DataFrame, datasets: Mapping[str, PandasDataset]
) -> Reference:
    """Return what the predictions to come are compared with.

    The rows that the model was fitted on; but where there are enough labels, the newest of those: the model was made
    for their mix of places and prices, and the many rows of the census would go on calling it drift.
    """
    labels = [datasets[name].df for name in ("feedback", "gate") if name in datasets]  # the gate's are the newest
    if sum(map(len, labels)) >= LEAST_REFERENCE and "gate_rmse" in candidate.metrics:
        newest = pd.concat(labels, ignore_index=True).tail(NEWEST_REFERENCE)
        rows, unseen, rmse = newest, newest, candidate.metrics["gate_rmse"]
    else:
        rows, unseen, rmse = fitted, datasets["test"].df, candidate.metrics["test_rmse"]
    coding = Coding(model.columns, load_table().kinds)
    coded = with_unknown(coding.frame(rows), rows[list(model.columns)].notna().to_numpy(), coding)
    return make_reference(coded, model.predict(unseen), rmse, columns=model.columns, kinds=coding.kinds)


def _declared_code() -> list[str]:
    """Return the source files and folders that dvc.yaml declares for what makes the models."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    declared = {name for stage in ("preprocess", "train") for name in stages[stage]["deps"]}
    return [name for name in declared if name.startswith(("pipeline/", "tableloop/"))]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
