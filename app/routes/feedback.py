"""Labels: what the houses were really worth."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from app import openapi
from app.labels import FeedbackKeeper
from app.schemas import Feedback, FeedbackList, OneOrMoreLabels

_RESPONSES: openapi.Responses = {
    201: openapi.answer("The label as it was stored; of a list, what became of each"),
    207: {
        "model": FeedbackList,
        **openapi.answer(
            "A list of which some labels were refused; each outcome says why",
            {
                "stored": 0,
                "refused": 1,
                "outcomes": [
                    {"prediction_id": "nobody", "status": 404, "detail": "there is no prediction nobody in the log"}
                ],
            },
        ),
    },
    404: openapi.problem("No such prediction", "there is no prediction nobody in the log"),
    409: openapi.problem(
        "The prediction has a label already; it stays",
        "prediction 01a2075a-3a41-763b-9b8c-d69e5df70ea4 was labelled 4.526 at 2026-11-23T08:35:00.123+00:00; "
        "a label cannot be changed",
    ),
    413: openapi.TOO_LARGE,
    415: openapi.NOT_JSON,
    422: openapi.invalid(
        "A field is missing, unknown or impossible, or the body is no JSON; nothing is stored, of a list neither",
        {
            "type": "greater_than_equal",
            "loc": ["body", "one", "actual_value"],
            "msg": "Input should be greater than or equal to 0",
            "input": -1,
        },
    ),
    503: openapi.NO_LOG,
}
router = APIRouter(tags=["feedback"], responses=openapi.CRASH)


@router.post(
    "/feedback",
    operation_id="feedback",
    status_code=201,
    summary="Tell the true value of a house whose value was predicted",
    responses=_RESPONSES,
)
async def feedback(body: OneOrMoreLabels, request: Request, response: Response) -> Feedback | FeedbackList:
    """Store one label or a list. What is answered as stored is on disk, even if the server is killed the next moment.

    One label: 201 with what was stored, 404, 409. A list: every label for itself, in the order of the list; 201 when
    all were stored, 207 when some were refused. An impossible value or a wrong shape, 422, is the sender's mistake:
    of such a list nothing is stored. Sending a list again does no harm, a stored label is refused with 409.
    """
    keeper: FeedbackKeeper = request.app.state.feedback
    if not isinstance(body, list):
        request.scope["line"]["prediction_id"] = body.prediction_id
        return await keeper.one(body)
    answer = await keeper.many(body)
    request.scope["line"]["rows"] = len(body)
    if answer.refused:
        response.status_code = 207
    return answer
