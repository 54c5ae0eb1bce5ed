"""Predictions of one house and of a list."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.routing import Match, Route
from starlette.types import Scope

from app import file_predictions, openapi
from app.direct_route import DirectRoute
from app.predictor import Predictor
from app.schemas import Batch, HouseFeatures, Prediction

_RESPONSES: openapi.Responses = {
    200: openapi.answer("The prediction"),
    413: openapi.TOO_LARGE,
    415: openapi.NOT_JSON,
    422: openapi.IMPOSSIBLE_ROW,
    503: openapi.NO_MODEL,
}
_BATCH_RESPONSES: openapi.Responses = {
    200: {**openapi.answer("The predictions, in the order of the rows"), "content": openapi.FILE_OUT},
    406: openapi.problem(
        "The client accepts neither of the types that a file can be answered by",
        "the answer can be text/csv or application/vnd.apache.parquet, not image/png",
    ),
    413: openapi.problem("A list is larger than 10 MB, or a file than 1 GB", "the body is larger than 10 MB"),
    415: openapi.problem(
        "The body is neither application/json nor one of the types of files",
        "the Content-Type must be application/json, text/csv or application/vnd.apache.parquet, not text/plain",
    ),
    422: openapi.invalid(
        "A row is impossible, or the file is none that can be read; nothing is predicted or logged",
        {
            "type": "less_than_equal",
            "loc": ["body", 1, "Latitude"],
            "msg": "Input should be less than or equal to 90",
            "input": 91,
        },
        {
            "type": "table",
            "loc": ["body", "row 2", "Latitude"],
            "msg": "the greatest possible is 90",
            "input": "91",
        },
    ),
    507: openapi.problem(
        "There is no room to keep the file while it is predicted",
        "the file cannot be kept in /data/spool (No space left on device): free space there, or send it in parts",
    ),
}


class _FileRoute(Route):
    """Takes bodies that are files, and leaves all others to the routes after it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the request is for this route."""
        match, child = super().matches(scope)
        if match is not Match.FULL or file_predictions.media_type(scope) not in file_predictions.MEDIA_TYPES:
            return Match.NONE, {}
        return match, {**child, "route": self}


router = APIRouter(tags=["predictions"], responses=openapi.CRASH, route_class=DirectRoute)


@router.post(
    "/predict",
    operation_id="predict",
    summary="Predict the median house value of one block group",
    responses=_RESPONSES,
)
async def predict(features: HouseFeatures, request: Request) -> Prediction:
    """Predict one row.

    All eight fields are required, in any order. What cannot be true is refused with the name of the field; what lies
    outside of what the model has seen is answered, with a warning.
    """
    predictor: Predictor = request.app.state.predictor
    return await predictor.one(features, request.scope["request_id"], request.scope["line"])


router.routes.append(_FileRoute("/predict/batch", file_predictions.predict_table, methods=["POST"]))


@router.post(
    "/predict/batch",
    operation_id="predict_batch",
    summary="Predict a list of block groups, or a file of them",
    responses=_RESPONSES | _BATCH_RESPONSES,
    openapi_extra={"requestBody": {"content": openapi.FILE_IN}},
)
async def predict_batch(batch: Batch, request: Request) -> list[Prediction]:
    """Predict all rows by the same model version and log them; the answers keep the order of the rows.

    A list has at most 10,000 rows. A CSV or Parquet file (up to 1 GB and 10,000,000 rows) is answered by a file, of
    the type that `Accept` names or else of its own: its columns are found by name, more columns go through as they
    are, and `predicted_median_house_value`, `low`, `high`, `model_version` and `prediction_id` are appended. All of
    a file is checked before its answer begins; an answer that ends early lacks its last chunk.
    """
    predictor: Predictor = request.app.state.predictor
    return await predictor.many(batch, request.scope["request_id"], request.scope["line"])
