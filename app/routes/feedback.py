"""Labels: what the houses were really worth."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from app.feedback import FeedbackKeeper
from app.schemas import Feedback, FeedbackList, OneOrMoreLabels, Problem

_RESPONSES: dict[int | str, dict[str, Any]] = {
    207: {"model": FeedbackList, "description": "A list of which some labels were refused; each outcome says why"},
    404: {"model": Problem, "description": "No such prediction"},
    409: {"model": Problem, "description": "The prediction has a label already; it stays"},
    413: {"model": Problem, "description": "The body is larger than 10 MB"},
    415: {"model": Problem, "description": "The body is not application/json"},
    503: {"model": Problem, "description": "The prediction log cannot be written"},
}
router = APIRouter(tags=["feedback"], responses=_RESPONSES)


@router.post("/feedback", status_code=201, summary="Tell the true value of a house whose value was predicted")
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
