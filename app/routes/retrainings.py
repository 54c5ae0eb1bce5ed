"""The history of retrainings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from app import openapi
from app.deps import AppParts
from app.schemas import Retraining

router = APIRouter(tags=["system"], responses=openapi.CRASH)


@router.get(
    "/retrainings",
    operation_id="retrainings",
    summary="When was the model retrained, why, and with which result?",
    responses={
        200: openapi.answer("Retrainings, the newest first"),
        422: openapi.invalid(
            "The limit is not a number from 1 to 1000",
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
    parts: AppParts, limit: Annotated[int, Query(ge=1, le=1000, description="Greatest number of retrainings")] = 20
) -> list[Retraining]:
    """Return the history of retrainings, with the first training and one that is running."""
    return [
        Retraining(**entry._asdict() | {"started_at": iso(entry.started_at), "ended_at": iso(entry.ended_at)})
        for entry in parts.store.retrainings(limit)
    ]


def iso(seconds: float | None) -> str | None:
    """Return a time in seconds since 1970 as the text of an answer, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
