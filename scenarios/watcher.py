"""What the drift monitor, the registry and Prometheus' alerts do meanwhile, as the service and Prometheus show it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from scenarios.record import Record
from scenarios.traffic import UNANSWERED, Connection

LONGEST_PAUSE = 60.0  # seconds that the drift monitor may still pause for: it needs as long to be sure of the change


class Watcher:
    """Asks now and then, and tells the record what is new; what was so before is no part of the story.

    Raises `UNANSWERED` at the beginning, when the service does not answer.
    """

    def __init__(self, service: Connection, prometheus: Connection, record: Record) -> None:
        self._connection = service
        self._prometheus = prometheus
        self._record = record
        self.first = self.version = self._serving()
        self.retraining = False
        self.before = self._report() or {}
        self._said = _without_figures(str(self.before.get("monitor", {}).get("says", "")))
        self._drift = self.before.get("status") == "drift"
        self._alerts = self._firing()
        self.verdicts: dict[str, str] = {}  # by version, what came of its time in the shadow, "" while it lasts
        self._shadows_before = self._shadows()

    def look(self) -> None:
        """Ask once, and tell what is new."""
        try:
            report = self._report()
            version = self._serving()
            times = self._shadows()
        except UNANSWERED as error:
            self._record.failures.append(f"/drift: {type(error).__name__}: {error}")
            return
        self._tell_of_shadows(times)
        if report is not None:
            self._tell(report)
        firing = self._firing()
        for name in sorted(firing - self._alerts):
            self._record.tell(f"alert: {name}", name)
        self._alerts |= firing
        if version != self.version:
            self._record.tell(
                f"version {version} was promoted by the gate and serves, after {self.version}", "promotion"
            )
            self.version = version

    def _tell(self, report: dict[str, Any]) -> None:
        monitor = report.get("monitor", {})
        drift = report["status"] == "drift"
        if drift and not self._drift and "drift" not in dict(self._record.events).values():
            self._record.tell(f"drift found: {report['summary']}", "drift")
        self._drift = drift
        says = str(monitor.get("says", ""))
        if _without_figures(says) != self._said and says and not says.startswith("nothing to do"):
            self._said = _without_figures(says)
            self._record.tell(f"the drift monitor: {says}")
        if bool(monitor.get("retraining")) != self.retraining:
            self.retraining = not self.retraining
            if self.retraining:
                self._record.tell("a retraining runs, started by the drift monitor", "retraining")
            else:
                self._record.tell("the retraining has ended")

    def _tell_of_shadows(self, times: dict[tuple[str, str], tuple[str, str]]) -> None:
        for (version, began_at), (outcome, reason) in times.items():
            if (version, began_at) in self._shadows_before or self.verdicts.get(version) == outcome:
                continue
            self.verdicts[version] = outcome
            if outcome:
                self._record.tell(f"version {version} is {outcome}: {reason}", f"{version} {outcome}")
            else:
                said = f"version {version} is in the shadow: it scores what version {self.version} answers"
                self._record.tell(said, f"{version} in the shadow")

    def _shadows(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Return outcome and reason of each time in the shadow, by version and beginning; "" while it lasts."""
        status, answer = self._connection.ask("/versions")
        if status != 200:
            raise ValueError(f"/versions answers {status}: {answer}")
        return {
            (version["version"], time["began_at"]): (time["outcome"] or "", time["reason"])
            for version in answer["versions"]
            for time in version["shadow"]
        }

    def _report(self) -> dict[str, Any] | None:
        """Return the drift monitor's last report, None before its first."""
        status, report = self._connection.ask("/drift?format=json")
        return report if status == 200 else None

    def _firing(self) -> set[str]:
        """Return the names of Prometheus' alerts; none without Prometheus, which an appliance may lack."""
        try:
            _, answer = self._prometheus.ask("/api/v1/alerts")
        except UNANSWERED:
            return set()
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"] if alert["state"] == "firing"}

    def _serving(self) -> str:
        status, model = self._connection.ask("/model")
        if status != 200:
            raise ValueError(f"/model answers {status}: {model}")
        return str(model["version"])


def obstacle(report: dict[str, Any], now: float) -> str:
    """Return why the drift monitor would not retrain in time, with the remedy; an empty string when it would."""
    monitor = report.get("monitor", {})
    if not monitor.get("retrain_on_drift", True):
        return "RETRAIN_ON_DRIFT is off, so nothing would be retrained: start the appliance with RETRAIN_ON_DRIFT=on"
    until = monitor.get("pauses_until")
    if until and (left := datetime.fromisoformat(until).timestamp() - now) > LONGEST_PAUSE:
        return (
            f"the drift monitor pauses until {until[11:16]} UTC, {left / 60:.0f} minutes from now, as after every "
            "retraining: wait, or tell the story to an appliance of its own (STATE_DIR=... and other ports)"
        )
    return ""


def not_in_the_shadow(report: dict[str, Any]) -> str:
    """Return why no version would be tried in the shadow, with the remedy; an empty string when one would be."""
    if report.get("monitor", {}).get("promote") == "shadow":
        return ""
    return "no version is tried in the shadow here: start the appliance with PROMOTE=shadow (PROMOTE=shadow make up)"


def _without_figures(text: str) -> str:
    return "".join(letter for letter in text if not letter.isdigit())
