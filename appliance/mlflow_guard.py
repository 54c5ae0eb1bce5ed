"""The guard in front of MLflow's application: open to look, closed to change.

Everyone may read what is listed in `READS`. What is listed in `WRITES` needs the administrator's login, by HTTP
Basic, which MLflow's clients and browsers speak. Nothing else exists here: MLflow grows calls with every version (a
gateway to language models, jobs, an assistant that drives programs), and what nobody has looked at stays closed.

Its own check of host names knows localhost and private addresses only, and takes its own pages under another name for
foreign ones. So names are checked here (`tableloop.host_names`), and the Origin of a page of this server is dropped.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from loguru import logger
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tableloop.credentials import WRONG_LOGIN_SECONDS, AdminLogin, NoPasswordError
from tableloop.host_names import HostNames, is_foreign
from tableloop.log_text import printable

MOST_JSON: Final = 1 << 20  # bytes of a call, as MLflow's own limit of log-batch
MOST_ARTIFACT: Final = 256 << 20  # bytes of a file, which MLflow's bridge to Flask holds in memory
LONGEST_NOTE: Final = 300

_API = r"/(?:ajax-)?api/"
_NAME = r"[^/]+"
READS: Final = {
    "GET": re.compile(
        rf"/|/health|/version|/static-files/.+|/get-artifact|/model-versions/get-artifact"
        rf"|{_API}2\.0/mlflow/(?:"
        r"experiments/(?:get|get-by-name|search)"
        r"|runs/get|artifacts/list|metrics/get-history(?:-bulk|-bulk-interval)?"
        r"|registered-models/(?:get|search|get-latest-versions|alias)"
        r"|model-versions/(?:get|search|get-download-uri)"
        rf"|logged-models/{_NAME}(?:/artifacts/(?:directories|files))?"
        r")"
        rf"|{_API}2\.0/mlflow-artifacts/artifacts(?:/.*)?"
        rf"|{_API}3\.0/mlflow/(?:server-info|datasets/search|datasets/{_NAME})"
    ),
    "POST": re.compile(
        rf"/graphql|{_API}2\.0/mlflow/(?:experiments/search|runs/search|registered-models/get-latest-versions"
        r"|logged-models/search)"
        # The second spelling is that of MLflow's page.
        rf"|{_API}2\.0/?mlflow/experiments/search-datasets|{_API}3\.0/mlflow/(?:traces/search|datasets/search)"
    ),
}
WRITES: Final = re.compile(
    rf"{_API}2\.0/mlflow/(?:experiments|runs|registered-models|model-versions|logged-models)(?:/.+)?"
    rf"|{_API}2\.0/mlflow/upload-artifact"
    rf"|{_API}2\.0/mlflow-artifacts/artifacts/.+"
    rf"|{_API}3\.0/mlflow/(?:traces|datasets)(?:/.+)?"
)
CHANGES: Final = ("POST", "PUT", "PATCH", "DELETE", "GET")
FILES: Final = re.compile(rf"{_API}2\.0/mlflow(?:-artifacts/artifacts/.+|/upload-artifact)")
# With artifacts in object storage MLflow offers clients addresses, which it signs, to fetch and send them there. Here
# they go through this server: a client needs no way to the storage.
ABILITIES: Final = re.compile(rf"{_API}3\.0/mlflow/server-info")
DECLINED: Final = {"multipart_uploads_enabled": False, "multipart_downloads_enabled": False}
# MLflow's list of runs asks which language models there are, and shows an error when nobody answers.
ENDPOINTS: Final = ("GET", "/ajax-api/2.0/mlflow/gateway-proxy", b"gateway_path=api%2F2.0%2Fendpoints%2F")
HERE: Final = "mlflow-artifacts:/"
PLACES: Final = {
    "artifact_location": (HERE,),
    "artifactLocation": (HERE,),  # protobuf reads both spellings
    "source": (HERE, "models:/", "runs:/"),
}
NOTED: Final = ("name", "version", "alias", "key", "run_id", "experiment_id", "model_id", "new_name")


class MlflowGuard:
    """An ASGI application that lets through what may be asked, and notes what was changed."""

    def __init__(self, app: ASGIApp, names: HostNames, login: AdminLogin) -> None:
        self._app = app
        self._names = names
        self._login = login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        method, path = scope["method"], scope["path"]
        reads = _reads(method, path)
        refused = self._refusal(scope, headers, reads=reads) or await self._check_login(
            headers, (scope.get("client") or ("?",))[0], reads=reads
        )
        if refused:
            await refused(scope, receive, send)
            return
        note = ""
        if not FILES.fullmatch(path) or method not in ("PUT", "POST"):
            body = await _read(receive, MOST_JSON)
            if body is None:
                await _too_large(MOST_JSON)(scope, receive, send)
                return
            if method == "POST" and path == "/graphql" and not _only_asks(body):
                await _error(403, "PERMISSION_DENIED", "only queries are answered here")(scope, receive, send)
                return
            if wrong := _foreign_place(body):
                await _error(400, "INVALID_PARAMETER_VALUE", wrong)(scope, receive, send)
                return
            note, receive = _note(body), _replay(body, receive)
        if "origin" in headers:
            scope = {**scope, "headers": [(key, value) for key, value in scope["headers"] if key != b"origin"]}
        await self._pass_on(scope, receive, send, note=None if reads else note)

    def _refusal(self, scope: Scope, headers: Mapping[str, str], *, reads: bool) -> Response | None:
        """Return what to answer to a request that nobody may make."""
        authority = headers.get("host", "")
        if not self._names.answers_under(authority):
            return PlainTextResponse(f"{self._names.refusal(authority)}\n", 403)
        if (
            "origin" in headers
            and is_foreign(headers["origin"], authority)
            and scope["method"] not in ("GET", "HEAD")
        ):
            return _error(403, "PERMISSION_DENIED", "this call comes from a page of another server")
        if not reads and not _writes(scope["method"], scope["path"]):
            if (scope["method"], scope["path"], scope["query_string"]) == ENDPOINTS:
                return JSONResponse({"endpoints": []})
            return _error(404, "ENDPOINT_NOT_FOUND", "there is no such call here")
        if headers.get("content-encoding", "identity").lower() != "identity":
            return _error(415, "INVALID_PARAMETER_VALUE", "a compressed body is not read here")
        most, length = (
            MOST_ARTIFACT if FILES.fullmatch(scope["path"]) else MOST_JSON,
            headers.get("content-length", "0"),
        )
        return None if length.isdigit() and int(length) <= most else _too_large(most)

    async def _check_login(self, headers: Mapping[str, str], client: str, *, reads: bool) -> Response | None:
        """Return what to answer to a request without the login that it needs; one that is given must be right."""
        given = headers.get("authorization")
        if reads and given is None:
            return None
        try:
            if given is not None and self._login.holds(given):
                return None
        except NoPasswordError as error:
            return _error(503, "TEMPORARILY_UNAVAILABLE", str(error))
        if given is not None:
            logger.info("refused: a wrong login from {}", client)
            await asyncio.sleep(WRONG_LOGIN_SECONDS)
        answer = _error(
            401,
            "UNAUTHENTICATED",
            "changing the registry needs the login of the administrator: user admin, password in the file "
            "secrets/admin-password under STATE_DIR; clients take MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD",
        )
        answer.headers["WWW-Authenticate"] = 'Basic realm="MLflow", charset="UTF-8"'
        return answer

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, *, note: str | None) -> None:
        """Let MLflow answer; cut off a body that turns out too large; log a change, which has a note."""
        status, size = 0, 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_ARTIFACT:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        declines = scope["method"] == "GET" and ABILITIES.fullmatch(scope["path"])
        try:
            await self._app(scope, counted, _declining(noted) if declines else noted)
        except _TooLargeError:
            await _too_large(MOST_ARTIFACT)(scope, receive, noted)
        finally:
            if note is not None:
                client = (scope.get("client") or ("?",))[0]
                what = printable(f"{scope['method']} {scope['path']}{note}"[:LONGEST_NOTE])
                logger.info("admin from {}: {} -> {}", client, what, status or "no answer")


class _TooLargeError(Exception):
    """The body is larger than what is taken."""


def _reads(method: str, path: str) -> bool:
    listed = READS.get("GET" if method == "HEAD" else method)
    return bool(listed and listed.fullmatch(path) and ".." not in path)


def _writes(method: str, path: str) -> bool:
    return bool(method in CHANGES and WRITES.fullmatch(path) and ".." not in path)


async def _read(receive: Receive, most: int) -> bytes | None:
    """Return the whole body; None when it is larger, or when the client goes away."""
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once more, then what comes after it."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _declining(send: Send) -> Send:
    """Return a `send` that changes what MLflow says it can do to what it can do here."""
    start: Message = {}
    body = b""

    async def declined(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
            return
        body += message.get("body", b"")
        if message.get("more_body"):
            return
        if start["status"] == 200:
            body = json.dumps({**json.loads(body), **DECLINED}).encode()
        headers = [(key, value) for key, value in start["headers"] if key.lower() != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    return declined


def _fields(body: bytes) -> Mapping[str, Any]:
    """Return the fields of a JSON body as MLflow reads them: one that is a string is JSON once more."""
    try:
        content = json.loads(body)
        if isinstance(content, str):
            content = json.loads(content)
    except ValueError:
        return {}
    except RecursionError:  # nobody else shall try to read it
        return {"source": "a body too deep to be read"}
    return content if isinstance(content, dict) else {}


def _foreign_place(body: bytes) -> str | None:
    """Return what is wrong with where a call wants artifacts to be; None when they stay on this server."""
    fields = _fields(body)
    for field, places in PLACES.items():
        value = fields.get(field) or HERE
        # With two slashes comes a host, which clients would ask.
        if not isinstance(value, str) or not value.startswith(places) or value.startswith(f"{HERE}/"):
            return f"{field} {printable(str(value)[:LONGEST_NOTE])!r}: artifacts are kept on this server ({HERE})"
    return None


def _only_asks(body: bytes) -> bool:
    """Return whether a GraphQL body holds queries only."""
    try:
        document = parse(str(_fields(body).get("query", "")), max_tokens=2000)
    except (GraphQLError, RecursionError):
        return False
    operations = [part.operation for part in document.definitions if isinstance(part, OperationDefinitionNode)]
    return bool(operations) and all(operation is OperationType.QUERY for operation in operations)


def _note(body: bytes) -> str:
    return "".join(f" {name}={value}" for name, value in _fields(body).items() if name in NOTED)


def _error(status: int, code: str, message: str) -> Response:
    """Return an error in the form of MLflow's own, which its clients show."""
    return JSONResponse({"error_code": code, "message": message}, status)


def _too_large(most: int) -> Response:
    answer = _error(413, "INVALID_PARAMETER_VALUE", f"the body is larger than {most >> 20} MB")
    answer.headers["Connection"] = "close"
    return answer
