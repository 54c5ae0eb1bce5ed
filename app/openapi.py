"""What /openapi.json says beyond the types of requests and answers: groups, errors with examples, headers, files.

The examples of errors are real answers: `tests/integration/service/test_openapi.py` provokes each of them.
"""

from __future__ import annotations

from typing import Any, Final

from app.schemas import FIRST, ID_EXAMPLE, TABLE, TARGET, Invalid, Problem

Responses = dict[int | str, dict[str, Any]]

DESCRIPTION: Final = f"""Predicts for one {TABLE.row} or many: {TARGET.title.lower()}, in {TARGET.unit_words}, with a
90 % interval. Data: {TABLE.description}. The model is the version in the registry that has the alias.

A 200 for a prediction means that the prediction is in the prediction log; a 201 for a label means that the label is
stored. Both hold even if the server is killed the next moment. Every error is JSON with a `detail`: for a 422, a list
of problems with the place of each; otherwise one sentence.

Every answer has the header `X-Request-Id`: the one sent with the request if it has 1 to 128 letters, digits and
`._:-`, otherwise a new one. The request can be found in the log by it.

Predicting and reading need no key until the operator asks for one. Sending labels always needs a key of scope
`label`, or the administrator's login.
"""
LICENCE: Final = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
GROUPS: Final = [
    {"name": "predictions", "description": "Predict one row, a list of rows, or a file."},
    {"name": "feedback", "description": "Send the true values of earlier predictions. Retrainings learn from them."},
    {"name": "drift", "description": "Compare recent requests with the training data."},
    {"name": "system", "description": "The model that serves, the state of all services, and metrics."},
]

HEADERS: Final = {
    "X-Request-Id": {
        "description": "The id of this request in the log",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        "example": ID_EXAMPLE,
    }
}
RETRY: Final = {
    "Retry-After": {
        "description": "Try again after this many seconds",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "5",
    }
}


def answer(description: str, example: Any = None, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the description of an answer whose type FastAPI knows."""
    described: dict[str, Any] = {"description": description, "headers": HEADERS | (headers or {})}
    if example is not None:
        described["content"] = {"application/json": {"example": example}}
    return described


def problem(description: str, detail: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the description of an error whose detail is one sentence."""
    return {"model": Problem} | answer(description, {"detail": detail}, headers)


def invalid(description: str, *problems: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a 422."""
    return {"model": Invalid} | answer(description, {"detail": list(problems)})


CRASH: Final[Responses] = {
    500: problem(
        "The service or the model failed; the log has details under the request id",
        f"internal error; the log has details under request id {ID_EXAMPLE}",
    ),
}
NO_KEY: Final = problem(
    "There is no key, or one that is not known",
    "this call needs a key: send Authorization: Bearer with a key of scope label (make key NAME=... SCOPE=label "
    "makes one), or log in as admin with the password in secrets/admin-password under STATE_DIR",
    {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}, "example": "Bearer"}},
)
OTHER_SCOPE: Final = problem(
    "The key is of another scope", "the key crm is of scope predict, and this call needs one of label"
)
NOT_JSON: Final = problem(
    "The body is not application/json", "the Content-Type must be application/json, not text/plain"
)
_NO_ANSWER: Final = "the registry does not answer (<urlopen error [Errno 111] Connection refused>)"
NO_MODEL: Final = problem(
    "There is no model yet, or the prediction log cannot be written",
    f"there is no model to predict with yet: {_NO_ANSWER}",
    RETRY,
)
NOT_READY: Final = {
    "status": "not ready",
    "detail": _NO_ANSWER,
    "model_version": None,
    "source": None,
    "prediction_log": "on",
    "processes": 1,
}
METRICS: Final = {
    **answer("Counters, gauges and histograms, one sample per line"),
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
TOO_GREAT: Final = {"msg": f"Input should be less than or equal to {FIRST.maximum:g}", "input": FIRST.maximum + 1}
NO_HISTORY: Final = problem("The history cannot be read", "database is locked", RETRY)
IMPOSSIBLE_ROW: Final = invalid(
    "A field is missing, unknown, not a number or impossible, or the body is not JSON; nothing is logged",
    {"type": "less_than_equal", "loc": ["body", FIRST.name], **TOO_GREAT},
)

_HEADER_LINE = ",".join(TABLE.feature_names)
_ROW_LINE = ",".join(column.as_csv(column.example) for column in TABLE.features)
FILE_IN: Final = {
    "text/csv": {
        "schema": {
            "type": "string",
            "minLength": 1,
            "description": "UTF-8 with a header line; columns are found by name, in any order; up to 1 GB",
        },
        "example": f"{_HEADER_LINE}\n{_ROW_LINE}\n",
    },
    "application/vnd.apache.parquet": {
        "schema": {
            "type": "string",
            "format": "binary",
            "minLength": 1,
            "description": "Columns are found by name and may have any numeric type; up to 1 GB",
        },
    },
}
EXPLAIN: Final = {
    "name": "explain",
    "in": "query",
    "description": "Of a file: whether the contributions of the inputs are appended to each row. "
    "It does nothing to a list",
    "schema": {"type": "boolean", "default": False},
}
FILE_OUT: Final = {
    "text/csv": {
        "schema": {"type": "string", "description": "The rows of the file with five more columns"},
        "example": f"{_HEADER_LINE},{TABLE.answer},low,high,model_version,prediction_id\n"
        f"{_ROW_LINE},{TARGET.example},{0.8 * TARGET.example:g},{1.2 * TARGET.example:g},1,{ID_EXAMPLE}\n",
    },
    "application/vnd.apache.parquet": {
        "schema": {"type": "string", "format": "binary", "description": "As for CSV; all columns keep their types"},
    },
}
