"""Error answers. Each is valid JSON that says what is wrong, whatever the client sent."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app.drift_metrics import NoReportError
from app.prediction_writer import PredictionLogError
from tableloop.model_process import ModelProcessError
from tableloop.state.database import StoreError

MAX_PROBLEMS = 100
MAX_TEXT = 200


class NoModelError(Exception):
    """There is no model to predict with; the message says what the service is waiting for."""


def add_handlers(app: FastAPI) -> None:
    """Register the handlers of this module."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(NoReportError, _missing)
    app.add_exception_handler(ModelProcessError, _no_answer)
    for temporary in (NoModelError, PredictionLogError, StoreError):
        app.add_exception_handler(temporary, _unavailable)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):
        # FastAPI does not decode a body of another type than JSON, and would only say that it is not an object.
        sent = request.headers.get("content-type", "none")[:MAX_TEXT]
        types = "application/json"
        if request.url.path == "/predict/batch":
            types += ", text/csv or application/vnd.apache.parquet"
        return _answer(415, f"the Content-Type must be {types}, not {sent}")
    problems = error.errors()
    detail = [_plain_problem(problem) for problem in problems[:MAX_PROBLEMS]]
    if len(problems) > MAX_PROBLEMS:
        more = len(problems) - MAX_PROBLEMS
        detail.append({"type": "more", "loc": ["body"], "msg": f"{more} more problems are not listed"})
    return _answer(422, detail)


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        # FastAPI's answer to a body on which json.loads() fails with anything but a JSONDecodeError
        reason = "it is not UTF-8" if isinstance(error.__cause__, UnicodeDecodeError) else str(error.__cause__)
        return _answer(422, [{"type": "json_invalid", "loc": ["body"], "msg": f"the body is not JSON: {reason}"}])
    return _answer(error.status_code, error.detail, dict(error.headers or {}))


async def _unavailable(_request: Request, error: Exception) -> Response:
    return _answer(503, str(error), {"Retry-After": "5"})


async def _no_answer(_request: Request, error: Exception) -> Response:
    return _answer(503, f"the model gives no answer: it {error}", {"Retry-After": "5"})


async def _missing(_request: Request, error: Exception) -> Response:
    return _answer(404, str(error))


def _answer(status: int, detail: Any, headers: dict[str, str] | None = None) -> Response:
    # ASCII escapes keep the answer valid when it repeats a lone surrogate from the request.
    body = json.dumps({"detail": detail}, allow_nan=False).encode("ascii")
    return Response(body, status, headers, media_type="application/json")


def _plain_problem(problem: Any) -> dict[str, Any]:
    """Return one validation error in FastAPI's format, without values that JSON cannot hold."""
    plain = {
        "type": problem["type"],
        "loc": [part if isinstance(part, int) else str(part)[:MAX_TEXT] for part in problem["loc"]],
        "msg": problem["msg"],
    }
    if problem["type"] == "json_invalid":  # FastAPI's message does not say what is wrong
        return plain | {"msg": f"the body is not JSON: {problem['ctx']['error']}"}
    value = problem.get("input")
    if value is None or isinstance(value, bool):
        plain["input"] = value
    elif isinstance(value, str):
        plain["input"] = value[:MAX_TEXT]
    elif isinstance(value, float):
        plain["input"] = value if math.isfinite(value) else str(value)
    elif isinstance(value, int) and value.bit_length() <= 64:
        plain["input"] = value
    return plain
