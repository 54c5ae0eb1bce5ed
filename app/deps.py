"""What routes depend on: the parts of the application, made once by `app.main` and found through the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from app.labels import FeedbackKeeper
from app.predictor import Predictor
from app.rates import Rates
from tableloop.settings import Settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout


@dataclass(frozen=True)
class Parts:
    """The parts of one application."""

    settings: Settings
    layout: Layout
    store: Store
    registry: CollectorRegistry
    predictor: Predictor
    feedback: FeedbackKeeper
    rates: Rates


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _line(request: Request) -> dict[str, Any]:
    line: dict[str, Any] = request.scope["line"]
    return line


AppParts = Annotated[Parts, Depends(_parts)]
LogLine = Annotated[dict[str, Any], Depends(_line)]  # of this request; what a route adds is logged
