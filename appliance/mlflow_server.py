"""Run the MLflow server as one process.

``mlflow server`` with one worker is a parent process of 205 MB that imports everything a second time to watch one
child. It takes 7.0 s to its first answer and 420 MB; the same application started here takes 3.5 s and 246 MB. A
parent that is killed also leaves its child behind on the port.
"""

from __future__ import annotations

import os
import warnings

import uvicorn
from loguru import logger

from appliance.mlflow_guard import MlflowGuard
from tableloop.credentials import AdminLogin
from tableloop.host_names import HostNames
from tableloop.listener import listen
from tableloop.object_storage import MLFLOW as ARTIFACTS
from tableloop.object_storage import ObjectStorage
from tableloop.settings import load_settings
from tableloop.state.layout import Layout


def server_environment(database_url: str = "", storage: ObjectStorage | None = None) -> dict[str, str]:
    """Return what ``mlflow server`` hands to its worker: SQLite and proxied artifacts, both in the working directory.

    Relative, because MLflow takes a path with a percent sign or a quote apart as the URL it becomes. With
    ``database_url`` the tables are in that database, with ``storage`` the artifacts are there. They are handed
    through all the same, so that clients need no way to the storage and no login for it.
    """
    from mlflow.server import constants as names  # noqa: PLC0415 - 2 s, not for those who only import this module

    uri = "sqlite:///mlflow.db"
    if database_url:
        from appliance.mlflow_postgres import mlflow_uri  # noqa: PLC0415 - psycopg

        uri = mlflow_uri(database_url)
    return {
        names.BACKEND_STORE_URI_ENV_VAR: uri,
        names.REGISTRY_STORE_URI_ENV_VAR: uri,
        names.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        names.SERVE_ARTIFACTS_ENV_VAR: "true",
        names.ARTIFACTS_DESTINATION_ENV_VAR: storage.address(ARTIFACTS) if storage else "./artifacts",
    }


def main() -> None:
    """Serve until a signal."""
    settings = load_settings()
    os.chdir(Layout(settings.state_dir).mlflow)
    # MLflow reads this when it is first imported, which `server_environment` does. The guard decides instead.
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = "*"
    url = settings.database_url.get_secret_value()
    os.environ.update(server_environment(url, ObjectStorage.of(settings)))
    # Which WSGI bridge MLflow uses is between it and Starlette.
    warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")
    from mlflow.server.fastapi_app import app  # noqa: PLC0415 - after the environment is set

    layout = Layout(settings.state_dir)
    logger.remove()
    line = "{time:YYYY-MM-DDTHH:mm:ss.SSSZZ} {message}"
    logger.add(layout.registry_log, rotation="10 MB", retention=2, watch=True, format=line)
    guard = MlflowGuard(app, HostNames(settings.allowed_hosts), AdminLogin(layout.admin_password))
    config = uvicorn.Config(guard, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listen(settings.bind_address, settings.mlflow_port)])


if __name__ == "__main__":
    main()
