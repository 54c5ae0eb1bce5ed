"""Say of a version that waits what becomes of it: ``python -m pipeline.promote VERSION [--reject] [--reason WHY]``.

With PROMOTE=ask or shadow a retraining gives a version that the gate would promote the alias `Shadow`, and it waits.
A version that is rejected is marked with why, and no retraining promotes it again. Exit codes: 0 done, 1 it cannot
be, 3 a retraining runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.gate import Decision
from pipeline.mlflow_runs import configure_client
from pipeline.serving_version import download_files, find_serving_version
from pipeline.version_tags import REJECTED, REPLACED, leave_the_shadow, write_decision
from tableloop.credentials import NoPasswordError
from tableloop.environment import user
from tableloop.mlflow_http import is_healthy
from tableloop.settings import RegistrySettings
from tableloop.state.database import PROMOTED, Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock
from tableloop.version_files import VersionFilesError, open_version


class NotPossibleError(Exception):
    """The version cannot be promoted or rejected; the message says why."""


def promote(
    client: MlflowClient,
    store: Store,
    settings: RegistrySettings,
    number: str,
    *,
    reason: str = "",
    decision: Decision | None = None,
) -> str:
    """Give the alias to a version whose files are those that were signed; return which one served, "" for none.

    It is the ``decision`` of the gate, or without one, for a ``reason``, of the user who runs this.

    Raises
    ------
    NotPossibleError
        There is no such version, it serves already, or it would not load.
    OSError
        Its files cannot be had now.
    """
    model, version = settings.model_name, _find(client, settings.model_name, number)
    serving = find_serving_version(client, store, settings)
    if serving is not None and (serving.version, serving.run_id) == (version.version, version.run_id):
        raise NotPossibleError("it serves already")
    with tempfile.TemporaryDirectory() as directory:
        try:
            open_version(download_files(client, model, number, Path(directory)), version.run_id or "", settings)
        except VersionFilesError as error:
            raise NotPossibleError(str(error)) from None
    if decision is None:
        client.set_model_version_tag(model, number, "gate", "promoted")
        client.set_model_version_tag(model, number, "gate_promoted_by", f"{user()}: {reason}")
        reason = f"by {user()}: {reason}"
    else:
        write_decision(client, version, decision)
        reason = decision.reason
    if serving is not None:
        client.set_model_version_tag(model, number, REPLACED, serving.version)
    client.set_registered_model_alias(model, settings.model_alias, number)
    store.record_serving(model, number, version.run_id or "", PROMOTED, reason)
    leave_the_shadow(client, store, model, number, outcome="promoted", reason=reason)
    return serving.version if serving else ""


def reject(client: MlflowClient, store: Store, settings: RegistrySettings, number: str, reason: str) -> None:
    """Mark a version, so that no retraining promotes it.

    Raises
    ------
    NotPossibleError
        There is no such version, or it serves.
    """
    model, version = settings.model_name, _find(client, settings.model_name, number)
    serving = find_serving_version(client, store, settings)
    if serving is not None and (serving.version, serving.run_id) == (version.version, version.run_id):
        raise NotPossibleError("it serves: make rollback gives the alias back to the version before")
    client.set_model_version_tag(model, number, "gate", "rejected")
    client.set_model_version_tag(model, number, REJECTED, f"by {user()}: {reason}")
    leave_the_shadow(client, store, model, number, outcome="rejected", reason=f"by {user()}: {reason}")


def _find(client: MlflowClient, model: str, number: str) -> ModelVersion:
    try:
        return client.get_model_version(model, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NotPossibleError(f"the registry has no such version of {model}") from None


def main() -> int:
    """Promote or reject one version, and return the exit code."""
    parser = argparse.ArgumentParser(description="Promote or reject a version that waits.")
    parser.add_argument("version", help="its number")
    parser.add_argument("--reject", action="store_true", help="do not promote it, now or later")
    parser.add_argument("--reason", default="", help="why, for whoever looks at the version later")
    arguments = parser.parse_args()
    settings, number = RegistrySettings(), arguments.version
    what = "reject" if arguments.reject else "promote"
    if not number.isdigit():
        sys.stderr.write(f"which one? make {what} VERSION=n, with the number of a registered version\n")
        return 1
    if not is_healthy(settings.mlflow_tracking_uri):
        sys.stderr.write(f"{settings.registry} does not answer\n")
        return 1
    reason = arguments.reason.strip() or "no reason given"
    try:
        configure_client(settings)
        client, store = MlflowClient(), Store.of(settings)
        with retraining_lock(
            Layout(settings.state_dir), f"make {what}", database_url=settings.database_url.get_secret_value()
        ):
            if arguments.reject:
                reject(client, store, settings, number, reason)
                said = f"version {number} is rejected"
            else:
                former = promote(client, store, settings, number, reason=reason)
                said = f"version {number} serves" + (f" instead of {former}" if former else "")
    except (BusyError, StoreError, NoPasswordError, NotPossibleError, MlflowException, OSError) as error:
        sys.stderr.write(f"version {number}: {' '.join(str(error).split())[:600]}\n")
        return BUSY if isinstance(error, BusyError) else 1
    sys.stdout.write(f"{said}: {reason}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
