"""Error answers. Each is valid JSON that says what is wrong, whatever the client sent."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.drift_metrics import NoReportError
from app.prediction_writer import PredictionLogError
from tableloop.model_process import ModelProcessError
from tableloop.state.errors import StoreError

MAX_PROBLEMS = 100
MAX_TEXT = 200
WORDS = {"multiple_of": "Input should be a whole number"}  # of a column of integers


class NoModelError(Exception):
    """There is no model to predict with; the message says what the service is waiting for."""


class NotExplainableError(Exception):
    """The version that serves cannot be explained; the message says why."""


class InvalidFileError(RequestValidationError):
    """A file cannot be predicted: the problems that are listed, and how many more there are."""

    def __init__(self, problems: list[Any], unlisted: int) -> None:
        super().__init__(problems)
        self.unlisted = unlisted


def add_handlers(app: FastAPI) -> None:
    """Register the handlers of this module."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for failure in (
        NoReportError,
        NotExplainableError,
        NoModelError,
        PredictionLogError,
        StoreError,
        ModelProcessError,
    ):
        app.add_exception_handler(failure, _failed)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):
        # FastAPI does not decode a body of another type than JSON, and would only say that it is not an object.
        sent = request.headers.get("content-type", "none")[:MAX_TEXT]
        types = "application/json"
        if request.url.path.endswith("/predict/batch"):  # behind ROOT_PATH
            types += ", text/csv or application/vnd.apache.parquet"
        return _answer(415, f"the Content-Type must be {types}, not {sent}")
    problems = error.errors()
    detail = [_plain_problem(problem) for problem in problems[:MAX_PROBLEMS]]
    unlisted = error.unlisted if isinstance(error, InvalidFileError) else 0
    if more := len(problems[MAX_PROBLEMS:]) + unlisted:
        detail.append({"type": "more", "loc": ["body"], "msg": f"{more} more problems are not listed"})
    return _answer(422, detail)


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ClientDisconnect):
        raise error.__cause__
    if error.status_code == 400:
        # FastAPI's answer to a body on which json.loads() fails with anything but a JSONDecodeError
        reason = "it is not UTF-8" if isinstance(error.__cause__, UnicodeDecodeError) else str(error.__cause__)
        return _answer(422, [{"type": "json_invalid", "loc": ["body"], "msg": f"the body is not JSON: {reason}"}])
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"  # `app.middleware` has HEAD answered as GET
    return _answer(error.status_code, error.detail, headers)


async def _failed(_request: Request, error: Exception) -> Response:
    if isinstance(error, (NoReportError, NotExplainableError)):
        return _answer(404, str(error))
    detail = f"the model gives no answer: it {error}" if isinstance(error, ModelProcessError) else str(error)
    return _answer(503, detail, {"Retry-After": "5"})


def _answer(status: int, detail: Any, headers: dict[str, str] | None = None) -> Response:
    # ASCII escapes keep the answer valid when it repeats a lone surrogate from the request.
    body = json.dumps({"detail": detail}, allow_nan=False).encode("ascii")
    return Response(body, status, headers, media_type="application/json")


def _plain_problem(problem: Any) -> dict[str, Any]:
    """Return one validation error in FastAPI's format, without values that JSON cannot hold."""
    plain = {
        "type": problem["type"],
        "loc": [part if isinstance(part, int) else str(part)[:MAX_TEXT] for part in problem["loc"]],
        "msg": WORDS.get(problem["type"], problem["msg"]),
    }
    if problem["type"] == "json_invalid":  # FastAPI's message does not say what is wrong
        return plain | {"msg": f"the body is not JSON: {problem['ctx']['error']}"}
    value = problem.get("input")
    if isinstance(value, str):
        plain["input"] = value[:MAX_TEXT]
    elif isinstance(value, float):
        plain["input"] = value if math.isfinite(value) else str(value)
    elif value is None or (isinstance(value, int) and value.bit_length() <= 64):
        plain["input"] = value
    return plain
