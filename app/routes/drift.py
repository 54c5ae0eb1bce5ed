"""The last report of the drift monitor, as JSON, text or a page."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from app import openapi
from app.accepted import accepted
from app.deps import AppParts
from app.drift_metrics import NO_REPORT, read_report
from app.schemas import DriftReport
from tableloop.drift.report import as_html, as_text

_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
Format = Literal["json", "text", "html"]
_FORMS: dict[str, Format] = {"application/json": "json", "text/html": "html", "text/plain": "text"}
_RESPONSES: openapi.Responses = {
    200: {
        "model": DriftReport,
        **openapi.answer("The report, as JSON, as text, or as a page with small histograms"),
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": "not enough data: 12 predictions, 500 are needed\n",
            },
            "text/html": {"schema": {"type": "string"}},
        },
    },
    404: openapi.problem("There has been no check yet", NO_REPORT),
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
    summary="Do recent requests differ from the training data?",
    response_model=None,
    responses=_RESPONSES,
)
def drift(
    request: Request,
    parts: AppParts,
    format: Annotated[  # noqa: A002 - the name in the address
        Format | None, Query(description="By default the format that the Accept header asks for, or JSON")
    ] = None,
) -> Response:
    """Return the last report of the drift monitor: which features moved, how far, and what the monitor does about it.

    The monitor checks recent requests every `DRIFT_INTERVAL_SECONDS`. This call only reads its report.
    """
    report = read_report(parts.store, parts.layout)
    wanted = format or accepted(request.headers.get("accept", ""), _FORMS, "json")
    if wanted == "html":
        return HTMLResponse(as_html(report), headers=_HEADERS)
    return PlainTextResponse(as_text(report)) if wanted == "text" else JSONResponse(report)
