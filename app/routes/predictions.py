"""Predictions of one house and of a list."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from app.predictor import Predictor
from app.schemas import Batch, HouseFeatures, Prediction, Problem

_RESPONSES: dict[int | str, dict[str, Any]] = {
    413: {"model": Problem, "description": "The body is larger than 10 MB"},
    415: {"model": Problem, "description": "The body is not application/json"},
    503: {"model": Problem, "description": "No model yet, or the prediction log cannot be written"},
}
router = APIRouter(tags=["predictions"], responses=_RESPONSES)


@router.post("/predict", summary="Predict the median house value of one block group")
async def predict(features: HouseFeatures, request: Request) -> Prediction:
    """Predict one row. A 200 means that it is in the log, even if the server is killed the next moment."""
    predictor: Predictor = request.app.state.predictor
    return await predictor.one(features, request.scope["request_id"], request.scope["line"])


@router.post("/predict/batch", summary="Predict a list of block groups")
async def predict_batch(batch: Batch, request: Request) -> list[Prediction]:
    """Predict all rows by the same model version and log them together; the answers keep the order of the rows."""
    predictor: Predictor = request.app.state.predictor
    return await predictor.many(batch, request.scope["request_id"], request.scope["line"])
