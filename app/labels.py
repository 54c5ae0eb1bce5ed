"""Labels: stored with their predictions, and what they say of each version as metrics."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from loguru import logger
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.prediction_writer import PredictionLog
from app.schemas import TABLE, Feedback, FeedbackList, Label, LabelOutcome
from tableloop.state.database import StoreError
from tableloop.state.prediction_rows import Labelled
from tableloop.table import load_table

LIVE_WINDOW = 500  # labelled predictions of a version: live errors are of the newest so many
VERSIONS = 5  # with live errors; the older ones serve no more


class RefusedError(Exception):
    """A label that is not stored; `status` is 404 or 409."""

    def __init__(self, status: Literal[404, 409], message: str) -> None:
        super().__init__(message)
        self.status: Literal[404, 409] = status


class FeedbackKeeper:
    """Stores labels through the writer of the prediction log, and keeps the live errors."""

    def __init__(self, log: PredictionLog | None, registry: CollectorRegistry) -> None:
        self._log = log
        self.live_errors = LiveErrors()
        self._stored = Counter("feedback", "Labels stored", ["model_version"], registry=registry)
        registry.register(self.live_errors)

    def start(self) -> None:
        """Take up the live errors where an earlier process left them."""
        if self._log is None:
            return
        try:
            newest = self._log.store.newest_labelled(VERSIONS * LIVE_WINDOW)
        except StoreError as error:
            logger.warning(f"the labels in {self._log.path} cannot be read: {error}")
            return
        for labelled in reversed(newest):
            self.live_errors.add(labelled)

    async def one(self, label: Label) -> Feedback:
        """Store one label.

        Raises
        ------
        RefusedError
            There is no such prediction, or it has a label.
        PredictionLogError
            It cannot be written.
        """
        ((labelled, refusal),) = await self._store([label])
        if refusal is not None or labelled is None:
            raise refusal or _unknown(label.prediction_id)
        return {
            "prediction_id": labelled.prediction_id,
            "actual_value": labelled.actual_value,
            "received_at": _iso(labelled.received_at),
            "model_version": labelled.model_version,
            TABLE.answer: labelled.prediction,
            "inside_interval": labelled.low <= labelled.actual_value <= labelled.high,
        }

    async def many(self, labels: Sequence[Label]) -> FeedbackList:
        """Store what can be stored of a list, and tell of each label what became of it.

        Raises
        ------
        PredictionLogError
            It cannot be written; what was stored before is refused with 409 when the list is sent again.
        """
        outcomes = [
            LabelOutcome(
                prediction_id=label.prediction_id,
                status=201 if refusal is None else refusal.status,
                detail="stored" if refusal is None else str(refusal),
            )
            for label, (_, refusal) in zip(labels, await self._store(labels), strict=True)
        ]
        stored = sum(outcome.status == 201 for outcome in outcomes)
        return FeedbackList(stored=stored, refused=len(outcomes) - stored, outcomes=outcomes)

    async def _store(self, labels: Sequence[Label]) -> list[tuple[Labelled | None, RefusedError | None]]:
        if self._log is None:
            return [(None, _unknown(label.prediction_id, " (PREDICTION_LOG is off)")) for label in labels]
        results: list[tuple[Labelled | None, RefusedError | None]] = []
        outcomes = await self._log.label([(label.prediction_id, label.actual_value) for label in labels])
        for label, (labelled, stored) in zip(labels, outcomes, strict=True):
            if labelled is None:
                results.append((None, _unknown(label.prediction_id)))
            elif stored:
                self.live_errors.add(labelled)
                self._stored.labels(labelled.model_version).inc()
                results.append((labelled, None))
            else:
                message = (
                    f"prediction {label.prediction_id} was labelled {labelled.actual_value:g} at "
                    f"{_iso(labelled.received_at)}; a label cannot be changed"
                )
                results.append((labelled, RefusedError(409, message)))
        return results


class LiveErrors(Collector):
    """`live_rmse`, `live_mae` and `live_interval_coverage` of the newest labelled predictions of each version."""

    def __init__(self) -> None:
        self._errors: dict[str, deque[tuple[float, bool]]] = {}

    def add(self, labelled: Labelled) -> None:
        """Count one labelled prediction."""
        errors = self._errors.pop(labelled.model_version, None) or deque(maxlen=LIVE_WINDOW)
        inside = labelled.low <= labelled.actual_value <= labelled.high
        errors.append((labelled.prediction - labelled.actual_value, inside))
        self._errors[labelled.model_version] = errors  # at the end: the version labelled last
        if len(self._errors) > VERSIONS:
            del self._errors[next(iter(self._errors))]

    def rmse(self, model_version: str) -> tuple[float | None, int]:
        """Return the live RMSE of a version, None without labels, and the number of labels it is computed from."""
        errors = self._errors.get(model_version)
        if not errors:
            return None, 0
        return math.sqrt(sum(error**2 for error, _ in errors) / len(errors)), len(errors)

    def collect(self) -> Iterable[Metric]:
        """Return the gauges; without samples while there are no labels."""
        newest = f"of the newest {LIVE_WINDOW} labelled predictions of a version"
        gauges = {
            "live_rmse": f"Root mean square error {newest}, in {load_table().target.unit}",
            "live_mae": f"Mean absolute error {newest}, in {load_table().target.unit}",
            "live_interval_coverage": f"Share {newest} inside their intervals",
            "live_labels": f"How many live_rmse is of: at most {LIVE_WINDOW}",
        }
        families = {name: GaugeMetricFamily(name, text, labels=["model_version"]) for name, text in gauges.items()}
        for version, errors in self._errors.items():
            count = len(errors)
            families["live_rmse"].add_metric([version], math.sqrt(sum(error**2 for error, _ in errors) / count))
            families["live_mae"].add_metric([version], sum(abs(error) for error, _ in errors) / count)
            families["live_interval_coverage"].add_metric([version], sum(inside for _, inside in errors) / count)
            families["live_labels"].add_metric([version], count)
        yield from families.values()


def _unknown(prediction_id: str, why: str = "") -> RefusedError:
    return RefusedError(404, f"there is no prediction {prediction_id} in the log{why}")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
