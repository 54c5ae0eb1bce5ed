"""Light load on a cluster, all the while: what was asked, what came back, and which of it was acknowledged."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx

from tests import hires

PAUSE: Final = 0.05  # seconds between two requests of a client
LABELS: Final = 0.4  # share of predictions that get a label
NAMES: Final = [str(field["name"]) for field in hires.TABLE["fields"]]
SHIFT: Final = 12.0  # degrees, in a warmer year
RISE: Final = 1.3  # of hires in it


class Answer(NamedTuple):
    """What came back, and whether it is as it should be; ``status`` is 0 when the connection ended without an answer.

    Times in unix seconds.
    """

    is_well: bool
    path: str
    began: float
    ended: float
    status: int
    text: str


class Load(AbstractContextManager["Load"]):
    """Clients that predict rows of the table and label some of them, through the front, until the block ends."""

    def __init__(self, url: str, login: str, clients: int = 2) -> None:
        self.answers: list[Answer] = []
        self.predicted: list[str] = []  # ids that were answered
        self.labelled: dict[str, float] = {}  # values whose storing was answered
        self.sent: dict[str, float] = {}  # values that may be stored
        self.drifted = False
        self._url = url
        self._login = login
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed,)) for seed in range(clients)]

    @property
    def clients(self) -> int:
        """How many requests can be on their way at a moment."""
        return len(self._threads)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Wait for the answers to what was sent, and send nothing more."""
        self._done.set()
        for thread in self._threads:
            thread.join()

    def failures(self, since: float) -> list[Answer]:
        """Return the requests, begun after a moment or under way then, that were not answered as they should."""
        return [each for each in list(self.answers) if each.ended > since and not each.is_well]

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        waiting: deque[tuple[str, float]] = deque()  # labels to be sent
        with httpx.Client(base_url=self._url, timeout=20, headers={"Authorization": self._login}) as client:
            while not self._done.wait(PAUSE):
                row, actual = self._row(chance)
                answer = self._post(client, "/predict", row, {200})
                if answer is not None and answer.status_code == 200:
                    name = answer.json()["prediction_id"]
                    self.predicted.append(name)
                    if chance.random() < LABELS:
                        waiting.append((name, actual))
                if len(waiting) > 5:  # some requests later, so most likely another copy is asked
                    self._label(client, waiting)

    def _label(self, client: httpx.Client, waiting: deque[tuple[str, float]]) -> None:
        name, actual = waiting[0]
        label = {"prediction_id": name, "actual_value": actual, "accept_unusual": True}
        # Sent before and not acknowledged, it may be stored all the same.
        stored = {201, 409} if name in self.sent else {201}
        self.sent[name] = actual
        answer = self._post(client, "/feedback", label, stored)
        if answer is not None and answer.status_code in stored:
            self.labelled[name] = actual
            waiting.popleft()

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any], well: set[int]) -> httpx.Response | None:
        began = time.time()
        try:
            answer = client.post(path, json=body)
        except httpx.TransportError as error:
            self.answers.append(Answer(False, path, began, time.time(), 0, repr(error)))
            return None
        is_well = answer.status_code in well
        self.answers.append(Answer(is_well, path, began, time.time(), answer.status_code, answer.text))
        return answer

    def _row(self, chance: random.Random) -> tuple[dict[str, Any], float]:
        """Return a row of the table as the API takes it, and its true value; in a warmer year when it has drifted."""
        row = dict(zip(NAMES, hires.row(chance), strict=True))
        actual = float(row.pop("hires"))
        numbers = {"gusts": int, "temperature": float}
        given: dict[str, Any] = {name: None if value == "" else value for name, value in row.items()}
        for name, kind in numbers.items():
            given[name] = None if given[name] is None else kind(given[name])
        for name in ("holiday", "works"):
            given[name] = {"true": True, "false": False, None: None}[given[name]]
        if self.drifted:
            if given["temperature"] is not None:
                given["temperature"] = min(60.0, given["temperature"] + SHIFT)
            actual = min(1000.0, round(actual * RISE + 60))
        return given, actual
