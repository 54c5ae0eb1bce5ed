"""The drift monitor's last report, in the form that the asker likes best."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from app.drift import read_report
from app.schemas import Problem
from pipeline.drift_report import as_html, as_text

Format = Literal["json", "text", "html"]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {}, "text/html": {}}, "description": "The report"},
    404: {"model": Problem, "description": "No check has been made yet"},
}
router = APIRouter(tags=["drift"], responses=_RESPONSES)


@router.get("/drift", summary="Are the newest predictions of other houses than the model knows?", response_model=None)
async def drift(
    request: Request,
    format: Annotated[  # noqa: A002 - the name in the address
        Format | None, Query(description="Without it, what the Accept header asks for, else JSON")
    ] = None,
) -> Response:
    """Return the last report of the drift monitor: what moved, how much, which way, and what follows from it."""
    report = read_report(request.app.state.drift_file)
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
