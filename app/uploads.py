"""How many files the service receives, checks and answers at the same time."""

from __future__ import annotations

import asyncio
from typing import Final

from app.bounds import Bound
from app.processes import Processes

MOST_UPLOADS: Final = 8
MOST_UPLOADS_OF_ONE: Final = 4


class Uploads(Bound):
    """How many files are taken at the same time: each needs disk and time of everybody."""

    def __init__(self, processes: Processes) -> None:
        super().__init__(
            processes,
            most=MOST_UPLOADS,
            most_of_one=MOST_UPLOADS_OF_ONE,
            what="files are being received or answered",
        )
        self.checks = asyncio.Semaphore(1)  # a check may take hundreds of MB in a process of its own, and a core
