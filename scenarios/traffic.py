"""Requests to a running service, and labels that come some seconds later."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scenarios.market import Market
from scenarios.record import Answer, Record
from tableloop.table import Story, Table
from tableloop.tls import connect

CONNECTIONS = 4
RATE = 32.0  # requests a second
LABEL_DELAY = (4.0, 9.0)  # seconds
UNANSWERED = (OSError, http.client.HTTPException, ValueError)  # what `Connection.ask` raises


class Connection:
    """One connection to a server of this machine, kept open."""

    def __init__(self, host: str, port: int, authorization: str = "", certificate: Path | None = None) -> None:
        self._http = connect(host, port, 30, certificate)
        self._headers = {"Content-Type": "application/json"} | (
            {"Authorization": authorization} if authorization else {}
        )

    def ask(self, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and JSON of the answer to a GET, or to a POST when there is a body."""
        method, text = ("GET", None) if body is None else ("POST", json.dumps(body))
        try:
            self._http.request(method, path, text, self._headers if text else {})
            answer = self._http.getresponse()
            return answer.status, json.loads(answer.read())
        except BaseException:
            self._http.close()
            raise


class Traffic:
    """Threads that ask at a rate and send the labels later; the rate and the market may change at any time."""

    def __init__(self, connection: Callable[[], Connection], table: Table, market: Market, record: Record) -> None:
        self._connection = connection
        self.rate = RATE
        self.changed = False
        self.mistaken = False  # whether labels are wrong
        self._table = table
        self._market = market
        self._record = record
        self._lock = threading.Lock()
        self._due = time.monotonic()
        self._waiting: deque[tuple[float, str, float]] = deque()
        self._stop = threading.Event()
        work = [self._predict] * CONNECTIONS + [self._label]
        self._threads = [threading.Thread(target=target, daemon=True) for target in work]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    @property
    def story(self) -> Story:
        """What happens when the market changes."""
        return self._market.story

    def only_new(self) -> None:
        """Ask about rows that were not asked about before."""
        with self._lock:
            self._market.only_new()

    def _predict(self) -> None:
        connection, names = self._connection(), self._table.feature_names
        delay = np.random.default_rng()
        while not self._stop.is_set():
            with self._lock:
                now = time.monotonic()
                self._due = max(self._due + 1.0 / self.rate, now - 1.0)
                wait = self._due - now
                asked = self._market.next(changed=self.changed, mistaken=self.mistaken)
            if wait > 0 and self._stop.wait(wait):
                break
            at = self._record.seconds()
            answer = self._request(connection, "/predict", dict(zip(names, asked.features, strict=True)), {200})
            if answer is None:
                continue
            # A row counts once, with its newest label: told again and again, it would be the gate's for ever.
            if asked.first:
                due = time.monotonic() + delay.uniform(*LABEL_DELAY)
                self._waiting.append((due, answer["prediction_id"], asked.label))
            value = asked.value
            error, interval = answer[self._table.answer] - value, answer["interval"]
            inside = interval["low"] <= value <= interval["high"]
            self._record.answers.append(Answer(at, answer["model_version"], error, inside))

    def _label(self) -> None:
        connection = self._connection()
        while not self._stop.wait(1.0):
            now = time.monotonic()
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            self._waiting.extend(entry for entry in waiting if entry[0] > now)
            labels = [{"prediction_id": made, "actual_value": value} for at, made, value in waiting if at <= now]
            if labels:
                self._request(connection, "/feedback", labels, {200, 201, 207})

    def _request(self, connection: Connection, path: str, body: object, expected: set[int]) -> Any:
        try:
            status, answer = connection.ask(path, body)
        except UNANSWERED as error:
            self._record.failures.append(f"{path}: {type(error).__name__}: {error}")
            return None
        if status in expected:
            return answer
        self._record.failures.append(f"{path}: {status} {str(answer)[:200]}")
        return None
