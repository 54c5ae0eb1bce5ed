"""Give the alias back to the version that served before: ``python -m pipeline.rollback [--reason WHY]``.

The service sees the moved alias at its next poll and swaps. The version that is left is marked with why, and no
retraining promotes it again. Exit codes: 0 done, 1 there is nothing to go back to, 3 a retraining runs.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.mlflow_runs import configure_client
from pipeline.register import REPLACED, ROLLED_BACK
from tableloop.mlflow_http import is_healthy
from tableloop.settings import RegistrySettings
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock


class NothingToRollBackError(Exception):
    """There is no version to go back to; the message says why."""


def roll_back(client: MlflowClient, model: str, alias: str, reason: str) -> tuple[str, str]:
    """Move the alias from the version that serves to the one it replaced, and return both numbers.

    Raises
    ------
    NothingToRollBackError
        Nothing serves, the version replaced none, or that one is gone.
    """
    try:
        current = client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        raise NothingToRollBackError(f"{model} has no version {alias}: {error.message}") from error
    former = current.tags.get(REPLACED)
    if former is None:
        raise NothingToRollBackError(f"version {current.version} is the first that served")
    try:
        client.get_model_version(model, former)
    except MlflowException as error:
        raise NothingToRollBackError(f"version {former}, which served before, is gone: {error.message}") from error
    # The mark first: with the alias moved and no mark, a retraining killed in between could promote it again.
    client.set_model_version_tag(model, current.version, ROLLED_BACK, reason)
    client.set_registered_model_alias(model, alias, former)
    return current.version, former


def main() -> int:
    """Roll back once, and return the exit code."""
    parser = argparse.ArgumentParser(description="Give the alias back to the version that served before.")
    parser.add_argument("--reason", default="", help="why, for whoever looks at the version later")
    arguments = parser.parse_args()
    settings = RegistrySettings()
    if not is_healthy(settings.mlflow_tracking_uri):
        sys.stderr.write(f"the MLflow server does not answer at {settings.mlflow_tracking_uri}\n")
        return 1
    configure_client(settings.mlflow_tracking_uri)
    reason = arguments.reason or f"at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, no reason given"
    try:
        with retraining_lock(Layout(settings.state_dir), "a rollback"):
            left, former = roll_back(MlflowClient(), settings.model_name, settings.model_alias, reason)
    except (BusyError, NothingToRollBackError) as error:
        sys.stderr.write(f"nothing rolled back: {error}\n")
        return BUSY if isinstance(error, BusyError) else 1
    sys.stdout.write(f"version {former} serves again instead of {left}: {reason}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
