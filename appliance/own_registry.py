"""A registry for one command: MLflow runs as long as the command does, where no appliance runs that has one.

``docker run --volume tableloop:/data tableloop make retrain`` needs nothing else.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.prepare import ROOT, RefusedError, prepare
from appliance.status import is_running
from tableloop.mlflow_http import is_healthy, wait_until_healthy
from tableloop.settings import Settings

STOP_SECONDS = 5.0


@contextmanager
def registry(settings: Settings) -> Iterator[None]:
    """Provide a registry: the running appliance's, the one that the settings name, or one of our own.

    For its own one it prepares the state, which no appliance can use meanwhile, and runs the MLflow server.

    Raises
    ------
    RefusedError
        When something is in the way, or the server does not answer.
    """
    uri = settings.mlflow_tracking_uri
    if is_running(settings.state_dir) or uri != settings.own_tracking_uri:
        if not is_healthy(uri):
            raise RefusedError(f"MLflow at {uri} does not answer; see make status, or docker exec NAME make retrain")
        yield
        return
    prepare(settings)
    server = subprocess.Popen([ROOT / "entrypoint.sh", "mlflow"], stdin=subprocess.DEVNULL)
    try:
        if not wait_until_healthy(uri):
            raise RefusedError(f"the MLflow server does not answer at {uri}")
        yield
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
