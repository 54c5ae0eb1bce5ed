"""Store labels with their predictions, and compute the live errors of each version as metrics."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from threading import Lock
from typing import NamedTuple

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.prediction_writer import PredictionLog
from app.schemas import TABLE, TARGET, Feedback, FeedbackList, Label, LabelOutcome
from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.prediction_rows import Labelled, Sent

LIVE_WINDOW = 500  # labelled predictions of a version: live errors are computed from this many of the newest
VERSIONS = 20  # that have live errors: those labelled last
MEASURED = 5  # of them that have metrics


class Live(NamedTuple):
    """Errors of a version on its newest labels, and the share of them inside their intervals."""

    rmse: float
    mae: float
    coverage: float
    labels: int

    @classmethod
    def of(cls, errors: Sequence[tuple[float, bool]]) -> Live | None:
        """Return them of errors, each with whether its interval held the value; None without any."""
        count = len(errors)
        if not count:
            return None
        return cls(
            rmse=math.sqrt(sum(error**2 for error, _ in errors) / count),
            mae=sum(abs(error) for error, _ in errors) / count,
            coverage=sum(inside for _, inside in errors) / count,
            labels=count,
        )


class FeedbackKeeper:
    """Stores labels through the writer of the prediction log, and keeps the live errors."""

    def __init__(self, log: PredictionLog | None, registry: CollectorRegistry, counters: CollectorRegistry) -> None:
        self._log = log
        self.live_errors = LiveErrors(log.store if log else None)
        self._stored = Counter("feedback", "Labels stored", ["model_version"], registry=counters)
        registry.register(self.live_errors)

    async def one(self, label: Label, sender: str) -> Feedback:
        """Store one label.

        Raises
        ------
        HTTPException
            404: there is no such prediction. 409: it has a label. 422: the value is unusual.
        PredictionLogError
            It cannot be written.
        """
        (labelled,) = await self._store([label], sender)
        if isinstance(labelled, HTTPException):
            if labelled.status_code == 422:
                place = ["body", "one", "actual_value"]
                problem = {"type": "unusual", "loc": place, "msg": labelled.detail, "input": label.actual_value}
                raise HTTPException(422, [problem])
            raise labelled
        return {
            "prediction_id": labelled.prediction_id,
            "actual_value": labelled.actual_value,
            "received_at": _iso(labelled.received_at),
            "model_version": labelled.model_version,
            TABLE.answer: labelled.prediction,
            "inside_interval": labelled.low <= labelled.actual_value <= labelled.high,
        }

    async def many(self, labels: Sequence[Label], sender: str) -> FeedbackList:
        """Store what can be stored of a list, and return the outcome of each label.

        Raises
        ------
        PredictionLogError
            It cannot be written; what was stored before is refused with 409 when the list is sent again.
        """
        results = await self._store(labels, sender)
        outcomes = []
        for label, result in zip(labels, results, strict=True):
            refusal = result if isinstance(result, HTTPException) else None
            status, detail = (refusal.status_code, refusal.detail) if refusal else (201, "stored")
            outcomes.append(LabelOutcome(prediction_id=label.prediction_id, status=status, detail=detail))
        stored = sum(outcome.status == 201 for outcome in outcomes)
        return FeedbackList(stored=stored, refused=len(outcomes) - stored, outcomes=outcomes)

    async def _store(self, labels: Sequence[Label], sender: str) -> list[Labelled | HTTPException]:
        """Store labels; return each as it is stored, or why it is refused."""
        if self._log is None:
            return [_unknown(label.prediction_id, " (PREDICTION_LOG is off)") for label in labels]
        results: list[Labelled | HTTPException] = []
        sent = [Sent(label.prediction_id, label.actual_value, label.accept_unusual) for label in labels]
        outcomes = await self._log.label(sent, sender)
        for label, (labelled, stored, unusual) in zip(labels, outcomes, strict=True):
            if labelled is None:
                results.append(_unknown(label.prediction_id))
            elif stored:
                self._stored.labels(labelled.model_version).inc()
                results.append(labelled)
            elif unusual:
                message = (
                    f"{label.actual_value:g} is far from the interval {labelled.low:g} to {labelled.high:g} and from "
                    f'all usual values: is it in {TARGET.unit_words}? If it is right, send "accept_unusual": true'
                )
                results.append(HTTPException(422, message))
            else:
                message = (
                    f"prediction {label.prediction_id} was labelled {labelled.actual_value:g} at "
                    f"{_iso(labelled.received_at)}; a label cannot be changed"
                )
                results.append(HTTPException(409, message))
        return results


class LiveErrors(Collector):
    """`live_rmse`, `live_mae` and `live_interval_coverage` of the newest labelled predictions of each version.

    They are read from the store, which has the labels that other processes have taken, too.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._lock = Lock()  # two scrapes at once would count a label twice
        self._last = 0  # the id of the newest label that has been read
        self._errors: dict[str, deque[tuple[float, bool]]] = {}

    def _read(self) -> dict[str, list[tuple[float, bool]]]:
        """Take up the labels that are new and return all; those that cannot be read now are read later."""
        with self._lock:
            if self._store is not None:
                with suppress(StoreError):
                    self._last, labels = self._store.labelled_after(self._last, VERSIONS * LIVE_WINDOW)
                    for labelled in labels:
                        self._add(labelled)
            return {version: list(errors) for version, errors in self._errors.items()}

    def _add(self, labelled: Labelled) -> None:
        errors = self._errors.pop(labelled.model_version, None) or deque(maxlen=LIVE_WINDOW)
        inside = labelled.low <= labelled.actual_value <= labelled.high
        errors.append((labelled.prediction - labelled.actual_value, inside))
        self._errors[labelled.model_version] = errors  # at the end: the version labelled last
        if len(self._errors) > VERSIONS:
            del self._errors[next(iter(self._errors))]

    def by_version(self) -> dict[str, Live]:
        """Return the live errors of each version that has labels, the one labelled last at the end."""
        return {version: live for version, errors in self._read().items() if (live := Live.of(errors))}

    def rmse(self, model_version: str) -> tuple[float | None, int]:
        """Return the live RMSE of a version, None without labels, and the number of labels it is computed from."""
        live = Live.of(self._read().get(model_version, []))
        return (live.rmse, live.labels) if live else (None, 0)

    def collect(self) -> Iterable[Metric]:
        """Return the gauges; without samples while there are no labels."""
        newest = f"of the newest {LIVE_WINDOW} labelled predictions of a version"
        gauges = {
            "live_rmse": f"Root mean square error {newest}, in {TARGET.unit_words}",
            "live_mae": f"Mean absolute error {newest}, in {TARGET.unit_words}",
            "live_interval_coverage": f"Share {newest} inside their intervals",
            "live_labels": f"Number of labels that live_rmse is computed from, at most {LIVE_WINDOW}",
        }
        families = {name: GaugeMetricFamily(name, text, labels=["model_version"]) for name, text in gauges.items()}
        for version, errors in list(self._read().items())[-MEASURED:]:
            live = Live.of(errors)
            assert live is not None  # a version is there because of a label
            families["live_rmse"].add_metric([version], live.rmse)
            families["live_mae"].add_metric([version], live.mae)
            families["live_interval_coverage"].add_metric([version], live.coverage)
            families["live_labels"].add_metric([version], live.labels)
        yield from families.values()


def _unknown(prediction_id: str, why: str = "") -> HTTPException:
    return HTTPException(404, f"there is no prediction {prediction_id} in the log{why}")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
