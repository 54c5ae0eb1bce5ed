"""What one role of a cluster does to its own disk before it starts: ``python -m appliance.prepare_role ROLE``.

With ARTIFACTS_URI nothing that has to outlive a program lies in STATE_DIR: an empty one is made ready in a second, by
each program for itself. Nobody looks at the ports of others, or waits for what is not needed. What all programs of a
cluster must have in common is given to them: two secrets, and the addresses.

The store needs no preparation: whoever finds it missing, or older than the code, brings it up to date under a lock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from appliance.prepare import (
    RefusedError,
    check_certificate,
    check_keys,
    check_limits,
    check_writable,
    clear_run_directory,
    prepare_password,
    prepare_server_database,
)
from monitoring import alerting
from monitoring.grafana import for_table
from tableloop.settings import Settings, load_settings
from tableloop.signing import SignatureError, SigningKey
from tableloop.state.layout import Layout

DATABASE_SECONDS: Final = 120.0  # that a registry waits for its database
JOB: Final = "job"  # any command of `pipeline` with a disk of its own; it may also share that of an appliance


def prepare_role(settings: Settings, role: str) -> None:
    """Make `settings.state_dir` ready for one role.

    Raises
    ------
    RefusedError
        Something is in the way, or is not given.
    """
    layout = Layout(settings.state_dir)
    if role == JOB and layout.marker.exists():
        return
    check_writable(layout.root)
    check_limits()
    for path in (layout.run, layout.logs):
        path.mkdir(parents=True, exist_ok=True)
    clear_run_directory(layout)
    for step in STEPS[role]:
        step(settings)
    layout.marker.touch()


def _password(settings: Settings) -> None:
    given = settings.admin_password.get_secret_value()
    if not given and not Layout(settings.state_dir).admin_password.exists():
        raise RefusedError(
            "ADMIN_PASSWORD is not set: with ARTIFACTS_URI it must be the same for all programs of the cluster"
        )
    prepare_password(Layout(settings.state_dir), given)


def _signing_key(settings: Settings) -> None:
    if settings.signing_key_file is None:
        raise RefusedError(
            "SIGNING_KEY_FILE is not set: with ARTIFACTS_URI it names a file with the key of the whole cluster; make "
            "one with: openssl rand -hex 32"
        )
    try:
        SigningKey.load(settings)
    except SignatureError as error:
        raise RefusedError(f"SIGNING_KEY_FILE: {error}") from None


def _champion(settings: Settings) -> None:
    Layout(settings.state_dir).champion.mkdir(exist_ok=True)


def _service(settings: Settings) -> None:
    check_keys(settings)
    check_certificate(settings)


def _registry(settings: Settings) -> None:
    """Make MLflow's tables or bring them up to date, once the database answers."""
    Layout(settings.state_dir).mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    url = settings.database_url.get_secret_value()
    if not url:
        raise RefusedError("DATABASE_URL is not set: with ARTIFACTS_URI the tables of MLflow lie in PostgreSQL")
    deadline = time.monotonic() + DATABASE_SECONDS
    while True:
        try:
            prepare_server_database(url)
        except RefusedError as refusal:
            if time.monotonic() > deadline:
                raise
            sys.stderr.write(f"{refusal}; tries again\n")
            time.sleep(1)
        else:
            return


def _prometheus(settings: Settings) -> None:
    Layout(settings.state_dir).prometheus.mkdir(exist_ok=True)
    alerting.prepare(settings)


def _grafana(settings: Settings) -> None:
    layout = Layout(settings.state_dir)
    layout.grafana_plugins.mkdir(parents=True, exist_ok=True)
    for_table.prepare(layout)


_SIGNS: Final = (_password, _signing_key)
# The roles of Dask keep nothing in STATE_DIR.
STEPS: Final[Mapping[str, tuple[Callable[[Settings], None], ...]]] = {
    "api": (*_SIGNS, _champion, _service),
    "mlflow": (_password, _registry),
    "bootstrap": _SIGNS,
    "drift-monitor": (*_SIGNS, _champion),
    JOB: _SIGNS,
    "front": (),
    "prometheus": (_prometheus,),
    "alertmanager": (alerting.prepare,),
    "grafana": (_password, _grafana),
}


def main() -> None:
    """Prepare this machine's STATE_DIR for the role, or end with one line that says what is in the way."""
    try:
        prepare_role(load_settings(), sys.argv[1])
    except RefusedError as refusal:
        sys.stderr.write(f"{refusal}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
