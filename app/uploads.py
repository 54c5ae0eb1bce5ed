"""How many files the service receives, checks and answers at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from fastapi import HTTPException

from app.processes import Processes

MOST_UPLOADS: Final = 8
MOST_UPLOADS_OF_ONE: Final = 4


class Uploads:
    """How many files are taken at the same time: each needs disk and time of everybody."""

    def __init__(self, processes: Processes) -> None:
        self._held = processes.held()
        self.checks = asyncio.Semaphore(1)  # a check may take hundreds of MB in a process of its own, and a core

    @contextmanager
    def one_of(self, client: str) -> Iterator[None]:
        """Take one more file of a client while the context lasts.

        Raises
        ------
        HTTPException
            503: so many are being taken already.
        """
        for taken, most, whose in (
            (self._held.of(client), MOST_UPLOADS_OF_ONE, "from this address"),
            (self._held.total(), MOST_UPLOADS, "in all"),
        ):
            if taken >= most:
                detail = f"{most} files are being received or answered {whose}; try again when one has ended"
                raise HTTPException(503, detail, {"Retry-After": "5"})
        self._held.add(client, 1)
        try:
            yield
        finally:
            self._held.add(client, -1)
