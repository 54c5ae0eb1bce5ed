"""Predictions of one house and of a list."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.routing import Match, Route
from starlette.types import Scope

from app import tables
from app.predictor import Predictor
from app.schemas import Batch, HouseFeatures, Prediction, Problem

_RESPONSES: dict[int | str, dict[str, Any]] = {
    413: {"model": Problem, "description": "The body is larger than 10 MB"},
    415: {"model": Problem, "description": "The body is not application/json"},
    503: {"model": Problem, "description": "No model yet, or the prediction log cannot be written"},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILES = dict.fromkeys(tables.MEDIA_TYPES, _BINARY)
_BATCH_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": _FILES},
    406: {"model": Problem, "description": "The client accepts neither of the types that a file can be answered by"},
    413: {"model": Problem, "description": "The body is larger than 10 MB, or a file is larger than 1 GB"},
    415: {"model": Problem, "description": "The body is neither application/json nor one of the types of files"},
    507: {"model": Problem, "description": "There is no room to keep the file while it is predicted"},
}


class _FileRoute(Route):
    """Takes bodies that are files, and leaves all others to the routes after it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether the request is for this route."""
        match, child = super().matches(scope)
        if match is not Match.FULL or tables.media_type(scope) not in tables.MEDIA_TYPES:
            return Match.NONE, {}
        return match, {**child, "route": self}


router = APIRouter(tags=["predictions"], responses=_RESPONSES)


@router.post("/predict", summary="Predict the median house value of one block group")
async def predict(features: HouseFeatures, request: Request) -> Prediction:
    """Predict one row. A 200 means that it is in the log, even if the server is killed the next moment."""
    predictor: Predictor = request.app.state.predictor
    return await predictor.one(features, request.scope["request_id"], request.scope["line"])


router.routes.append(_FileRoute("/predict/batch", tables.predict_table, methods=["POST"]))


@router.post(
    "/predict/batch",
    summary="Predict a list of block groups, or a file of them",
    responses=_BATCH_RESPONSES,
    openapi_extra={"requestBody": {"content": _FILES}},
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
