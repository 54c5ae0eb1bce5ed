"""The drift monitor's last report, in the form that the asker likes best."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from app import openapi
from app.drift_metrics import NO_REPORT, read_report
from app.schemas import DriftReport
from tableloop.drift.report import as_html, as_text

Format = Literal["json", "text", "html"]
_RESPONSES: openapi.Responses = {
    200: {
        "model": DriftReport,
        **openapi.answer("The report, as JSON, as text or as a page with small histograms"),
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": "not enough data: 12 predictions, 500 are needed\n",
            },
            "text/html": {"schema": {"type": "string"}},
        },
    },
    404: openapi.problem("No check has been made yet", NO_REPORT),
    422: openapi.invalid(
        "There is no such format",
        {
            "type": "literal_error",
            "loc": ["query", "format"],
            "msg": "Input should be 'json', 'text' or 'html'",
            "input": "pdf",
        },
    ),
}
router = APIRouter(tags=["drift"], responses=openapi.CRASH)


@router.get(
    "/drift",
    operation_id="drift",
    summary="Are the newest predictions of other houses than the model knows?",
    response_model=None,
    responses=_RESPONSES,
)
def drift(
    request: Request,
    format: Annotated[  # noqa: A002 - the name in the address
        Format | None, Query(description="Without it, what the Accept header asks for, else JSON")
    ] = None,
) -> Response:
    """Return the last report of the drift monitor: what moved, how much, which way, and what follows from it.

    It looks at the newest predictions every `DRIFT_INTERVAL_SECONDS`; asking here computes nothing.
    """
    report = read_report(request.app.state.store, request.app.state.layout)
    wanted = format or _accepted(request.headers.get("accept", ""))
    if wanted == "html":
        return HTMLResponse(as_html(report))
    if wanted == "text":
        return PlainTextResponse(as_text(report))
    return JSONResponse(report)


def _accepted(accept: str) -> Format:
    """Return the first form that the header names; browsers name HTML first."""
    kinds: dict[str, Format] = {"application/json": "json", "text/html": "html", "text/plain": "text"}
    for kind in accept.split(","):
        if known := kinds.get(kind.partition(";")[0].strip().lower()):
            return known
    return "json"
