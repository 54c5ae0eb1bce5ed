"""What every request gets: an id, a size limit, a log line, metrics, and a 500 if it crashes."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException
from loguru import logger
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.content_encoding import ENCODINGS, unpacked
from app.file_predictions import MAX_FILE_BYTES, MEDIA_TYPES, media_type
from app.identifiers import new_id
from app.logs import RequestLog
from app.metrics import HttpMetrics
from tableloop.host_names import HostNames, is_foreign

MAX_BODY_BYTES = 64 * 1024
MAX_LIST_BYTES = {"/predict/batch": 10 * 1024 * 1024, "/feedback": 1024 * 1024}
CLIENT_LEFT = 499  # nginx's, in the log and the metrics: before its request was whole
LONGEST_PATH = 200  # characters in a line of the log
LONGEST_ENCODING = 100  # characters in an answer
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
MOST_HOSTS = 100  # names that are known to be right, so that they are looked at once
DOCUMENTATION = frozenset(("/docs", "/redoc"))
# FastAPI writes these pages with a script and styles of their own; all that they load is here.
DOCUMENTATION_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_CLOSE = {"Connection": "close"}
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestMiddleware:
    """Gives a request its id, its one line in the log and its place in the HTTP metrics.

    Plain ASGI, because Starlette's classes for middleware cost more time than the prediction. Routes add to the log
    line through ``scope["line"]``, which has the ``request_id``.
    """

    def __init__(
        self, app: ASGIApp, request_log: RequestLog, metrics: HttpMetrics, names: HostNames, root_path: str
    ) -> None:
        self._app = app
        self._names = names
        self._root = root_path
        self._right_hosts: set[bytes] = set()
        self._log = request_log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path = self._path(scope)
        given, length, host, origin, encoding = _headers(scope)
        request_id = given or new_id()
        id_header = (b"x-request-id", request_id.encode())
        line: dict[str, Any] = {"request_id": request_id}
        scope["line"] = line
        method = scope["method"]
        if method == "HEAD":  # the routes answer as to GET, and the server leaves out the body
            scope = {**scope, "method": "GET"}
        status = 0
        sent_bytes = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append(id_header)
                if path in DOCUMENTATION:
                    message["headers"] += DOCUMENTATION_HEADERS
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            limit = _limit(scope, path)
            if (host not in self._right_hosts or origin) and (refusal := self._refusal(scope, host, origin)):
                await JSONResponse({"detail": refusal}, 403, _CLOSE)(scope, receive, send_with_id)
            elif refused := _unread(length, limit, encoding):
                await refused(scope, receive, send_with_id)
            else:
                await self._app(scope, _bounded(receive, length, limit, encoding), send_with_id)
        except ClientDisconnect:
            status = status or CLIENT_LEFT
        except Exception:
            logger.bind(request_id=request_id).exception(f"request {request_id} failed")
            if status == 0:
                detail = f"internal error; the log has details under request id {request_id}"
                await JSONResponse({"detail": detail}, 500)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", None)
            # Any word can be a method, and each would be a time series of its own.
            method = method if method in METHODS else "other"
            self._metrics.observe(
                method, route, status, seconds, request_bytes=length or 0, response_bytes=sent_bytes
            )
            self._log.add(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "level": "INFO",
                    "message": "request",
                    "request_id": request_id,
                    "method": method,
                    "route": route,
                    "path": path[:LONGEST_PATH],
                    "status": status,
                    "ms": round(seconds * 1000, 3),
                    **line,
                }
            )

    def _path(self, scope: Scope) -> str:
        """Return the path without the prefix, which a proxy may have taken off; Starlette wants it in the scope."""
        path: str = scope["path"]
        if self._root:
            path = path[len(self._root) :] if path.startswith(f"{self._root}/") else path
            scope["path"] = self._root + path
        return path

    def _refusal(self, scope: Scope, host: bytes, origin: bytes) -> str | None:
        """Return why a request under this name, or from a page of this origin, is not answered; None when it is."""
        authority = host.decode("latin-1")
        if origin and scope["method"] not in ("GET", "HEAD") and is_foreign(origin.decode("latin-1"), authority):
            return "this request comes from a page of another server"
        # Without a name, as in HTTP/1.0, no browser has been deceived.
        if host and not self._names.answers_under(authority):
            return self._names.refusal(authority)
        if len(self._right_hosts) < MOST_HOSTS:
            self._right_hosts.add(host)
        return None


def _headers(scope: Scope) -> tuple[str | None, int | None, bytes, bytes, str]:
    """Return the client's request id, if it can be logged, the announced length of the body, Host, Origin, encoding.

    The length is 0 for a request without a body, and None when it is not announced: then the body is counted as it
    arrives. The encoding is empty for a body that is sent as it is.
    """
    request_id: str | None = None
    length: int | None = 0
    host = origin = b""
    encoding = ""
    chunked = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
        elif name == b"transfer-encoding":
            chunked = True
            encoding += "," + value.decode("latin-1").lower()
        elif name == b"content-encoding":
            encoding += "," + value.decode("latin-1").lower()
        elif name == b"x-request-id" and _SANE_ID.fullmatch(value):
            request_id = value.decode()
        elif name == b"host":
            host = value
        elif name == b"origin":
            origin = value
    if encoding:
        codings = [word.strip() for word in encoding.split(",")]
        encoding = ", ".join(word for word in codings if word not in ("", "identity", "chunked"))
    if chunked:
        length = None
    return request_id, length, host, origin, encoding if length != 0 else ""


def _limit(scope: Scope, path: str) -> int:
    """Return the size limit of the body: larger for files, which are not held in memory."""
    if path == "/predict/batch" and media_type(scope) in MEDIA_TYPES:
        return MAX_FILE_BYTES
    return MAX_LIST_BYTES.get(path, MAX_BODY_BYTES)


def _unread(length: int | None, limit: int, encoding: str) -> JSONResponse | None:
    """Return the refusal of a body that need not be read for it."""
    # Closing the connection keeps the server from reading the rest of the body.
    if encoding and encoding not in ENCODINGS:
        detail = f"the Content-Encoding {encoding[:LONGEST_ENCODING]} is not read: send gzip, deflate or none"
        return JSONResponse({"detail": detail}, 415, _CLOSE | {"Accept-Encoding": "gzip, deflate"})
    if length is not None and length > limit:
        return JSONResponse({"detail": _too_large(limit)}, 413, _CLOSE)
    return None


def _bounded(receive: Receive, length: int | None, limit: int, encoding: str) -> Receive:
    """Return a `receive` that stops reading a body of unknown length at the limit."""
    if encoding:
        receive = unpacked(receive, encoding)
    elif length is not None:
        return receive
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise HTTPException(413, _too_large(limit), _CLOSE)
        return message

    return limited


def _too_large(limit: int) -> str:
    size = f"{limit >> 20} MB" if limit >= 1 << 20 else f"{limit >> 10} KB"
    return f"the body is larger than {size}"
