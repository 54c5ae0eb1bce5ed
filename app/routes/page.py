"""The front page and what it asks for. These addresses belong to the page and change with it."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from app.deps import AppParts, Parts
from app.drift_metrics import NoReportError, read_report
from app.page_data import NoPlacesError, PageTable, Place, Places, page_table, read_places
from app.routes import system
from app.routes.retrainings import iso, retrainings
from app.schemas import TABLE, Features, Retraining
from tableloop.state.database import StoreError

WEB: Final = Path(__file__).parent.parent / "web"
RETRAININGS: Final = 5
# The page loads, runs and asks only its own files; browsers check each time whether a file has changed.
_HEADERS: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
_PAGE_HEADERS: Final = {
    **_HEADERS,
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def _places() -> Places:
    try:
        return read_places()
    except NoPlacesError as error:
        raise HTTPException(503, str(error)) from error


AllPlaces = Annotated[Places, Depends(_places)]
Latitude = Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Query(ge=-180, le=180, allow_inf_nan=False)]


class PageFiles(StaticFiles):
    """The files of the page, under ``/web``."""

    def __init__(self) -> None:
        super().__init__(directory=WEB)

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        """Return a file, or that it has not changed."""
        response = super().file_response(*arguments, **named)
        response.headers.update(_HEADERS)
        return response


router = APIRouter(include_in_schema=False)


@cache
def _page() -> str:
    words = {name: getattr(TABLE, name) for name in ("title", "description", "source", "row", "rows")} | {
        "target": TABLE.target.title.lower(),
        "unit": TABLE.display.unit,
        "features": len(TABLE.features),
    }
    return Template((WEB / "index.html").read_text()).substitute(
        {name: escape(str(word)) for name, word in words.items()}
    )


@router.get("/")
async def front_page() -> HTMLResponse:
    """Answer with the page, in the words of the table."""
    return HTMLResponse(_page(), headers=_PAGE_HEADERS)


@router.get("/overview")
async def overview(parts: AppParts, response: Response) -> dict[str, Any]:
    """Return what the page shows of the system: answers of other calls, and what happened in the last hour."""
    now = time.time()
    champion = parts.predictor.keeper.current
    ready = await system.ready(parts, response)
    response.status_code = 200
    rmse, labels = parts.feedback.live_errors.rmse(champion.version) if champion else (None, 0)
    return {
        "now": iso(now),
        "health": await system.health(parts),
        "ready": ready,
        "model": champion and await system.model(parts),
        **await run_in_threadpool(_of_the_store, parts),
        "live": {
            "started_at": iso(parts.rates.started),
            "per_minute": parts.rates.per_minute(now),
            "rmse": rmse,
            "labels": labels,
        },
    }


@router.get("/table")
def table(places: AllPlaces, parts: AppParts) -> PageTable:
    """Return the words, numbers and features that the page shows."""
    return page_table(places, parts.predictor.keeper.current)


@router.get("/places")
def all_places(places: AllPlaces, request: Request) -> Response:
    """Return the map of all places: the bytes that `app.page_data.Map` describes."""
    found = places.map
    headers = {"ETag": f'"{found.tag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    body = found.data
    if "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["Content-Encoding"] = found.zipped, "gzip"
    return Response(body, headers=headers, media_type="application/octet-stream")


@router.get("/places/nearest")
def nearest(places: AllPlaces, latitude: Latitude, longitude: Longitude) -> Place:
    """Return the place nearest to a point."""
    return places.nearest(latitude, longitude)


@router.post("/places/comparable")
def comparable(places: AllPlaces, features: Features) -> list[Place]:
    """Return near places that are like a row."""
    return places.comparable(features)


@router.get("/places/example.csv")
def example(places: AllPlaces) -> Response:
    """Return a file to try `/predict/batch` with."""
    return Response(places.example_file(), media_type="text/csv")


def _of_the_store(parts: Parts) -> dict[str, Any]:
    drift = None
    with suppress(NoReportError):
        report = read_report(parts.store, parts.layout)
        drift = {name: report.get(name) for name in ("status", "summary", "checked_at", "monitor")} | {
            "columns": [column["title"] for column in report.get("columns", []) if column.get("drifted")]
        }
    history: list[Retraining] = []
    with suppress(StoreError):
        history = [entry for entry in retrainings(parts, RETRAININGS + 1) if entry.outcome][:RETRAININGS]
    return {"drift": drift, "retrainings": history}
