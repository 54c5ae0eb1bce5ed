"""Predictions of one row, of a list and of a file."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.routing import Match, Route
from starlette.types import Scope

from app import file_predictions, openapi
from app.deps import AppParts, LogLine, MayPredict
from app.direct_route import DirectRoute
from app.schemas import FIRST, MAX_BATCH_ROWS, TABLE, Batch, Features, Prediction

_RESPONSES: openapi.Responses = {
    200: openapi.answer("The prediction"),
    413: openapi.problem("The body is larger than 64 KB", "the body is larger than 64 KB"),
    415: openapi.NOT_JSON,
    422: openapi.IMPOSSIBLE_ROW,
    503: openapi.NO_MODEL,
}
_BATCH_RESPONSES: openapi.Responses = {
    200: {**openapi.answer("The predictions, in the order of the rows"), "content": openapi.FILE_OUT},
    406: openapi.problem(
        "`Accept` names none of the types that the answer to a file can have",
        "the answer can be text/csv or application/vnd.apache.parquet, not image/png",
    ),
    413: openapi.problem(
        "A list is larger than 10 MB, or a file is larger than 1 GB", "the body is larger than 10 MB"
    ),
    415: openapi.problem(
        "The body is neither application/json nor a type of file that can be predicted",
        "the Content-Type must be application/json, text/csv or application/vnd.apache.parquet, not text/plain",
    ),
    422: openapi.invalid(
        "A row is impossible, or the file cannot be read; nothing is predicted or logged",
        {"type": "less_than_equal", "loc": ["body", 1, FIRST.name], **openapi.TOO_GREAT},
        {
            "type": "table",
            "loc": ["body", "row 2", FIRST.name],
            "msg": f"the greatest possible is {FIRST.maximum:g}",
            "input": f"{FIRST.maximum + 1:g}",
        },
    ),
    507: openapi.problem(
        "There is no disk space to keep the file while it is predicted",
        "the file cannot be kept in /data/spool (No space left on device): free space there, or send it in parts",
    ),
}


class _FileRoute(Route):
    """Takes bodies that are files, and leaves all others to the next route of the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the request is for this route."""
        match, child = super().matches(scope)
        if match is not Match.FULL or file_predictions.media_type(scope) not in file_predictions.MEDIA_TYPES:
            return Match.NONE, {}
        return match, {**child, "route": self}


def _explain(request: Request) -> None:
    file_predictions.asks_for_reasons(request)  # which refuses what is neither true nor false; lists have no reasons


Explain = Annotated[None, Depends(_explain)]
router = APIRouter(tags=["predictions"], responses=openapi.CRASH, route_class=DirectRoute)


@router.post("/predict", operation_id="predict", summary=f"Predict one {TABLE.row}", responses=_RESPONSES)
async def predict(features: Features, parts: AppParts, line: LogLine, _: MayPredict) -> Prediction:
    """Predict one row.

    All fields are required, in any order. An impossible value is refused with the name of the field. A value outside
    the range of the training data is answered with a warning.
    """
    return await parts.predictor.one(features, line)


router.routes.append(_FileRoute("/predict/batch", file_predictions.predict_table, methods=["POST"]))


@router.post(
    "/predict/batch",
    operation_id="predict_batch",
    summary=f"Predict a list of {TABLE.rows}, or a file",
    description=f"""Predict all rows with the same model version and log them; the answers keep the order of the rows.

A list has at most {MAX_BATCH_ROWS:,} rows. A CSV or Parquet file (up to 1 GB and 10,000,000 rows) is answered with a
file, of the type that `Accept` names or otherwise of its own type. Columns are found by name, other columns are kept,
and `{TABLE.answer}`, `low`, `high`, `model_version` and `prediction_id` are appended. The whole
file is checked before the answer begins. An answer that ends early has no last chunk.

With `explain=true` a file of at most {file_predictions.EXPLAINED_ROWS:,} rows is answered with the contributions of
its inputs too, as `/explain` computes them: the columns `base_value` and `contribution_...` are appended. A row takes
a tenth of a second. A list is answered without them.
""",
    responses=_RESPONSES | _BATCH_RESPONSES,
    openapi_extra={"requestBody": {"content": openapi.FILE_IN}, "parameters": [openapi.EXPLAIN]},
)
async def predict_batch(batch: Batch, parts: AppParts, line: LogLine, _: MayPredict, __: Explain) -> list[Prediction]:
    """Predict a list of rows; files are taken by the route before."""
    return await parts.predictor.many(batch, line)
