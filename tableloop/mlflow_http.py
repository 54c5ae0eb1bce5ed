"""What is asked of the MLflow server over plain HTTP, without the seconds that importing its client takes."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

WAIT_SECONDS = 120
CHECK_SECONDS = 5.0
MOST_PAGES = 10  # of a search, where other models have names that are alike
WANTS_LOGIN = (401, 403)
ABSENT = ("RESOURCE_DOES_NOT_EXIST",)
HERE = "mlflow-artifacts:"  # begins the address of artifacts that a server hands through
# The server is beside us or on a private network: a proxy of the environment has no business in between.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class UnusableServerError(Exception):
    """The server cannot be the registry; the message says why and the remedy."""


def is_healthy(uri: str) -> bool:
    """Return whether the server answers; an address that is not HTTP (a database, a directory) always does."""
    if not uri.startswith(("http://", "https://")):
        return True
    try:
        with _opener.open(f"{uri.rstrip('/')}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in WANTS_LOGIN
    except (OSError, http.client.HTTPException):
        return False


def wait_until_healthy(uri: str, seconds: float = WAIT_SECONDS) -> bool:
    """Return whether the server answers before the seconds are over."""
    deadline = time.monotonic() + seconds
    while not is_healthy(uri):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def check_server(uri: str, experiment: str, login: str = "") -> None:
    """Return when the server can be the registry: it answers, takes the login, and hands artifacts through.

    Raises
    ------
    OSError
        It does not answer.
    UnusableServerError
        It answers, and cannot be used as it is.
    """
    try:
        # Of the experiment where there is one: it keeps its place, whatever the server is started with later.
        found = _experiment(uri, login, "get-by-name", experiment_name=experiment) or _experiment(
            uri, login, "get", experiment_id="0"
        )
        if found and not found["artifact_location"].startswith(HERE):
            raise UnusableServerError(
                f"it keeps artifacts at {found['artifact_location']} and does not hand them through: start it with "
                "--serve-artifacts and --artifacts-destination"
            )
        _get(uri, "mlflow-artifacts/artifacts", CHECK_SECONDS, login)
    except urllib.error.HTTPError as error:
        if error.code in WANTS_LOGIN:
            wrong = "it does not take the login of" if login else "it wants a login: set"
            reason = f"{wrong} MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD ({error.code} {error.reason})"
        elif error.code == http.HTTPStatus.SERVICE_UNAVAILABLE:
            reason = "it does not hand artifacts through: start it with --serve-artifacts"
        else:
            reason = f"what answers there is no MLflow server ({error.code} {error.reason})"
        raise UnusableServerError(reason) from None
    except (http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise UnusableServerError(f"what answers there is no MLflow server ({error!r})") from None


def _experiment(uri: str, login: str, call: str, **query: str) -> dict[str, Any] | None:
    answer = _get_if_there(uri, f"mlflow/experiments/{call}", CHECK_SECONDS, login, ABSENT, **query)
    found: dict[str, Any] | None = answer and answer["experiment"]
    return found


def has_alias(uri: str, model: str, alias: str, *, login: str = "") -> bool:
    """Return whether the registry behind an HTTP address has a version of the model under this alias.

    Raises
    ------
    OSError
        When the server does not answer, or answers with an error other than "there is none".
    """
    return find_alias(uri, model, alias, login=login) is not None


def find_alias(uri: str, model: str, alias: str, *, seconds: float = 10, login: str = "") -> dict[str, Any] | None:
    """Return the version under this alias as the server describes it, None when there is none.

    Raises
    ------
    OSError
        When the server does not answer, or answers with an error other than "there is none".
    """
    # No such model is a 404, no such alias a 400, told apart from other mistakes by the code in the answer.
    absent = (*ABSENT, "INVALID_PARAMETER_VALUE")
    answer = _get_if_there(uri, "mlflow/registered-models/alias", seconds, login, absent, name=model, alias=alias)
    version: dict[str, Any] | None = answer and answer["model_version"]
    return version


def search_versions(
    uri: str, model: str, limit: int, *, seconds: float = 10, login: str = ""
) -> list[dict[str, Any]]:
    """Return the newest versions of a model as the server describes them, the newest first; none without the model.

    Raises
    ------
    OSError
        When the server does not answer, or answers with an error.
    """
    # MLflow's filters have no way to write a name with a quote in it: there, any character may stand in its place.
    comparison = "LIKE" if "'" in model else "="
    pattern = re.sub(r"['\\]", "_", model) if comparison == "LIKE" else model
    query = {"filter": f"name {comparison} '{pattern}'", "order_by": "version_number DESC", "max_results": str(limit)}
    found: list[dict[str, Any]] = []
    for _ in range(MOST_PAGES):
        answer = _get(uri, "mlflow/model-versions/search", seconds, login, **query)
        found += [version for version in answer.get("model_versions", []) if version["name"] == model]
        token = answer.get("next_page_token")
        if len(found) >= limit or not token:
            break
        query["page_token"] = token
    return found[:limit]


def find_aliases(uri: str, model: str, *, seconds: float = 10, login: str = "") -> dict[str, list[str]]:
    """Return the aliases of each version that has any, by its number; none without the model.

    Raises
    ------
    OSError
        When the server does not answer, or answers with an error other than "there is none".
    """
    answer = _get_if_there(uri, "mlflow/registered-models/get", seconds, login, name=model)
    aliases: dict[str, list[str]] = {}
    if answer is None:
        return aliases
    for alias in answer["registered_model"].get("aliases", []):
        aliases.setdefault(str(alias["version"]), []).append(str(alias["alias"]))
    return aliases


def run_metrics(uri: str, run_id: str, *, seconds: float = 10, login: str = "") -> dict[str, float]:
    """Return the newest value of each metric of a run; none without the run.

    Raises
    ------
    OSError
        When the server does not answer, or answers with an error other than "there is none".
    """
    answer = _get_if_there(uri, "mlflow/runs/get", seconds, login, run_id=run_id)
    if answer is None:
        return {}
    return {str(metric["key"]): float(metric["value"]) for metric in answer["run"]["data"].get("metrics", [])}


def download_version(
    uri: str, model: str, version: str, directory: Path, *, seconds: float = 30, login: str = ""
) -> None:
    """Put the files of a version into ``directory``, from a server that hands artifacts through.

    Raises
    ------
    OSError
        When the server does not answer, or keeps its artifacts elsewhere.
    """
    call = "mlflow/model-versions/get-download-uri"
    where = _get(uri, call, seconds, login, name=model, version=version)["artifact_uri"]
    if not where.startswith(HERE):
        raise OSError(f"version {version} lies at {where}, which is not on the server")
    _download(uri, where.removeprefix(HERE).lstrip("/"), directory, seconds, login)


def _download(uri: str, path: str, directory: Path, seconds: float, login: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for file in _get(uri, "mlflow-artifacts/artifacts", seconds, login, path=path).get("files", []):
        name = Path(file["path"]).name
        if file.get("is_dir"):
            _download(uri, f"{path}/{name}", directory / name, seconds, login)
            continue
        address = f"{uri.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts/{urllib.parse.quote(f'{path}/{name}')}"
        with _open(address, seconds, login) as answer, (directory / name).open("wb") as target:
            shutil.copyfileobj(answer, target)


def _open(address: str, seconds: float, login: str) -> Any:
    headers = {"Authorization": login} if login else {}
    return _opener.open(urllib.request.Request(address, headers=headers), timeout=seconds)  # noqa: S310 - of a setting


def _get(uri: str, call: str, seconds: float, login: str = "", **query: str) -> dict[str, Any]:
    address = f"{uri.rstrip('/')}/api/2.0/{call}?{urllib.parse.urlencode(query)}"
    with _open(address, seconds, login) as answer:
        content: dict[str, Any] = json.load(answer)
    return content


def _get_if_there(
    uri: str, call: str, seconds: float, login: str, absent: tuple[str, ...] = ABSENT, **query: str
) -> dict[str, Any] | None:
    """Return the answer, None where it is an error with one of these codes: there is no such thing."""
    try:
        return _get(uri, call, seconds, login, **query)
    except urllib.error.HTTPError as error:
        if _error_code(error) in absent:
            return None
        raise


def _error_code(error: urllib.error.HTTPError) -> str | None:
    try:
        answer = json.loads(error.read())
    except ValueError:
        return None
    return answer.get("error_code") if isinstance(answer, dict) else None
