"""The history of retrainings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request

from app import openapi
from app.schemas import Retraining
from tableloop.state.database import Store

router = APIRouter(tags=["system"], responses=openapi.CRASH)


@router.get(
    "/retrainings",
    operation_id="retrainings",
    summary="When was the model retrained, why, and what came of it?",
    responses={
        200: openapi.answer("The newest retrainings, the newest first"),
        422: openapi.invalid(
            "The limit is no number from 1 to 1000",
            {
                "type": "greater_than_equal",
                "loc": ["query", "limit"],
                "msg": "Input should be greater than or equal to 1",
                "input": "0",
            },
        ),
        503: openapi.NO_HISTORY,
    },
)
def retrainings(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000, description="How many at most")] = 20
) -> list[Retraining]:
    """Return the history of retrainings, the first training included, and the one that runs."""
    store: Store = request.app.state.store
    return [
        Retraining(
            **retraining._asdict()
            | {"started_at": _iso(retraining.started_at), "ended_at": _iso(retraining.ended_at)}
        )
        for retraining in store.retrainings(limit)
    ]


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
