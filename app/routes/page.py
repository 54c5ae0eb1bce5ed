"""The front page and what it asks for. These addresses belong to the page and change with it."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from threading import Lock
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from app.deps import AppParts, MayPredict, Parts
from app.drift_metrics import NoReportError, read_report
from app.page_data import Curve, DataRow, NoRowsError, PageTable, Points, Rows, table_rows
from app.routes import system
from app.routes.retrainings import iso, retrainings
from app.schemas import TABLE, Features, Retraining
from tableloop.state.errors import StoreError

WEB: Final = Path(__file__).parent.parent / "web"
RETRAININGS: Final = 5
# The page loads, runs and asks only its own files; browsers check each time whether a file has changed.
_HEADERS: Final = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
PAGE_HEADERS: Final = {
    **_HEADERS,
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


_reading = Lock()  # the first requests of a page come at the same time


def _rows() -> Rows:
    try:
        with _reading:
            return table_rows()
    except NoRowsError as error:
        raise HTTPException(503, str(error)) from error


AllRows = Annotated[Rows, Depends(_rows)]


def _places(rows: AllRows) -> Rows:
    if rows.table.place is None:
        raise HTTPException(404, f"the table {rows.table.name} has no columns for a place")
    return rows


AllPlaces = Annotated[Rows, Depends(_places)]
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
    input_ = "number" if all(column.is_number for column in TABLE.features) else "input"
    unit = TABLE.display.unit or TABLE.target.unit
    about = (TABLE.description, unit and f"Values are in {unit}", TABLE.source and f"Source: {TABLE.source}")
    words = {
        "title": TABLE.title,
        "description": TABLE.description.rstrip(".") or TABLE.title,
        "about": ". ".join(part.rstrip(".") for part in about if part) or TABLE.title,
        "row": TABLE.row,
        "rows": TABLE.rows,
        "target": TABLE.target.title.lower(),
        "features": len(TABLE.features),
        "input": input_,
        "inputs": input_ if len(TABLE.features) == 1 else f"{input_}s",
        "picture": "map" if TABLE.place else "chart",
        "near": "Comparable places" if TABLE.place else f"Most similar {TABLE.rows}",
        "compared": "comparable places" if TABLE.place else f"most similar {TABLE.rows}",
        "one": "Place" if TABLE.place else TABLE.row.capitalize(),
        "one_row": "" if TABLE.row == "row" else f"One {TABLE.row} per row. ",
        "unless_placed": "" if TABLE.place else "hidden",
        "if_placed": "hidden" if TABLE.place else "",
    }
    return Template((WEB / "index.html").read_text()).substitute(
        {name: escape(str(word)) for name, word in words.items()}
    )


@router.get("/")
async def front_page() -> HTMLResponse:
    """Answer with the page, in the words of the table."""
    return HTMLResponse(_page(), headers=PAGE_HEADERS)


@router.get("/overview")
async def overview(parts: AppParts, response: Response) -> dict[str, Any]:
    """Return what the page shows of the system: answers of other calls, and what happened in the last hour."""
    now = time.time()
    champion = parts.predictor.keeper.current
    ready = await system.ready(parts, response)
    response.status_code = 200
    live_errors = parts.feedback.live_errors
    rmse, labels = await run_in_threadpool(live_errors.rmse, champion.version) if champion else (None, 0)
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
def table(rows: AllRows, parts: AppParts) -> PageTable:
    """Return the words, numbers and features that the page shows."""
    return rows.described(parts.predictor.keeper.current)


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
def nearest(places: AllPlaces, latitude: Latitude, longitude: Longitude) -> DataRow:
    """Return the place nearest to a point."""
    return places.nearest(latitude, longitude)


@router.get("/rows/points")
def points(rows: AllRows, feature: str) -> Points:
    """Return the rows of the chart, along a feature."""
    if feature not in rows.table.feature_names:
        raise HTTPException(404, f"there is no feature {feature[:100]}")
    return rows.points(feature)


@router.get("/rows/points/{number}")
def row(rows: AllRows, number: int) -> DataRow:
    """Return the row that is a point of the chart."""
    if not 0 <= number < len(rows.shown):
        raise HTTPException(404, f"there is no point {number}")
    return rows.row(int(rows.shown[number]))


@router.post("/rows/alike")
def alike(rows: AllRows, features: Features) -> list[DataRow]:
    """Return rows that are like one; those of a table with places are near it."""
    return rows.alike(features)


@router.get("/rows/example.csv")
def example(rows: AllRows) -> Response:
    """Return a file to try `/predict/batch` with."""
    return Response(rows.example_file(), media_type="text/csv")


@router.post("/curves")
async def curves(rows: AllRows, features: Features, parts: AppParts, _: MayPredict) -> list[Curve]:
    """Return how each feature of a row moves its prediction, without writing these predictions anywhere."""
    champion = parts.predictor.champion()
    async with parts.predictor.files:
        return await run_in_threadpool(rows.curves, features, champion)


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
