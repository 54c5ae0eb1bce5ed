"""Give the alias back to the version that served before: ``python -m pipeline.rollback [--reason WHY]``.

Where somebody has set the alias on a version that does not serve, the one that serves gets it back.
The service sees the moved alias at its next poll and swaps. The version that is left is marked with why, and no
retraining promotes it again. Exit codes: 0 done, 1 there is nothing to go back to, 3 a retraining runs.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.mlflow_runs import configure_client, find_version
from pipeline.serving_version import ServingVersion, find_serving_version
from pipeline.version_tags import REPLACED, ROLLED_BACK, leave_the_shadow
from tableloop.credentials import NoPasswordError
from tableloop.mlflow_http import is_healthy
from tableloop.settings import RegistrySettings
from tableloop.state.database import REFUSED, Store
from tableloop.state.database import ROLLED_BACK as ROLLED_BACK_TO
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock
from tableloop.state.shadows import WITHDRAWN

HISTORY = 1000  # newest events that are looked through for what served before


class NothingToRollBackError(Exception):
    """There is no version to go back to; the message says why."""


def roll_back(client: MlflowClient, store: Store, settings: RegistrySettings, reason: str) -> tuple[str, str]:
    """Move the alias from the version that has it to the one that served before; return both numbers.

    Raises
    ------
    NothingToRollBackError
        Nothing serves, nothing served before, or that version is gone.
    """
    model = settings.model_name
    current = find_serving_version(client, store, settings)
    if current is None:
        raise NothingToRollBackError(f"no version of {model} serves")
    named = find_version(client, model, settings.model_alias)
    former: ServingVersion | ModelVersion
    if named is not None and named.version != current.version and current.tags is not None:
        left, former = named.version, current
    else:
        left, former = current.version, _former_version(client, store, model, current)
    # The mark first: with the alias moved and no mark, a retraining killed in between could promote it again.
    if current.tags is not None:
        client.set_model_version_tag(model, left, ROLLED_BACK, reason)
    client.set_registered_model_alias(model, settings.model_alias, former.version)
    leave_the_shadow(client, store, model, left, outcome=WITHDRAWN, reason=f"it was rolled back: {reason}")
    store.record_serving(model, former.version, former.run_id, ROLLED_BACK_TO, reason)
    return left, former.version


def _former_version(client: MlflowClient, store: Store, model: str, current: ServingVersion) -> ModelVersion:
    """Return the version that served before the current one and was not itself rolled back."""
    before: list[tuple[str, str | None]] = [
        (event.version, event.run_id)
        for event in store.serving_history(model, HISTORY)
        if event.event != REFUSED and (event.version, event.run_id) != (current.version, current.run_id)
    ]
    # Of what served before there was a history, a version itself names the one that it replaced.
    if named := (current.tags or {}).get(REPLACED):
        before.append((named, None))
    gone = None
    for number, run_id in before:
        version = _find(client, model, number)
        if version is None or run_id not in (version.run_id, None):
            gone = gone or number
        elif ROLLED_BACK not in version.tags:
            return version
    if gone:
        raise NothingToRollBackError(f"version {gone}, which served before, is gone")
    raise NothingToRollBackError(f"version {current.version} is the first that served")


def _find(client: MlflowClient, model: str, number: str) -> ModelVersion | None:
    try:
        return client.get_model_version(model, number)
    except MlflowException:
        return None


def main() -> int:
    """Roll back once, and return the exit code."""
    parser = argparse.ArgumentParser(description="Give the alias back to the version that served before.")
    parser.add_argument("--reason", default="", help="why, for whoever looks at the version later")
    arguments = parser.parse_args()
    settings = RegistrySettings()
    if not is_healthy(settings.mlflow_tracking_uri):
        sys.stderr.write(f"{settings.registry} does not answer\n")
        return 1
    reason = arguments.reason or f"at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, no reason given"
    try:
        configure_client(settings)
        with retraining_lock(
            Layout(settings.state_dir), "a rollback", database_url=settings.database_url.get_secret_value()
        ):
            left, former = roll_back(MlflowClient(), Store.of(settings), settings, reason)
    except (BusyError, StoreError, NoPasswordError, NothingToRollBackError, MlflowException) as error:
        sys.stderr.write(f"nothing rolled back: {' '.join(str(error).split())[:600]}\n")
        return BUSY if isinstance(error, BusyError) else 1
    sys.stdout.write(f"version {former} serves again instead of {left}: {reason}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
