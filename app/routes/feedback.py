"""Labels: the true values of earlier predictions."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app import openapi
from app.access import LOGIN
from app.deps import AppParts, Labeller, LogLine
from app.schemas import ID_EXAMPLE, TARGET, Feedback, FeedbackList, OneOrMoreLabels

_RESPONSES: openapi.Responses = {
    201: openapi.answer("The stored label; for a list, the result for each label"),
    207: {
        "model": FeedbackList,
        **openapi.answer(
            "Some labels of a list were refused; each outcome says why",
            {
                "stored": 0,
                "refused": 1,
                "outcomes": [
                    {"prediction_id": "nobody", "status": 404, "detail": "there is no prediction nobody in the log"}
                ],
            },
        ),
    },
    401: openapi.NO_KEY,
    403: openapi.OTHER_SCOPE,
    404: openapi.problem("No such prediction", "there is no prediction nobody in the log"),
    409: openapi.problem(
        "The prediction already has a label, which is kept",
        f"prediction {ID_EXAMPLE} was labelled {TARGET.example:g} at 2026-11-23T08:35:00.123+00:00; "
        "a label cannot be changed",
    ),
    413: openapi.problem("The body is larger than 1 MB", "the body is larger than 1 MB"),
    415: openapi.NOT_JSON,
    422: openapi.invalid(
        "A field is missing, unknown or impossible, or the body is not JSON; not even a part of a list is stored",
        {
            "type": "greater_than_equal",
            "loc": ["body", "one", "actual_value"],
            "msg": f"Input should be greater than or equal to {TARGET.minimum:g}",
            "input": TARGET.minimum - 1,
        },
    ),
    503: openapi.NO_LOG,
}
router = APIRouter(tags=["feedback"], responses=openapi.CRASH)


@router.post(
    "/feedback",
    operation_id="feedback",
    status_code=201,
    summary="Send the true value for an earlier prediction",
    responses=_RESPONSES,
    openapi_extra=LOGIN,
)
async def feedback(
    body: OneOrMoreLabels, response: Response, parts: AppParts, line: LogLine, sender: Labeller
) -> Feedback | FeedbackList:
    """Store one label or a list. A label answered as stored is on disk, even if the server is killed the next moment.

    One label: 201 with the stored label, 404 or 409. A list: each label has its own result, in the order of the list;
    201 when all were stored, 207 when some were refused. When a label has an impossible value or the wrong form, the
    answer is 422 and nothing of the list is stored. Sending a list again is safe: a stored label is refused with 409.

    A value that seems to be in another unit, far from the interval of its prediction and from all usual values, is
    refused by itself with 422, unless `accept_unusual` is true.
    """
    if not isinstance(body, list):
        line["prediction_id"] = body.prediction_id
        return await parts.feedback.one(body, sender)
    answer = await parts.feedback.many(body, sender)
    line["rows"] = len(body)
    if answer.refused:
        response.status_code = 207
    return answer
