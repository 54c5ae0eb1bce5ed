"""A registry for one command: MLflow runs as long as the command does, where no appliance runs that has one.

``docker run --volume tableloop:/data tableloop make retrain`` needs nothing else.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.prepare import ROOT, RefusedError, prepare
from tableloop.mlflow_http import wait_until_healthy
from tableloop.settings import Settings

STOP_SECONDS = 5.0


@contextmanager
def own_registry(settings: Settings) -> Iterator[None]:
    """Prepare the state, which no appliance can use meanwhile, and run its MLflow server.

    Raises
    ------
    RefusedError
        When something is in the way, or the server does not answer.
    """
    prepare(settings)
    server = subprocess.Popen([ROOT / "entrypoint.sh", "mlflow"], stdin=subprocess.DEVNULL)
    try:
        if not wait_until_healthy(settings.mlflow_tracking_uri):
            raise RefusedError(f"{settings.registry} does not answer")
        yield
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
