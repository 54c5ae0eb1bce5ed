"""The Prometheus metrics of the service, in a registry of its own."""

from __future__ import annotations

import json
import shutil
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import metrics as instrumentator

from app.champion import Champion, Matrix
from tableloop.table import load_table

# The library's own buckets begin at ten milliseconds; a prediction takes about one.
SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SECONDS_BUCKETS_BY_ROUTE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)


class PredictionMetrics(Collector):
    """`predictions_total` and the histogram of predicted values. All calls come from the event loop.

    prometheus_client's own histogram takes one value at a time: 7 ms for a list of 10,000, of which this takes 0.3.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        table = load_table()
        self._name, self._unit, self._edges = table.metric, table.target.unit, table.buckets
        self._counts = np.zeros(len(self._edges) + 1, dtype=np.int64)
        self._sum = 0.0
        self._by_version: Counter[str] = Counter()
        registry.register(self)

    def count(self, model_version: str, values: Matrix) -> None:
        """Count answered predictions, of shape (n,)."""
        places = np.searchsorted(self._edges, values)
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())
        self._by_version[model_version] += len(values)

    def count_one(self, model_version: str, value: float) -> None:
        """Count one answered prediction."""
        self._counts[bisect_left(self._edges, value)] += 1
        self._sum += value
        self._by_version[model_version] += 1

    def total(self) -> int:
        """Return the number of predictions answered."""
        return self._by_version.total()

    def collect(self) -> Iterable[Metric]:
        """Return both metrics."""
        buckets = [*map(str, self._edges), "+Inf"]
        totals = self._counts.cumsum().tolist()
        yield HistogramMetricFamily(
            self._name, f"Predicted values, in {self._unit}", list(zip(buckets, totals, strict=True)), self._sum
        )
        answered = CounterMetricFamily("predictions", "Predictions answered", labels=["model_version"])
        for version, number in self._by_version.items():
            answered.add_metric([version], number)
        yield answered


class _Message(NamedTuple):
    headers: dict[str, int]  # the part of a request or response that the instrumentator's metrics read


class HttpMetrics:
    """The HTTP metrics of prometheus-fastapi-instrumentator, called by our own middleware.

    The instrumentator's middleware matches each request against all routes a second time and builds a second
    response, which takes as long as the model. So only its metrics are used.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        record = instrumentator.default(
            latency_highr_buckets=SECONDS_BUCKETS, latency_lowr_buckets=SECONDS_BUCKETS_BY_ROUTE, registry=registry
        )
        assert record is not None  # only for a registry that has these metrics already
        self._record = record

    def observe(
        self, method: str, route: str | None, status: int, seconds: float, *, request_bytes: int, response_bytes: int
    ) -> None:
        """Count one answered request; ``route`` is the template of the path, None when no route matches."""
        request: Any = _Message({"Content-Length": request_bytes})
        response: Any = _Message({"Content-Length": response_bytes})
        self._record(instrumentator.Info(request, response, method, route or "none", str(status), seconds))


class ModelInfo(Collector):
    """`model_info`, 1 for the version that serves at the time of the scrape, and its scores."""

    def __init__(self, current: Callable[[], Champion | None]) -> None:
        self._current = current

    def collect(self) -> Iterable[Metric]:
        """Return the gauges; without samples while there is no model."""
        info = GaugeMetricFamily("model_info", "The model that serves", labels=["version", "family", "run_id"])
        error = f"RMSE on the test rows at registration, in {load_table().target.unit}"
        rmse = GaugeMetricFamily("model_test_rmse", error, labels=["model_version"])
        share = "Share of true values that its intervals are made to contain"
        coverage = GaugeMetricFamily("model_interval_coverage", share, labels=["model_version"])
        champion = self._current()
        if champion is not None:
            info.add_metric([champion.version, champion.family, champion.run_id], 1)
            coverage.add_metric([champion.version], champion.coverage)
            scores = champion.metadata.get("scores", {})
            if "test_rmse" in scores:
                rmse.add_metric([champion.version], scores["test_rmse"])
        yield from (info, rmse, coverage)


class ServiceHealth(Collector):
    """`service_up` and the resources of each program, as the watchdog last wrote them to `run/health.json`."""

    def __init__(self, health_file: Path) -> None:
        self._file = health_file

    def collect(self) -> Iterable[Metric]:
        """Return the metrics, without samples for services that are not installed or while there is no watchdog."""
        up = GaugeMetricFamily("service_up", "1 when it answered the watchdog", labels=["service"])
        memory = GaugeMetricFamily("service_memory_bytes", "Resident memory of its processes", labels=["service"])
        cpu = CounterMetricFamily("service_cpu_seconds", "CPU time of its processes", labels=["service"])
        uptime = GaugeMetricFamily("service_uptime_seconds", "Seconds since its start", labels=["service"])
        report = read_health(self._file)
        for name, service in report.get("services", {}).items():
            if service.get("state") != "missing":
                up.add_metric([name], 1 if service.get("state") == "up" else 0)
        for name, used in report.get("processes", {}).items():
            memory.add_metric([name], used["memory_bytes"])
            cpu.add_metric([name], used["cpu_seconds"])
            uptime.add_metric([name], used["uptime_seconds"])
        yield from (up, memory, cpu, uptime)


class StateDisk(Collector):
    """`state_disk_free_bytes` and `state_disk_total_bytes`: the file system of STATE_DIR."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def collect(self) -> Iterable[Metric]:
        """Return both gauges; none when the directory does not exist."""
        try:
            disk = shutil.disk_usage(self._state_dir)
        except OSError:
            return
        yield GaugeMetricFamily("state_disk_free_bytes", "Free space on the disk of STATE_DIR", value=disk.free)
        yield GaugeMetricFamily("state_disk_total_bytes", "Size of the disk of STATE_DIR", value=disk.total)


def read_health(path: Path) -> dict[str, Any]:
    """Return the watchdog's report, empty when there is none or it cannot be read."""
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) and isinstance(report.get("services"), dict) else {}
