"""What is asked of the MLflow server over plain HTTP, without the seconds that importing its client takes."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request

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
    query = urllib.parse.urlencode({"name": model, "alias": alias})
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/alias?{query}"
    try:
        with _opener.open(address, timeout=10) as answer:
            return bool(json.load(answer)["model_version"]["version"])
    except urllib.error.HTTPError as error:
        # No such model is a 404, no such alias a 400, told apart from other mistakes by the code in the answer.
        code = json.loads(error.read() or b"{}").get("error_code")
        if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
