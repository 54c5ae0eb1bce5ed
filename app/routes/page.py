"""The front page and what it asks for: these addresses belong to the page and change with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from app.overview import Overview, OverviewSource
from app.page_data import FeatureScale, NoPlacesError, Place, Places, read_places
from app.predictor import Predictor
from app.schemas import HouseFeatures

WEB: Final = Path(__file__).parent.parent / "web"
# Nothing but our own files is loaded, run or asked; browsers ask each time whether a file has changed.
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


@router.get("/")
async def front_page() -> FileResponse:
    """Answer with the page."""
    return FileResponse(WEB / "index.html", headers=_PAGE_HEADERS)


@router.get("/overview")
def overview(request: Request) -> Overview:
    """Return what the page says about the system."""
    source: OverviewSource = request.app.state.overview
    return source.read()


@router.get("/places")
def all_places(places: AllPlaces, request: Request) -> Response:
    """Return the map of all places: the bytes that `app.page_data.Map` describes."""
    found = places.map
    headers = {"ETag": f'"{found.tag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            found.zipped, headers=headers | {"Content-Encoding": "gzip"}, media_type="application/octet-stream"
        )
    return Response(found.data, headers=headers, media_type="application/octet-stream")


@router.get("/places/nearest")
def nearest(places: AllPlaces, latitude: Latitude, longitude: Longitude) -> Place:
    """Return the place nearest to a point."""
    return places.nearest(latitude, longitude)


@router.post("/places/comparable")
def comparable(places: AllPlaces, features: HouseFeatures) -> list[Place]:
    """Return near places that are like a row."""
    return places.comparable(features)


@router.get("/places/example.csv")
def example(places: AllPlaces) -> Response:
    """Return a file to try `/predict/batch` with."""
    return Response(places.example_file(), media_type="text/csv")


@router.get("/features")
def features(places: AllPlaces, request: Request) -> list[FeatureScale]:
    """Return how to ask for each feature."""
    predictor: Predictor = request.app.state.predictor
    return places.scales(predictor.keeper.current)
