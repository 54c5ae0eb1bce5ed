"""What /openapi.json says beyond the types of requests and answers: groups, errors with examples, headers, files.

The examples are answers of the service; `tests/integration/service/test_openapi.py` provokes each of them again.
"""

from __future__ import annotations

from typing import Any, Final

from app.schemas import Invalid, Problem
from tableloop.table import FEATURE_NAMES, FEATURES

Responses = dict[int | str, dict[str, Any]]

TITLE: Final = "House price service"
DESCRIPTION: Final = """Predicts the median house value of a Californian block group of the 1990 census, in units of
100,000 US dollars of 1990, with a 90 % interval. The model is the version that carries the alias in the registry.

A 200 of a prediction means that it is in the prediction log; a 201 of a label, that it is stored. Both hold even if
the server is killed the next moment. Every error is JSON with a `detail`: a list of problems, each with its place,
for a 422, one sentence for everything else.

Every answer carries `X-Request-Id`: the one of the request, if that has 1 to 128 letters, digits and `._:-`, or else
a new one. The log has the request under it. There is no login: who reaches the port may ask.
"""
LICENCE: Final = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
GROUPS: Final = [
    {"name": "predictions", "description": "What a house is worth: one row, a list of rows, or a file of them."},
    {"name": "feedback", "description": "What it was really worth. Labels are what a retraining learns from."},
    {"name": "drift", "description": "Whether the houses asked about are still like those the model was made from."},
    {"name": "system", "description": "Which model serves, whether it can, and how all parts are."},
]

HEADERS: Final = {
    "X-Request-Id": {
        "description": "Under which the log has this request",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        "example": "01a2075a-3a41-763b-9b8c-d69e5df70ea4",
    }
}
RETRY: Final = {
    "Retry-After": {
        "description": "After so many seconds it may work",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "5",
    }
}


def answer(description: str, example: Any = None, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the description of an answer that FastAPI knows the type of."""
    described: dict[str, Any] = {"description": description, "headers": HEADERS | (headers or {})}
    if example is not None:
        described["content"] = {"application/json": {"example": example}}
    return described


def problem(description: str, detail: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the description of an error of one sentence."""
    return {"model": Problem} | answer(description, {"detail": detail}, headers)


def invalid(description: str, *problems: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a 422."""
    return {"model": Invalid} | answer(description, {"detail": list(problems)})


CRASH: Final[Responses] = {
    500: problem(
        "A fault of the service, or of the model; the log has it under the request id",
        "internal error; the log has it under request id 01a2075a-3a41-763b-9b8c-d69e5df70ea4",
    ),
}
TOO_LARGE: Final = problem("The body is larger than 10 MB", "the body is larger than 10 MB")
NOT_JSON: Final = problem(
    "The body is not application/json", "the Content-Type must be application/json, not text/plain"
)
_NO_ANSWER: Final = "the registry does not answer (<urlopen error [Errno 111] Connection refused>)"
NO_MODEL: Final = problem(
    "No model yet, or the prediction log cannot be written",
    f"there is no model to predict with yet: {_NO_ANSWER}",
    RETRY,
)
NOT_READY: Final = {
    "status": "not ready",
    "detail": _NO_ANSWER,
    "model_version": None,
    "source": None,
    "prediction_log": "on",
}
METRICS: Final = {
    **answer("Counters, gauges and histograms, a line each"),
    "content": {
        "text/plain": {
            "schema": {"type": "string"},
            "example": '# TYPE predictions_total counter\npredictions_total{model_version="1"} 42.0\n',
        }
    },
}
NO_LOG: Final = problem(
    "The prediction log cannot be written",
    "the prediction log /data/predictions.db is behind; try again in a moment",
    RETRY,
)
NO_HISTORY: Final = problem("The history cannot be read", "database is locked", RETRY)
IMPOSSIBLE_ROW: Final = invalid(
    "A field is missing, unknown, not a number or impossible, or the body is no JSON; nothing is logged",
    {
        "type": "less_than_equal",
        "loc": ["body", "Latitude"],
        "msg": "Input should be less than or equal to 90",
        "input": 91,
    },
)

_HEADER_LINE = ",".join(FEATURE_NAMES)
_ROW_LINE = ",".join(f"{column.example:g}" for column in FEATURES)
FILE_IN: Final = {
    "text/csv": {
        "schema": {
            "type": "string",
            "minLength": 1,
            "description": "UTF-8 with a header line; the columns of the features by name, in any order; up to 1 GB",
        },
        "example": f"{_HEADER_LINE}\n{_ROW_LINE}\n",
    },
    "application/vnd.apache.parquet": {
        "schema": {
            "type": "string",
            "format": "binary",
            "minLength": 1,
            "description": "The columns of the features by name, of any type of number; up to 1 GB",
        },
    },
}
FILE_OUT: Final = {
    "text/csv": {
        "schema": {"type": "string", "description": "The rows of the file, with five columns appended"},
        "example": f"{_HEADER_LINE},predicted_median_house_value,low,high,model_version,prediction_id\n"
        f"{_ROW_LINE},4.485,3.545,5.00001,1,01a2075a-3a41-763b-9b8c-d69e5df70ea4\n",
    },
    "application/vnd.apache.parquet": {
        "schema": {"type": "string", "format": "binary", "description": "As for CSV; the columns keep their types"},
    },
}
