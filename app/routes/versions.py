"""The versions of the model side by side, as JSON or a page."""

from __future__ import annotations

from functools import cache
from html import escape
from string import Template
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from app import openapi
from app.accepted import accepted
from app.deps import AppParts
from app.routes.page import PAGE_HEADERS, WEB
from app.schemas import TABLE, Versions
from app.version_history import MOST

Format = Literal["json", "html"]
_FORMS: dict[str, Format] = {"application/json": "json", "text/html": "html"}
_HEADERS = {"Vary": "Accept"}
_RESPONSES: openapi.Responses = {
    200: {
        **openapi.answer("The versions, as JSON or as a page"),
        "content": {"text/html": {"schema": {"type": "string"}}},
    },
    422: openapi.invalid(
        f"The limit is not a number from 1 to {MOST}, or there is no such format",
        {
            "type": "less_than_equal",
            "loc": ["query", "limit"],
            "msg": f"Input should be less than or equal to {MOST}",
            "input": str(MOST + 1),
        },
    ),
    503: openapi.NO_HISTORY,
}
router = APIRouter(tags=["system"], responses=openapi.CRASH)


@router.get(
    "/versions",
    operation_id="versions",
    summary="How do the versions of the model compare?",
    response_model=Versions,
    responses=_RESPONSES,
)
async def versions(
    request: Request,
    parts: AppParts,
    limit: Annotated[int, Query(ge=1, le=MOST, description="Greatest number of versions")] = MOST,
    format: Annotated[  # noqa: A002 - the name in the address
        Format | None, Query(description="By default the format that the Accept header asks for, or JSON")
    ] = None,
) -> Response:
    """Return the newest versions: what each was made from, its scores then, its errors since, and the gate's words.

    Registry and store are asked once in five seconds at most. While the registry does not answer, the versions are
    those that the store knows, and `problem` says what is missing.
    """
    wanted = format or accepted(request.headers.get("accept", ""), _FORMS, "json")
    if wanted == "html":
        return HTMLResponse(_page(parts.settings.model_name), headers=PAGE_HEADERS | _HEADERS)
    found = await parts.versions.newest(limit)
    return Response(found.model_dump_json(), media_type="application/json", headers=_HEADERS)


@cache
def _page(model: str) -> str:
    words = {"model": model, "title": TABLE.title, "unit": TABLE.target.unit_words, "target": TABLE.target.title}
    return Template((WEB / "versions.html").read_text()).substitute(
        {name: escape(str(word)) for name, word in words.items()}
    )
