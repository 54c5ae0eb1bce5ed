"""What is asked of the MLflow server over plain HTTP, without the seconds that importing its client takes."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

WAIT_SECONDS = 120
# The server is beside us or on a private network: a proxy of the environment has no business in between.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_healthy(uri: str) -> bool:
    """Return whether the server answers; an address that is not HTTP (a database, a directory) always does."""
    if not uri.startswith(("http://", "https://")):
        return True
    try:
        with _opener.open(f"{uri.rstrip('/')}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until_healthy(uri: str, seconds: float = WAIT_SECONDS) -> bool:
    """Return whether the server answers before the seconds are over."""
    deadline = time.monotonic() + seconds
    while not is_healthy(uri):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def has_alias(uri: str, model: str, alias: str) -> bool:
    """Return whether the registry behind an HTTP address has a version of the model under this alias.

    Raises
    ------
    OSError
        When the server does not answer, or answers with an error other than "there is none".
    """
    return find_alias(uri, model, alias) is not None


def find_alias(uri: str, model: str, alias: str, seconds: float = 10) -> dict[str, Any] | None:
    """Return the version under this alias as the server describes it, None when there is none.

    Raises
    ------
    OSError
        When the server does not answer, or answers with an error other than "there is none".
    """
    try:
        answer = _get(uri, "mlflow/registered-models/alias", seconds, name=model, alias=alias)
    except urllib.error.HTTPError as error:
        # No such model is a 404, no such alias a 400, told apart from other mistakes by the code in the answer.
        if _error_code(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    version: dict[str, Any] = answer["model_version"]
    return version


def download_version(uri: str, model: str, version: str, directory: Path, seconds: float = 30) -> None:
    """Put the files of a version into ``directory``, from a server that hands artifacts through.

    Raises
    ------
    OSError
        When the server does not answer, or keeps its artifacts elsewhere.
    """
    where = _get(uri, "mlflow/model-versions/get-download-uri", seconds, name=model, version=version)["artifact_uri"]
    scheme, _, path = where.partition(":/")
    if scheme != "mlflow-artifacts":
        raise OSError(f"version {version} lies at {where}, which is not on the server")
    _download(uri, path.lstrip("/"), directory, seconds)


def _download(uri: str, path: str, directory: Path, seconds: float) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for file in _get(uri, "mlflow-artifacts/artifacts", seconds, path=path).get("files", []):
        name = Path(file["path"]).name
        if file.get("is_dir"):
            _download(uri, f"{path}/{name}", directory / name, seconds)
            continue
        address = f"{uri.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts/{urllib.parse.quote(f'{path}/{name}')}"
        with _opener.open(address, timeout=seconds) as answer, (directory / name).open("wb") as target:
            shutil.copyfileobj(answer, target)


def _get(uri: str, call: str, seconds: float, **query: str) -> dict[str, Any]:
    address = f"{uri.rstrip('/')}/api/2.0/{call}?{urllib.parse.urlencode(query)}"
    with _opener.open(address, timeout=seconds) as answer:
        content: dict[str, Any] = json.load(answer)
    return content


def _error_code(error: urllib.error.HTTPError) -> str | None:
    try:
        code: str | None = json.loads(error.read()).get("error_code")
    except ValueError:
        return None
    return code
