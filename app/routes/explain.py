"""Why a prediction is what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from app import openapi
from app.champion import Champion
from app.deps import AppParts, LogLine, MayPredict, Parts
from app.explanations import MOST_OF_ONE, Explained
from app.schemas import (
    FIRST,
    ID_EXAMPLE,
    TABLE,
    Contribution,
    Explanation,
    IntervalReasons,
    Neighbour,
    Reason,
    RowOrPrediction,
    row_of,
)
from tableloop.state.database import Predicted
from tableloop.table import Value

_RESPONSES: openapi.Responses = {
    200: openapi.answer("The explanation"),
    404: openapi.problem(
        "No such prediction, or the version that serves cannot be explained",
        f"there is no prediction {ID_EXAMPLE} in the log",
    ),
    413: openapi.problem("The body is larger than 64 KB", "the body is larger than 64 KB"),
    415: openapi.NOT_JSON,
    422: openapi.invalid(
        "A field is missing, unknown, not a number or impossible, or the body is not JSON",
        {"type": "less_than_equal", "loc": ["body", "row", FIRST.name], **openapi.TOO_GREAT},
    ),
    503: openapi.problem(
        "There is no model yet, the prediction log cannot be read, or too many explanations are asked for",
        f"{MOST_OF_ONE} explanations are being computed or wait from this address; try again when one has ended",
        openapi.RETRY,
    ),
}
router = APIRouter(tags=["predictions"], responses=openapi.CRASH)


@router.post("/explain", operation_id="explain", summary="Why is a prediction what it is?", responses=_RESPONSES)
async def explain(
    body: RowOrPrediction, request: Request, parts: AppParts, line: LogLine, _: MayPredict
) -> Explanation:
    """Return what each input adds to the average prediction, for a row or for an earlier prediction.

    The contributions are Shapley values against a sample of the rows that the version was trained on. With the base
    value they add up to the prediction. They are exact for at most eight inputs; for more, orders of the inputs are
    drawn, and each has its standard error. The version that serves is explained. Nothing is written to the prediction
    log. One explanation is computed at a time.
    """
    champion = parts.predictor.champion()
    line["model_version"] = champion.version
    client = request.client.host if request.client else ""
    if isinstance(body, dict):
        return await _explained(parts, champion, row_of(body), client)
    line["prediction_id"] = body.prediction_id
    found = await run_in_threadpool(parts.store.prediction, body.prediction_id)
    if found is None:
        raise HTTPException(404, f"there is no prediction {body.prediction_id} in the log")
    answer = await _explained(parts, champion, _values(found), client)
    answer |= {"prediction_id": body.prediction_id, "answered_by": found.model_version}
    if found.model_version != champion.version:
        answer["warnings"].append(
            f"version {found.model_version} answered {found.prediction:g}; what is explained is the answer of "
            f"version {champion.version}, which serves now"
        )
    return answer


async def _explained(parts: Parts, champion: Champion, values: tuple[Value, ...], client: str) -> Explanation:
    row = TABLE.coding.rows([values])[0]
    explained = parts.explanations.known(champion, row)
    if explained is None:
        with parts.explanations.one_of(client):
            explained = await parts.explanations.of(champion, row)
    answer = _answer(champion, explained, dict(zip(TABLE.feature_names, values, strict=True)))
    return answer | {"warnings": champion.warnings(values, explained.kilometres)}


def _values(found: Predicted) -> tuple[Value, ...]:
    """Return the values of a stored prediction as JSON has them; 404 where it lacks one that a row must have."""
    values: list[Value] = []
    for column, value in zip(TABLE.features, found.features, strict=True):
        if value is None and column.required:
            raise HTTPException(404, f"the prediction was made before the table had the column {column.name}")
        # A database has no booleans.
        values.append(bool(value) if column.type == "boolean" and value is not None else value)
    return tuple(values)


def _answer(champion: Champion, explained: Explained, values: dict[str, Value]) -> dict[str, Any]:
    shapley, neighbours = explained.shapley, explained.neighbours
    contributions = [
        Contribution(
            name=input_.name,
            title=input_.title,
            values={name: values[name] for name in (TABLE.feature_names[column] for column in input_.columns)},
            contribution=float(shapley.values[number]),
            standard_error=None if shapley.errors is None else float(shapley.errors[number]),
        )
        for number, input_ in enumerate(TABLE.inputs)
    ]
    return {
        TABLE.answer: shapley.prediction,
        "interval": {"low": explained.low, "high": explained.high, "coverage": champion.coverage},
        "model_version": champion.version,
        "prediction_id": None,
        "answered_by": None,
        "base_value": shapley.base,
        "contributions": sorted(contributions, key=lambda one: -abs(one.contribution)),
        "neighbours": []
        if neighbours is None
        else [
            Neighbour(latitude=north, longitude=east, kilometres=away, actual_value=value, weight=weight)
            for north, east, away, value, weight in sorted(
                np.stack(neighbours, axis=1).tolist(), key=lambda neighbour: -neighbour[-1]
            )
        ],
        "interval_reasons": IntervalReasons(
            width=explained.high - explained.low,
            usual_width=explained.usual_width,
            wider_than=explained.wider_than,
            reasons=[Reason(**fact._asdict()) for fact in explained.facts],
        ),
    }
