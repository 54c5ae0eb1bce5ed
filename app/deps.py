"""What routes depend on: the parts of the application, made once by `app.main` and found through the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from app.access import Access
from app.explanations import Explanations
from app.labels import FeedbackKeeper
from app.predictor import Predictor
from app.processes import Processes
from app.rates import Rates
from app.uploads import Uploads
from app.version_history import VersionHistory
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
    access: Access
    uploads: Uploads
    explanations: Explanations
    versions: VersionHistory
    processes: Processes


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _line(request: Request) -> dict[str, Any]:
    line: dict[str, Any] = request.scope["line"]
    return line


def _may_predict(request: Request) -> None:
    _parts(request).access.check_predict(request)


async def _labeller(request: Request) -> str:
    sender = await _parts(request).access.labeller(request)
    _line(request)["sender"] = sender
    return sender


AppParts = Annotated[Parts, Depends(_parts)]
MayPredict = Annotated[None, Depends(_may_predict)]
Labeller = Annotated[str, Depends(_labeller)]  # who sends labels: the name of a key, or the administrator
LogLine = Annotated[dict[str, Any], Depends(_line)]  # of this request; what a route adds is logged
