"""What the drift monitor and the retrainings leave in files, as an answer and as metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

NO_REPORT: Final = "no drift check has been made yet; the drift monitor makes the first within a minute"
OUTCOMES: Final = ("promoted", "rejected", "unchanged", "failed")
_PER_FEATURE: Final = {
    "feature_drift_psi": ("psi", "Population stability index of the newest predictions"),
    "feature_drift_ks_pvalue": ("p_value", "Kolmogorov-Smirnov test with Holm's correction: p of no drift"),
    "feature_drift_distance": ("wasserstein", "Wasserstein distance from the training rows in standard deviations"),
    "feature_drifted": ("drifted", "1 where the change is significant and large"),
}


class NoReportError(Exception):
    """The drift monitor has not written anything yet."""


def read_report(path: Path) -> dict[str, Any]:
    """Return the newest report.

    Raises
    ------
    NoReportError
        There is none.
    """
    try:
        report = json.loads(path.read_bytes())
    except (OSError, ValueError):
        report = None
    if not isinstance(report, dict) or "status" not in report:
        raise NoReportError(NO_REPORT)
    return report


class DriftReport(Collector):
    """The drift monitor's last report as gauges, per feature and as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def collect(self) -> Iterable[Metric]:
        """Return the gauges; nothing while there is no report, no feature while there are too few predictions."""
        try:
            report = read_report(self._path)
        except NoReportError:
            return
        for name, (key, text) in _PER_FEATURE.items():
            family = GaugeMetricFamily(name, text, labels=["feature"])
            for column in report.get("columns", []):
                family.add_metric([column["name"]], float(column[key]))
            yield family
        monitor = report.get("monitor", {})
        joint = report.get("joint")
        policy = report.get("policy", {})
        live = report.get("live")
        if live:
            yield GaugeMetricFamily(
                "live_error_worse",
                "1 where the newest labels are worse than the version promised, by a margin and by more than chance",
                value=float(live["worse"]),
            )
        if joint:
            yield GaugeMetricFamily("drift_auc", "How well rows are told from the training rows", value=joint["auc"])
        yield GaugeMetricFamily("drift_detected", "1 for drift", value=float(report["status"] == "drift"))
        yield GaugeMetricFamily(
            "drift_window_rows", "Predictions looked at", value=report.get("window", {}).get("rows", 0)
        )
        yield GaugeMetricFamily(
            "drift_windows_in_a_row", "Windows that wanted a retraining", value=monitor.get("windows", 0)
        )
        yield GaugeMetricFamily(
            "labels_unused", "Labels that no training has used yet", value=report.get("new_labels", 0)
        )
        yield GaugeMetricFamily(
            "retraining_running", "1 while one of the monitor runs", value=monitor.get("retraining", 0)
        )
        if looked_at := _seconds(monitor.get("looked_at")):
            yield GaugeMetricFamily(
                "drift_checked_timestamp_seconds", "When the monitor last looked", value=looked_at
            )
        limits = GaugeMetricFamily("drift_threshold", "What counts as drift", labels=["measure"])
        for measure in ("psi", "wasserstein", "auc", "alpha", "sustained", "new_labels"):
            if measure in policy:
                limits.add_metric([measure], policy[measure])
        yield limits


class Retrains(Collector):
    """`retrains_total` by outcome, from the history that every retraining adds a line to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def newest(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest retrainings, the newest first."""
        return self._all()[: -limit - 1 : -1]

    def collect(self) -> Iterable[Metric]:
        """Return the counter, with 0 for what has not happened."""
        counts = Counter(dict.fromkeys(OUTCOMES, 0))
        counts.update(entry["outcome"] for entry in self._all())
        family = CounterMetricFamily("retrains", "Retrainings that ended, the first training too", labels=["outcome"])
        for outcome, count in counts.items():
            family.add_metric([str(outcome)], count)
        yield family

    def _all(self) -> list[dict[str, Any]]:
        entries = []
        with suppress(OSError):
            for line in self._path.read_bytes().splitlines():
                with suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and "outcome" in entry:
                        entries.append(entry)
        return entries


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
