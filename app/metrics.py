"""The Prometheus metrics of the service, in a registry of its own."""

from __future__ import annotations

import json
import shutil
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import metrics as instrumentator

from app.champion import Keeper, Matrix
from app.prediction_writer import PredictionLog
from app.processes import Processes, shared_zeros
from tableloop.table import load_table

# The library's own buckets begin at ten milliseconds; a prediction takes about one.
SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SECONDS_BUCKETS_BY_ROUTE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)


class PredictionMetrics(Collector):
    """`predictions_total` and the histogram of predicted values of all processes. The event loop counts.

    prometheus_client's own histogram takes one value at a time: 7 ms for a list of 10,000, of which this takes 0.3.
    """

    def __init__(self, registry: CollectorRegistry, counters: CollectorRegistry, processes: Processes) -> None:
        table = load_table()
        self._name, self._unit, self._edges = table.metric, table.target.unit, table.steps
        self._counts = shared_zeros(processes.count, len(self._edges) + 1, dtype=np.int64)
        self._sums = shared_zeros(processes.count, dtype=np.float64)
        self._processes = processes
        answered = Counter("predictions", "Predictions answered", ["model_version"], registry=counters)
        self._of_version = lru_cache(answered.labels)
        registry.register(self)

    def count(self, model_version: str, values: Matrix) -> None:
        """Count answered predictions, of shape (n,)."""
        places = np.searchsorted(self._edges, values)
        number = self._processes.number
        self._counts[number] += np.bincount(places, minlength=self._counts.shape[1])
        self._sums[number] += values.sum()
        self._of_version(model_version).inc(len(values))

    def count_one(self, model_version: str, value: float) -> None:
        """Count one answered prediction."""
        number = self._processes.number
        self._counts[number, bisect_left(self._edges, value)] += 1
        self._sums[number] += value
        self._of_version(model_version).inc()

    def total(self) -> int:
        """Return the number of predictions answered."""
        return int(self._counts.sum())

    def collect(self) -> Iterable[Metric]:
        """Return the histogram."""
        buckets = [*map(str, self._edges), "+Inf"]
        totals = self._counts.sum(axis=0).cumsum().tolist()
        yield HistogramMetricFamily(
            self._name,
            f"Predicted values, in {self._unit}",
            list(zip(buckets, totals, strict=True)),
            float(self._sums.sum()),
        )


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


class Scrape(Collector):
    """Metrics that a function reads at the time of the scrape."""

    def __init__(self, read: Callable[..., Iterable[Metric]], *arguments: Any) -> None:
        self._read = partial(read, *arguments)

    def collect(self) -> Iterable[Metric]:
        """Return what the function reads."""
        return self._read()


def model_info(keeper: Keeper) -> Iterable[Metric]:
    """Return `model_info`, 1 for the version that serves, and its scores; no samples without a model."""
    info = GaugeMetricFamily("model_info", "The model that serves", labels=["version", "family", "run_id"])
    error = f"RMSE on the test rows at registration, in {load_table().target.unit}"
    rmse = GaugeMetricFamily("model_test_rmse", error, labels=["model_version"])
    share = "Share of true values that its intervals are made to contain"
    coverage = GaugeMetricFamily("model_interval_coverage", share, labels=["model_version"])
    champion = keeper.current
    if champion is not None:
        info.add_metric([champion.version, champion.family, champion.run_id], 1)
        coverage.add_metric([champion.version], champion.coverage)
        if "test_rmse" in champion.metadata.scores:
            rmse.add_metric([champion.version], champion.metadata.scores["test_rmse"])
    matches = GaugeMetricFamily(
        "model_matches_registry", "1 when the registry's alias names the version that serves", labels=[]
    )
    if champion is not None and keeper.matches is not None:
        matches.add_metric([], float(keeper.matches))
    yield from (info, rmse, coverage, matches)


def prediction_log(log: PredictionLog) -> Iterable[Metric]:
    """Return whether predictions can be stored; without that they are not answered."""
    text = "1 when the last write to the prediction log succeeded; one is tried every few seconds"
    yield GaugeMetricFamily("prediction_log_writable", text, value=0 if log.problem else 1)


def used_by_all(processes: Processes) -> Iterable[Metric]:
    """Return the client library's metrics of a process as sums over several and their parent.

    Without the processor time: what a process that has ended had used would seem to be used once more.
    """
    found: defaultdict[str, list[Metric]] = defaultdict(list)
    for pid in processes.ids:
        for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            found[metric.name].append(metric)
    found.pop("process_cpu_seconds", None)
    for name, metrics in found.items():
        values = [metric.samples[0].value for metric in metrics]
        value = min(values) if name == "process_start_time_seconds" else sum(values)
        yield GaugeMetricFamily(name, metrics[0].documentation, value=value)


def service_health(health_file: Path) -> Iterable[Metric]:
    """Return `service_up` and the resources of each program, as the watchdog last wrote them to a file.

    There are no samples for services that are not installed, nor while there is no watchdog.
    """
    up = GaugeMetricFamily("service_up", "1 when it answered the watchdog", labels=["service"])
    memory = GaugeMetricFamily("service_memory_bytes", "Resident memory of its processes", labels=["service"])
    cpu = CounterMetricFamily("service_cpu_seconds", "CPU time of its processes", labels=["service"])
    uptime = GaugeMetricFamily("service_uptime_seconds", "Seconds since its start", labels=["service"])
    report = read_health(health_file)
    for name, service in report.get("services", {}).items():
        if service.get("state") != "missing":
            up.add_metric([name], 1 if service.get("state") == "up" else 0)
    for name, used in report.get("processes", {}).items():
        memory.add_metric([name], used["memory_bytes"])
        cpu.add_metric([name], used["cpu_seconds"])
        uptime.add_metric([name], used["uptime_seconds"])
    yield from (up, memory, cpu, uptime)


def state_disk(state_dir: Path) -> Iterable[Metric]:
    """Return the free and the total bytes of the file system of STATE_DIR; nothing when it does not exist."""
    try:
        disk = shutil.disk_usage(state_dir)
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
