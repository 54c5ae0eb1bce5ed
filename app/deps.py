"""What routes depend on: the parts of the application, made once by `app.main` and found through the request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from app.drift_metrics import Retrains
from app.labels import FeedbackKeeper
from app.predictor import Predictor
from app.rates import Rates
from tableloop.settings import Settings


@dataclass(frozen=True)
class Parts:
    """The parts of one application."""

    settings: Settings
    registry: CollectorRegistry
    predictor: Predictor
    feedback: FeedbackKeeper
    retrainings: Retrains
    rates: Rates


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _predictor(request: Request) -> Predictor:
    return _parts(request).predictor


def _line(request: Request) -> dict[str, Any]:
    line: dict[str, Any] = request.scope["line"]
    return line


AppParts = Annotated[Parts, Depends(_parts)]
ThePredictor = Annotated[Predictor, Depends(_predictor)]
LogLine = Annotated[dict[str, Any], Depends(_line)]  # of this request; what a route adds is logged
