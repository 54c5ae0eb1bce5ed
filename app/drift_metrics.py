"""The drift report and the counts of retrainings, read from the store for answers and as metrics."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.monitor_report import current_report

NO_REPORT: Final = "no drift check has been made yet; the drift monitor makes the first within a minute"
OUTCOMES: Final = ("promoted", "waiting", "rejected", "unchanged", "failed")
_PER_FEATURE: Final = {
    "feature_drift_psi": ("psi", "Population stability index of the newest predictions"),
    "feature_drift_ks_pvalue": (
        "p_value",
        "Kolmogorov-Smirnov or chi-squared test: p of no drift, by Holm's method",
    ),
    "feature_drift_distance": ("wasserstein", "Wasserstein distance from the training rows in standard deviations"),
    "feature_drifted": ("drifted", "1 where the change is significant and large"),
}


class NoReportError(Exception):
    """There is no drift report to show."""


def read_report(store: Store, layout: Layout) -> dict[str, Any]:
    """Return the newest report.

    Raises
    ------
    NoReportError
        There is none, or it cannot be read.
    """
    try:
        report = current_report(store, layout)
    except StoreError as error:
        raise NoReportError(f"the drift report cannot be read: {error}") from None
    if report is None:
        raise NoReportError(NO_REPORT)
    return report


def drift_gauges(store: Store, layout: Layout) -> Iterable[Metric]:
    """Return the drift monitor's last report as gauges, per feature and as a whole.

    There are none while there is no report, and none of a feature while there are too few predictions.
    """
    try:
        report = read_report(store, layout)
    except NoReportError:
        return
    for name, (key, text) in _PER_FEATURE.items():
        family = GaugeMetricFamily(name, text, labels=["feature"])
        for column in report.get("columns", []):
            if column[key] is not None:  # categories have no distance
                family.add_metric([column["name"]], float(column[key]))
        yield family
    live, joint, monitor = (report.get(part) or {} for part in ("live", "joint", "monitor"))
    gauges = {
        "live_error_worse": (
            "1 where the newest labels are worse than the version promised, by a margin and by more than chance",
            live.get("worse"),
        ),
        "drift_auc": ("How well rows are told from the training rows", joint.get("auc")),
        "drift_detected": ("1 for drift", report["status"] == "drift"),
        "drift_window_rows": ("Predictions looked at", report.get("window", {}).get("rows", 0)),
        "drift_windows_in_a_row": ("Windows that wanted a retraining", monitor.get("windows", 0)),
        "labels_unused": ("Labels that no training has used yet", report.get("new_labels", 0)),
        "retraining_running": ("1 while one of the monitor runs", monitor.get("retraining", 0)),
        "drift_checked_timestamp_seconds": ("When the monitor last looked", _seconds(monitor.get("looked_at"))),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(name, text, value=float(value))
    policy = report.get("policy", {})
    limits = GaugeMetricFamily("drift_threshold", "What counts as drift", labels=["measure"])
    for measure in ("psi", "wasserstein", "auc", "alpha", "sustained", "new_labels"):
        if measure in policy:
            limits.add_metric([measure], policy[measure])
    yield limits


def retrains(store: Store) -> Iterable[Metric]:
    """Return `retrains_total` with 0 for an outcome that never was; without samples when the store cannot be read."""
    family = CounterMetricFamily("retrains", "Retrainings that ended, the first training too", labels=["outcome"])
    with suppress(StoreError):
        for outcome, count in (dict.fromkeys(OUTCOMES, 0) | store.retraining_counts()).items():
            family.add_metric([outcome], count)
    yield family


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
