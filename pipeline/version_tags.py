"""What the gate and people write on a registered version: tags, and the alias of the one in the shadow."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipeline.gate import Decision
from pipeline.mlflow_runs import find_version
from tableloop.state import shadows
from tableloop.state.database import Store

ROLLED_BACK: Final = "rolled_back"  # why its users wanted the former one again
REJECTED: Final = "rejected_by_hand"  # who did not want it, and why
REJECTED_IN_SHADOW: Final = "rejected_in_shadow"  # what labels of requests said of it
REPLACED: Final = "replaced_version"  # which one served before it


def write_decision(client: MlflowClient, model: str, number: str, decision: Decision) -> None:
    """Write on a version what the gate says of it, and on what figures."""
    for key, value in asdict(decision).items():
        if value is not None:
            tag = key if key.startswith("gate") else f"gate_{key}"
            client.set_model_version_tag(model, number, tag, str(value))


def put_in_shadow(client: MlflowClient, store: Store, version: ModelVersion) -> None:
    """Give a version the alias `Shadow`: from now on it says what it would answer."""
    client.set_registered_model_alias(version.name, shadows.ALIAS, version.version)
    shadows.begin(store, version.name, version.version, version.run_id or "")


def leave_the_shadow(
    client: MlflowClient, store: Store, model: str, number: str, *, outcome: str, reason: str
) -> None:
    """Take the alias `Shadow` from a version, where it has it, and note what came of it."""
    found = find_version(client, model, shadows.ALIAS)
    if found is not None and found.version == number:
        client.delete_registered_model_alias(model, shadows.ALIAS)
    shadow = shadows.current(store, model)
    if shadow is not None and shadow.version == number:
        shadows.end(store, model, outcome, reason)
