"""The whole appliance at a glance for the front page: what the service knows and what others left in files."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict

from app.champion import Champion
from app.drift_metrics import NoReportError, read_report
from app.metrics import read_health
from app.predictor import Predictor
from tableloop.settings import Settings
from tableloop.state.database import Store, StoreError
from tableloop.state.layout import Layout

SAMPLE_SECONDS: Final = 10
MINUTES: Final = 60
STALE_SECONDS: Final = 20.0  # the watchdog looks every two seconds, and waits three for an answer
RETRAININGS: Final = 5

State = Literal["up", "down", "starting", "missing", "unknown"]
_TITLES: Final = {"api": "Prediction service", "mlflow": "MLflow", "prometheus": "Prometheus", "grafana": "Grafana"}


class Service(BaseModel):
    """One service: a page finds it under its own host and ``port``, or at ``url``."""

    name: str
    title: str
    state: State
    detail: str
    port: int | None = None
    url: str | None = None


class ServingModel(BaseModel):
    """The version that serves, and what traces it back."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    version: str
    family: str
    source: str
    engine: str
    registered_at: str | None
    test_rmse: float | None
    coverage: float
    run_id: str
    data_md5: str | None
    code_digest: str | None


class Drift(BaseModel):
    """The drift monitor's last words."""

    status: str
    summary: str
    checked_at: str | None
    says: str
    columns: list[str]
    waits_for: list[str]
    retraining: bool


class Live(BaseModel):
    """What happens now: ``per_minute`` predictions, the last minute last; the error of what labels came back."""

    started_at: str
    per_minute: list[int]
    rmse: float | None
    labels: int


class Overview(BaseModel):
    """Everything the front page says about the system."""

    model_config = ConfigDict(protected_namespaces=())

    now: str
    services: list[Service]
    model: ServingModel | None
    model_state: str
    prediction_log: str
    drift: Drift | None
    retrainings: list[dict[str, Any]]
    live: Live


class Rates:
    """How many predictions were made in each of the last minutes, from samples of their count."""

    def __init__(self, predictions: Collector) -> None:
        self.started = time.time()
        self._predictions = predictions
        self._samples: deque[tuple[float, float]] = deque(maxlen=(MINUTES + 1) * 60 // SAMPLE_SECONDS)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to count, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()

    def per_minute(self, now: float) -> list[int]:
        """Return the predictions of the last `MINUTES` minutes, to `SAMPLE_SECONDS` exact, the last minute last."""
        samples = [*self._samples, (now, self._total())]
        times = [at for at, _ in samples]

        def until(at: float) -> float:
            place = bisect_right(times, at)
            return samples[place - 1][1] if place else 0.0

        totals = [until(now - 60.0 * minute) for minute in range(MINUTES, -1, -1)]
        return [round(after - before) for before, after in pairwise(totals)]

    async def _run(self) -> None:
        while True:
            self._samples.append((time.time(), self._total()))
            await asyncio.sleep(SAMPLE_SECONDS)

    def _total(self) -> float:
        return _samples(self._predictions, "predicted_house_value_count").get("", 0.0)


@dataclass(frozen=True)
class OverviewSource:
    """Where the overview comes from."""

    settings: Settings
    store: Store
    predictor: Predictor
    live_errors: Collector
    rates: Rates

    def read(self) -> Overview:
        """Return the overview of this moment; some small files are read for it."""
        layout = Layout(self.settings.state_dir)
        now = time.time()
        champion = self.predictor.keeper.current
        version = champion.version if champion else ""
        return Overview(
            now=_iso(now),
            services=_services(self.settings, read_health(layout.health), now),
            model=_model(self.settings.model_name, champion) if champion else None,
            model_state=self.predictor.keeper.state,
            prediction_log="off" if self.predictor.log is None else self.predictor.log.problem or "on",
            drift=_drift(self.store, layout),
            retrainings=_retrainings(self.store),
            live=Live(
                started_at=_iso(self.rates.started),
                per_minute=self.rates.per_minute(now),
                rmse=_samples(self.live_errors, "live_rmse").get(version),
                labels=int(_samples(self.live_errors, "live_labels").get(version, 0)),
            ),
        )


def _services(settings: Settings, report: Mapping[str, Any], now: float) -> list[Service]:
    """Return the service itself, which answers, and what the watchdog last saw of the others."""
    mlflow = urlsplit(settings.mlflow_tracking_uri)
    # A name without a dot is one of this machine or of a container network; a browser has the page's own name for it.
    elsewhere = "." in (mlflow.hostname or "") and mlflow.hostname != "127.0.0.1"
    addresses: dict[str, dict[str, Any]] = {
        "api": {"port": settings.api_port},
        "mlflow": {"url": settings.mlflow_tracking_uri}
        if elsewhere
        else {"port": mlflow.port or settings.mlflow_port},
        "prometheus": {"port": settings.prometheus_port},
        "grafana": {"port": settings.grafana_port},
    }
    silence = _silence(report, now)
    services = []
    for name, address in addresses.items():
        seen = report.get("services", {}).get(name, {})
        state, detail = seen.get("state", "unknown"), seen.get("detail", "")
        if name == "api":
            state, detail = "up", "answers"
        elif silence and state != "missing":
            state, detail = "unknown", silence
        services.append(Service(name=name, title=_TITLES[name], state=state, detail=detail, **address))
    return services


def _silence(report: Mapping[str, Any], now: float) -> str:
    """Return why the report says nothing about this moment, or an empty string."""
    if not report:
        return "nobody watches it here"
    with suppress(KeyError, ValueError, TypeError):
        seconds = now - datetime.fromisoformat(report["checked_at"]).timestamp()
        return f"the watchdog last looked {seconds:.0f} s ago" if seconds > STALE_SECONDS else ""
    return "the watchdog's report has no time"


def _model(name: str, champion: Champion) -> ServingModel:
    metadata = champion.metadata
    return ServingModel(
        name=name,
        version=champion.version,
        family=champion.family,
        source=champion.source,
        engine=champion.engine,
        registered_at=champion.registered_at,
        test_rmse=metadata.get("scores", {}).get("test_rmse"),
        coverage=champion.coverage,
        run_id=champion.run_id,
        data_md5=metadata.get("data_md5"),
        code_digest=metadata.get("code_digest"),
    )


def _drift(store: Store, layout: Layout) -> Drift | None:
    try:
        report = read_report(store, layout)
    except NoReportError:
        return None
    monitor = report.get("monitor", {})
    return Drift(
        status=report["status"],
        summary=report.get("summary", ""),
        checked_at=monitor.get("looked_at") or report.get("checked_at"),
        says=monitor.get("says", ""),
        waits_for=list(monitor.get("waits_for", [])),
        columns=[column["title"] for column in report.get("columns", []) if column.get("drifted")],
        retraining=bool(monitor.get("retraining")),
    )


def _retrainings(store: Store) -> list[dict[str, Any]]:
    """Return the last retrainings that have ended, the newest first."""
    try:
        newest = store.retrainings(RETRAININGS + 1)
    except StoreError:
        return []
    return [
        retraining._asdict() | {"started_at": _iso(retraining.started_at), "ended_at": _iso(retraining.ended_at)}
        for retraining in newest
        if retraining.ended_at is not None
    ][:RETRAININGS]


def _samples(collector: Collector, name: str) -> dict[str, float]:
    """Return the values of one metric by model version, or by an empty string where it has none."""
    return {
        sample.labels.get("model_version", ""): sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name == name
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
