"""What every request gets: an id, a size limit, a log line, metrics, and a 500 if it crashes."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException
from loguru import logger
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.file_predictions import MAX_FILE_BYTES, MEDIA_TYPES, media_type
from app.identifiers import new_id
from app.logs import RequestLog
from app.metrics import HttpMetrics

MAX_BODY_BYTES = 10 * 1024 * 1024
_CLOSE = {"Connection": "close"}
_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class RequestMiddleware:
    """Gives a request its id, its one line in the log and its place in the HTTP metrics.

    Plain ASGI, because Starlette's classes for middleware cost more time than the prediction. Routes add to the log
    line through ``scope["line"]``, which has the ``request_id``.
    """

    def __init__(self, app: ASGIApp, request_log: RequestLog, metrics: HttpMetrics) -> None:
        self._app = app
        self._log = request_log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given, length = _headers(scope)
        request_id = given or new_id()
        id_header = (b"x-request-id", request_id.encode())
        line: dict[str, Any] = {"request_id": request_id}
        scope["line"] = line
        status = 0
        sent_bytes = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append(id_header)
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            limit = _limit(scope)
            if length is None:
                await self._app(scope, _limited(receive, limit), send_with_id)
            elif length > limit:
                # Closing the connection keeps the server from reading the rest of the body.
                await JSONResponse({"detail": _too_large(limit)}, 413, _CLOSE)(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except Exception:
            logger.bind(request_id=request_id).exception(f"request {request_id} failed")
            if status == 0:
                detail = f"internal error; the log has details under request id {request_id}"
                await JSONResponse({"detail": detail}, 500)(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - started
            path = getattr(scope.get("route"), "path", None)
            self._metrics.observe(
                scope["method"], path, status, seconds, request_bytes=length or 0, response_bytes=sent_bytes
            )
            self._log.add(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "level": "INFO",
                    "message": "request",
                    "request_id": request_id,
                    "method": scope["method"],
                    "route": path,
                    "path": scope["path"],
                    "status": status,
                    "ms": round(seconds * 1000, 3),
                    **line,
                }
            )


def _headers(scope: Scope) -> tuple[str | None, int | None]:
    """Return the client's request id, if it can be logged, and the announced length of the body.

    The length is 0 for a request without a body, and None when it is not announced: then the body is counted as it
    arrives.
    """
    request_id: str | None = None
    length: int | None = 0
    chunked = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"x-request-id" and _SANE_ID.fullmatch(value):
            request_id = value.decode()
    return request_id, None if chunked else length


def _limit(scope: Scope) -> int:
    """Return the size limit of the body: larger for files, which are not held in memory."""
    is_file = scope["path"] == "/predict/batch" and media_type(scope) in MEDIA_TYPES
    return MAX_FILE_BYTES if is_file else MAX_BODY_BYTES


def _limited(receive: Receive, limit: int) -> Receive:
    """Return a `receive` that stops reading a body of unknown length at the limit."""
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
    return f"the body is larger than {limit // 1024**2} MB"
