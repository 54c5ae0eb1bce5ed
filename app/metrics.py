"""The Prometheus metrics of the service, in a registry of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import metrics as instrumentator

from app.champion import Champion
from tableloop.table import TARGET

VALUE_BUCKETS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
# a prediction takes about a millisecond: the library's own buckets begin at ten
SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SECONDS_BUCKETS_BY_ROUTE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)


class Metrics:
    """What is counted at every prediction."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.values = Histogram(
            "predicted_house_value",
            f"Predicted values, in {TARGET.unit}",
            buckets=VALUE_BUCKETS,
            registry=registry,
        )
        self._predictions = Counter("predictions", "Predictions answered", ["model_version"], registry=registry)
        self._counters: dict[str, Counter] = {}
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def count(self, model_version: str, values: Iterable[float]) -> None:
        """Count answered predictions."""
        number = 0
        for value in values:
            self.values.observe(value)
            number += 1
        counter = self._counters.get(model_version)
        if counter is None:
            counter = self._counters[model_version] = self._predictions.labels(model_version)
        counter.inc(number)


class _Message(NamedTuple):
    """As much of a request or a response as the instrumentator's metrics look at."""

    headers: dict[str, int]


class HttpMetrics:
    """The HTTP metrics of prometheus-fastapi-instrumentator, fed by our own middleware.

    Its middleware would match every request against all routes once more and build a second response from the
    first, for as much time as the model takes; its metrics are all that is wanted.
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
        """Count one answered request; ``route`` is the template of the path, None where there is no such route."""
        request: Any = _Message({"Content-Length": request_bytes})
        response: Any = _Message({"Content-Length": response_bytes})
        self._record(instrumentator.Info(request, response, method, route or "none", str(status), seconds))


class ModelInfo(Collector):
    """`model_info`, 1 for the version that serves at the time of the scrape, and what was promised for it."""

    def __init__(self, current: Callable[[], Champion | None]) -> None:
        self._current = current

    def collect(self) -> Iterable[Metric]:
        """Return the gauges; without samples while there is no model."""
        info = GaugeMetricFamily("model_info", "The model that serves", labels=["version", "family", "run_id"])
        rmse = GaugeMetricFamily(
            "model_test_rmse",
            f"Its error on the test rows at registration, in {TARGET.unit}",
            labels=["model_version"],
        )
        coverage = GaugeMetricFamily(
            "model_interval_coverage", "Share of true values its intervals promise to hold", labels=["model_version"]
        )
        champion = self._current()
        if champion is not None:
            info.add_metric([champion.version, champion.family, champion.run_id], 1)
            coverage.add_metric([champion.version], champion.coverage)
            scores = champion.metadata.get("scores", {})
            if "test_rmse" in scores:
                rmse.add_metric([champion.version], scores["test_rmse"])
        yield from (info, rmse, coverage)


class ServiceHealth(Collector):
    """`service_up` and what each program uses, from what the watchdog last wrote to `run/health.json`."""

    def __init__(self, health_file: Path) -> None:
        self._file = health_file

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; without samples while there is no watchdog, and for a service that is not run here."""
        up = GaugeMetricFamily("service_up", "1 when the watchdog has had an answer from it", labels=["service"])
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
    """`state_disk_free_bytes` and `state_disk_total_bytes`: the file system that holds STATE_DIR."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def collect(self) -> Iterable[Metric]:
        """Return both gauges; nothing when the directory is gone."""
        try:
            disk = shutil.disk_usage(self._state_dir)
        except OSError:
            return
        yield GaugeMetricFamily("state_disk_free_bytes", "Free space where the state lies", value=disk.free)
        yield GaugeMetricFamily("state_disk_total_bytes", "Size of the disk where the state lies", value=disk.total)


def read_health(path: Path) -> dict[str, Any]:
    """Return the watchdog's report, empty when there is none or it cannot be read."""
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) and isinstance(report.get("services"), dict) else {}
