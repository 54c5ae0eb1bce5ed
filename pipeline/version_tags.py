"""What the gate and people write on a registered version: tags, and the alias of the one in the shadow."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipeline.gate import Challenger, Decision
from pipeline.mlflow_runs import SCORER, find_version
from tableloop.state import shadows
from tableloop.state.database import Store

ROLLED_BACK: Final = "rolled_back"  # why its users wanted the former one again
REJECTED: Final = "rejected_by_hand"  # who did not want it, and why
REJECTED_IN_SHADOW: Final = "rejected_in_shadow"  # what labels of requests said of it
REPLACED: Final = "replaced_version"  # which one served before it


def write_decision(client: MlflowClient, version: ModelVersion, decision: Decision) -> None:
    """Write on a version what the gate says of it, and on what figures; those of labels it had before go."""
    for key, value in asdict(decision).items():
        tag = key if key.startswith("gate") else f"gate_{key}"
        if value is not None:
            client.set_model_version_tag(version.name, version.version, tag, str(value))
        elif tag in version.tags and key not in {"challenger_rmse", "champion_rmse"}:
            client.delete_model_version_tag(version.name, version.version, tag)


def challenger_of(version: ModelVersion, test_rmse: float, *, serves: bool = False) -> Challenger:
    """Return what the gate has to know of a version before any comparison."""
    tags = version.tags
    return Challenger(
        test_rmse,
        serves=serves,
        scorer_failure=tags["scorer_reason"] if tags.get(SCORER) == "failed" else None,
        rolled_back=tags.get(ROLLED_BACK),
        rejected=tags.get(REJECTED) or tags.get(REJECTED_IN_SHADOW),
    )


def put_in_shadow(client: MlflowClient, store: Store, version: ModelVersion) -> None:
    """Give a version the alias `Shadow`: from now on it says what it would answer."""
    client.set_registered_model_alias(version.name, shadows.ALIAS, version.version)
    shadows.begin(store, version.name, version.version, version.run_id or "")


def leave_the_shadow(
    client: MlflowClient, store: Store, model: str, number: str, *, outcome: str, reason: str
) -> None:
    """Take the alias `Shadow` from a version, where it has it, and note what came of it."""
    shadow = shadows.current(store, model)
    found = find_version(client, model, shadows.ALIAS)
    if found is not None and found.version == number:
        client.delete_registered_model_alias(model, shadows.ALIAS)
    if shadow is not None and shadow.version == number:
        shadows.end(store, model, outcome, reason, decided=shadow)
