"""What the version in the shadow says of requests beside the one that answers them, as metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Lock
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.champion import Keeper
from app.labels import LIVE_WINDOW
from app.schemas import TARGET
from tableloop.settings import Settings
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.shadows import Shadow

NEWEST: Final = LIVE_WINDOW  # labelled and scored predictions: as many as behind the live errors
KEPT_SECONDS: Final = 10.0  # to compare as many takes 7 ms in SQLite, and 30 in PostgreSQL


class Beside(NamedTuple):
    """Two versions on the same predictions: the RMSE of each on their labels, and how far they are apart."""

    errors: tuple[float, float] | None
    labels: int
    disagreement: float | None


class ShadowGauges(Collector):
    """Gauges of the version in the shadow; none while there is none, nor when the store cannot be read."""

    def __init__(self, store: Store, keeper: Keeper, settings: Settings) -> None:
        self._store = store
        self._keeper = keeper
        self._settings = settings
        self._lock = Lock()
        self._kept: tuple[int, str, float, Beside] | None = None  # of which two, and until when

    def collect(self) -> Iterable[Metric]:
        """Read which version is in the shadow, and compare both when that was done some seconds ago."""
        serving = self._keeper.current.version if self._keeper.current is not None else ""
        try:
            shadow = shadows.current(self._store, self._settings.model_name)
            if shadow is None:
                return
            beside = self._compare(shadow, serving)
        except StoreError:
            return
        info = GaugeMetricFamily("shadow_info", "1 for the version in the shadow", labels=["version"])
        info.add_metric([shadow.version], 1)
        yield info
        text = f"RMSE of both versions on the newest {NEWEST} labelled predictions, in {TARGET.unit_words}"
        rmse = GaugeMetricFamily("shadow_rmse", text, labels=["model_version", "alias"])
        if beside.errors is not None:
            versions = ([shadow.version, shadows.ALIAS], [serving, self._settings.model_alias])
            for labels, error in zip(versions, beside.errors, strict=True):
                rmse.add_metric(labels, error)
        yield rmse
        text = f"Mean absolute difference of the two on the newest {NEWEST} predictions, in {TARGET.unit_words}"
        disagreement = GaugeMetricFamily("shadow_disagreement", text)
        if beside.disagreement is not None:
            disagreement.add_metric([], beside.disagreement)
        yield disagreement
        text = f"Labels behind shadow_rmse, at most {NEWEST}"
        yield GaugeMetricFamily("shadow_labels", text, value=beside.labels)
        text = "Predictions that the version in the shadow has scored"
        yield GaugeMetricFamily("shadow_predictions_scored", text, value=shadow.scored)
        text = "Looks in a row at which it could not score, one that is under way too"
        yield GaugeMetricFamily("shadow_failures", text, value=shadow.failures)

    def _compare(self, shadow: Shadow, serving: str) -> Beside:
        with self._lock:
            if self._kept is not None:
                number, version, until, beside = self._kept
                if (number, version) == (shadow.id, serving) and time.monotonic() < until:
                    return beside
            labelled = shadows.compared(self._store, shadow, serving, NEWEST)
            pairs = shadows.newest_pairs(self._store, shadow, NEWEST)
            beside = Beside(
                shadows.errors(labelled) if labelled else None,
                len(labelled),
                sum(abs(answered - own) for answered, own in pairs) / len(pairs) if pairs else None,
            )
            self._kept = shadow.id, serving, time.monotonic() + KEPT_SECONDS, beside
            return beside
