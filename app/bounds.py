"""How many requests of a costly kind are taken at the same time, in all and from one address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from app.processes import Processes


class Bound:
    """At most ``most`` requests at a time in all processes, and ``most_of_one`` of one address; ``what`` they do."""

    def __init__(self, processes: Processes, *, most: int, most_of_one: int, what: str) -> None:
        self._held = processes.held()
        self._most = most
        self._most_of_one = most_of_one
        self._what = what

    @contextmanager
    def one_of(self, client: str) -> Iterator[None]:
        """Take one more request of a client while the context lasts.

        Raises
        ------
        HTTPException
            503: so many are being taken already.
        """
        for taken, most, whose in (
            (self._held.of(client), self._most_of_one, "from this address"),
            (self._held.total(), self._most, "in all"),
        ):
            if taken >= most:
                detail = f"{most} {self._what} {whose}; try again when one has ended"
                raise HTTPException(503, detail, {"Retry-After": "5"})
        self._held.add(client, 1)
        try:
            yield
        finally:
            self._held.add(client, -1)
