"""A story against a running appliance, over HTTP only: ``make simulate [SCENARIO=drift|steady|burst]``.

Rows that no version was trained on are asked about, and their labels come some seconds late.

- ``drift``: first as they are; then the market changes. The change is invented: within `COAST_KM` of the sea every
  price is half as much again, and most questions come from the coast of Southern California. Nobody calls a
  retraining: the drift monitor has to see it, train, and the gate to promote. It ends well (exit code 0) when a new
  version serves, its live RMSE is at most `GOAL` of the former one's after the change, and no request failed.
- ``steady``: nothing changes for three minutes, and nothing may be retrained.
- ``burst``: short bursts of as many requests as four connections carry, for whoever wants to watch the dashboards.

``drift`` ends at once, with the remedy, where the drift monitor could not retrain in time: in its pause after a
retraining, or when RETRAIN_ON_DRIFT is off.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.spatial import cKDTree

from pipeline.preprocess import check, split
from pipeline.stage_runner import RAW_DATA, load_params
from pipeline.workspace import ROOT
from tableloop.model.kriging import EASTWARD, KILOMETRES, places
from tableloop.settings import Settings, load_settings
from tableloop.state.layout import Layout
from tableloop.table import FEATURE_NAMES, TARGET

CONNECTIONS = 4
SECONDS = 180.0
PATIENCE = 420.0  # on a busy machine the training takes longer; the story waits so long for it
NORMAL_SECONDS = 25.0
AFTERWARDS_SECONDS = 25.0
RATE, RATE_IN_TRAINING = 32.0, 12.0  # requests a second
LABEL_DELAY = (4.0, 9.0)  # seconds
COAST_KM, SOUTH, RISE = 30.0, 35.0, 1.5
SOUTHERN_SHARE = 0.7  # of the questions after the change
KEPT = 0.25  # of the rows, for the time after the promotion
GOAL = 0.7
SHOWN = 200  # labelled predictions in a live RMSE
LONGEST_PAUSE = 60.0  # seconds that the drift monitor may still pause for: it needs as long to be sure of the change
# The coast from Oregon to Mexico, read off a map to a few kilometres.
COAST = (
    (42.0, -124.2), (40.44, -124.4), (39.3, -123.8), (38.3, -123.05), (37.8, -122.5), (37.1, -122.3), (36.6, -121.9),
    (35.6, -121.15), (34.6, -120.6), (34.45, -120.2), (34.3, -119.3), (34.02, -118.6), (33.75, -118.3),
    (33.6, -117.9), (33.2, -117.4), (32.5, -117.12),
)  # fmt: skip

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """A labelled prediction: when it was made, by which version, and how wrong it was."""

    at: float
    version: str
    error: float
    inside: bool


@dataclass
class Story:
    """What happened so far; several threads add to it."""

    started: float = field(default_factory=time.monotonic)
    answers: list[Answer] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    requests: int = 0
    failures: list[str] = field(default_factory=list)

    def seconds(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self.started

    def tell(self, text: str, mark: str = "") -> None:
        """Print a step with its time; one with a mark becomes a line in the picture."""
        at = self.seconds()
        if mark:
            self.events.append((at, mark))
        sys.stdout.write(f"{int(at) // 60}:{int(at) % 60:02d}  {text}\n")
        sys.stdout.flush()

    def live(self, version: str, since: float = 0.0) -> tuple[float, float, int]:
        """Return RMSE, share inside the intervals and number of a version's newest labelled predictions."""
        chosen = [answer for answer in list(self.answers) if answer.version == version and answer.at >= since][
            -SHOWN:
        ]
        if not chosen:
            return math.nan, math.nan, 0
        errors = np.array([answer.error for answer in chosen])
        return float(np.sqrt(np.mean(errors**2))), float(np.mean([a.inside for a in chosen])), len(chosen)


class Houses:
    """The rows to ask about, in an order of chance, each group from its beginning again when it is used up.

    Some are kept until `only_new`: rows that were asked about before, and labelled, may have been trained on since.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        rows = rows.sample(frac=1, random_state=0)
        self.features: Matrix = rows[list(FEATURE_NAMES)].to_numpy(np.float64)
        self.values: Matrix = rows[TARGET.name].to_numpy(np.float64)
        line = np.concatenate([np.linspace(a, b, 50) for a, b in itertools.pairwise(COAST)])
        self.coastal = cKDTree(line * [1.0, EASTWARD]).query(places(self.features))[0] * KILOMETRES < COAST_KM
        self._southern = self.coastal & (self.features[:, 6] < SOUTH)
        self._random = np.random.default_rng(1)
        kept = int(len(rows) * KEPT)
        self._take(np.arange(kept, len(rows)))
        self._kept = np.arange(kept)

    def only_new(self) -> None:
        """From now on give rows that were not asked about before."""
        self._take(self._kept)

    def _take(self, numbers: npt.NDArray[np.intp]) -> None:
        southern = self._southern[numbers]
        self._from_south, self._from_elsewhere = self._again(numbers[southern]), self._again(numbers[~southern])
        self._from_all = self._again(numbers)

    def next(self, *, changed: bool) -> tuple[list[float], float]:
        """Return the features of the next house and its value, in the changed market or in that of 1990."""
        if not changed:
            row = next(self._from_all)
            return self.features[row].tolist(), float(self.values[row])
        row = next(self._from_south if self._random.random() < SOUTHERN_SHARE else self._from_elsewhere)
        return self.features[row].tolist(), float(self.values[row] * (RISE if self.coastal[row] else 1.0))

    def _again(self, numbers: npt.NDArray[np.intp]) -> Iterator[int]:
        while True:
            yield from self._random.permutation(numbers).tolist()


class Traffic:
    """Threads that ask at a rate and send the labels later; the rate and the market may change at any time."""

    def __init__(self, port: int, houses: Houses, story: Story) -> None:
        self.rate = RATE
        self.changed = False
        self._port = port
        self._houses = houses
        self._story = story
        self._lock = threading.Lock()
        self._due = time.monotonic()
        self._waiting: deque[tuple[float, str, float]] = deque()
        self._stop = threading.Event()
        work = [self._ask] * CONNECTIONS + [self._label]
        self._threads = [threading.Thread(target=target, daemon=True) for target in work]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def only_new(self) -> None:
        """Ask about rows that were not asked about before."""
        with self._lock:
            self._houses.only_new()

    def _ask(self) -> None:
        connection = Connection(self._port)
        delay = np.random.default_rng()
        while not self._stop.is_set():
            with self._lock:
                now = time.monotonic()
                self._due = max(self._due + 1.0 / self.rate, now - 1.0)
                wait = self._due - now
                features, value = self._houses.next(changed=self.changed)
            if wait > 0 and self._stop.wait(wait):
                break
            at = self._story.seconds()
            answer = self._request(connection, "/predict", dict(zip(FEATURE_NAMES, features, strict=True)), 200)
            if answer is None:
                continue
            interval = answer["interval"]
            self._story.requests += 1
            self._waiting.append(
                (time.monotonic() + delay.uniform(*LABEL_DELAY), answer["prediction_id"], value),
            )
            self._story.answers.append(
                Answer(
                    at,
                    answer["model_version"],
                    answer["predicted_median_house_value"] - value,
                    interval["low"] <= value <= interval["high"],
                )
            )

    def _label(self) -> None:
        connection = Connection(self._port)
        while not self._stop.wait(1.0):
            now = time.monotonic()
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            due = [(prediction, value) for at, prediction, value in waiting if at <= now]
            self._waiting.extend(entry for entry in waiting if entry[0] > now)
            if due:
                labels = [{"prediction_id": prediction, "actual_value": value} for prediction, value in due]
                self._request(connection, "/feedback", labels, 200, 201, 207)

    def _request(self, connection: Connection, path: str, body: object, *expected: int) -> Any:
        try:
            status, answer = connection.post(path, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._story.failures.append(f"{path}: {type(error).__name__}: {error}")
            return None
        if status not in expected:
            self._story.failures.append(f"{path}: {status} {str(answer)[:200]}")
            return None
        return answer


class Connection:
    """One connection to the service, kept open."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(self, path: str, body: object) -> tuple[int, Any]:
        """Return status and JSON of the answer."""
        return self._ask("POST", path, json.dumps(body))

    def get(self, path: str) -> tuple[int, Any]:
        """Return status and JSON of the answer."""
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: str | None) -> tuple[int, Any]:
        try:
            self._http.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = self._http.getresponse()
            return answer.status, json.loads(answer.read())
        except BaseException:
            self._http.close()
            raise


class Watcher:
    """Tells what the drift monitor, the registry and Prometheus' alerts do, as the service and Prometheus show it."""

    def __init__(self, port: int, prometheus_port: int, story: Story) -> None:
        self._connection = Connection(port)
        self._prometheus = Connection(prometheus_port)
        self._alerts: set[str] = set()
        self._story = story
        self.first = self.version = self._serving()
        self.retraining = False
        self.drift_at: float | None = None
        # What was so before is no part of the story.
        self.before = self._report() or {}
        self._said = _without_figures(str(self.before.get("monitor", {}).get("says", "")))
        self._was_drift = self.before.get("status") == "drift"
        self._alerts |= self._firing()

    def look(self) -> None:
        """Ask once, and tell what is new."""
        try:
            report = self._report()
            version = self._serving()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._story.failures.append(f"/drift: {type(error).__name__}: {error}")
            return
        if report is not None:
            self._tell(report)
        firing = self._firing()
        for name in sorted(firing - self._alerts):
            self._story.tell(f"alert: {name}", name)
        self._alerts |= firing
        if version != self.version:
            self._story.tell(
                f"version {version} was promoted by the gate and serves, after {self.version}", "promotion"
            )
            self.version = version

    def _tell(self, report: dict[str, Any]) -> None:
        monitor = report.get("monitor", {})
        self._was_drift &= report["status"] == "drift"
        if report["status"] == "drift" and self.drift_at is None and not self._was_drift:
            self.drift_at = self._story.seconds()
            self._story.tell(f"drift found: {report['summary']}", "drift")
        says = str(monitor.get("says", ""))
        news = _without_figures(says)
        if news != self._said and says and not says.startswith("nothing to do"):
            self._said = news
            self._story.tell(f"the drift monitor: {says}")
        if bool(monitor.get("retraining")) != self.retraining:
            self.retraining = not self.retraining
            text = (
                "a retraining runs, started by the drift monitor" if self.retraining else "the retraining has ended"
            )
            self._story.tell(text, "retraining" if self.retraining else "")

    def _report(self) -> dict[str, Any] | None:
        """Return the drift monitor's last report, None before its first."""
        status, report = self._connection.get("/drift?format=json")
        return report if status == 200 else None

    def _firing(self) -> set[str]:
        """Return the names of Prometheus' alerts; none without Prometheus, which an appliance may lack."""
        try:
            _, answer = self._prometheus.get("/api/v1/alerts")
        except (OSError, http.client.HTTPException, ValueError):
            return set()
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"] if alert["state"] == "firing"}

    def _serving(self) -> str:
        status, model = self._connection.get("/model")
        if status != 200:
            raise ValueError(f"/model answers {status}: {model}")
        return str(model["version"])


def drift(story: Story, traffic: Traffic, watcher: Watcher) -> list[str]:
    """Tell the story of a changed market; return what went otherwise than it should."""
    story.tell(f"version {watcher.first} serves; normal traffic, labels some seconds late")
    _watch(story, watcher, _at(story, NORMAL_SECONDS))
    story.tell(f"in the market that it knows: {_live(story, watcher.first)}")
    changed_at = story.seconds()
    traffic.changed = True
    story.tell(
        f"SIMULATED: from now on prices within {COAST_KM:.0f} km of the sea are up by a half, and "
        f"{SOUTHERN_SHARE:.0%} of the questions come from the coast of Southern California",
        "market changes",
    )
    told = 0.0

    def promoted() -> bool:
        nonlocal told
        traffic.rate = RATE_IN_TRAINING if watcher.retraining else RATE
        if watcher.version == watcher.first and story.seconds() - max(told, changed_at) > 15:
            told = story.seconds()
            story.tell(f"version {watcher.first} since the change: {_live(story, watcher.first, changed_at)}")
        return watcher.version != watcher.first or story.seconds() >= PATIENCE

    _watch(story, watcher, promoted)
    before, _, _ = story.live(watcher.first, changed_at)
    if watcher.version == watcher.first:
        return [f"no version was promoted in {PATIENCE:.0f} s"]
    traffic.rate = RATE
    traffic.only_new()
    new_from = story.seconds()
    _watch(story, watcher, _at(story, story.seconds() + AFTERWARDS_SECONDS))
    after, inside, count = story.live(watcher.version, new_from)
    story.tell(
        f"live RMSE {before:.3f} before, {after:.3f} after: {after / before:.2f} of it, in houses nobody asked "
        f"about before; its intervals hold {inside:.0%} of {count} labels"
    )
    return [] if after <= GOAL * before else [f"the live RMSE fell to {after / before:.2f} only; {GOAL} is the goal"]


def steady(story: Story, traffic: Traffic, watcher: Watcher) -> list[str]:
    """Tell of three minutes in which nothing changes; return what went otherwise than it should."""
    story.tell(f"version {watcher.first} serves; normal traffic of {traffic.rate:.0f} requests a second")
    retrained = False
    for end in np.arange(30, SECONDS + 1, 30):
        _watch(story, watcher, _at(story, end))
        retrained |= watcher.retraining
        story.tell(_live(story, watcher.version))
    return ["a retraining was started although nothing had changed"] if retrained else []


def burst(story: Story, traffic: Traffic, watcher: Watcher) -> list[str]:
    """Send a burst of requests every twenty seconds."""
    story.tell(f"version {watcher.first} serves; ten seconds of load, ten of quiet")
    for start in np.arange(0, SECONDS, 20):
        before = story.requests
        traffic.rate = 2000.0
        _watch(story, watcher, _at(story, start + 10))
        traffic.rate = 5.0
        story.tell(f"{(story.requests - before) / 10:.0f} predictions a second over {CONNECTIONS} connections")
        _watch(story, watcher, _at(story, start + 20))
    return []


SCENARIOS = {"drift": drift, "steady": steady, "burst": burst}


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


def _without_figures(text: str) -> str:
    return "".join(letter for letter in text if not letter.isdigit())


def _watch(story: Story, watcher: Watcher, done: Callable[[], bool]) -> None:
    while not done():
        watcher.look()
        time.sleep(1.0)


def _at(story: Story, seconds: float) -> Callable[[], bool]:
    return lambda: story.seconds() >= seconds


def _live(story: Story, version: str, since: float = 0.0) -> str:
    rmse, inside, count = story.live(version, since)
    return f"live RMSE {rmse:.3f}, {inside:.0%} inside the intervals ({count} labels)"


def draw(story: Story, scenario: str, file: Path) -> None:
    """Write the picture: the live RMSE of each version over the story, or how much was asked, with what happened."""
    figure = Figure(figsize=(9, 4.5), layout="tight")
    axes = figure.add_subplot()
    if scenario == "burst":
        counts = np.bincount([int(answer.at) for answer in story.answers])
        axes.fill_between(np.arange(len(counts)), counts, step="post", alpha=0.7)
        axes.set(xlabel="seconds", ylabel="predictions a second", title=f"Load, scenario {scenario}")
    else:
        _draw_error(axes, story)
        axes.set(
            xlabel="seconds",
            ylabel=f"RMSE of 100 predictions ({TARGET.unit})",
            title=f"Live error, scenario {scenario}",
        )
        axes.legend(loc="lower left")
    top = axes.get_ylim()[1]
    for at, mark in story.events:
        axes.axvline(at, color="grey", linewidth=0.8, linestyle="--")
        axes.text(at, top, f" {mark}", rotation=90, va="top", fontsize=8)
    axes.set_ylim(0, top)
    FigureCanvasAgg(figure)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _draw_error(axes: Axes, story: Story) -> None:
    for version in dict.fromkeys(answer.version for answer in story.answers):
        answers = [answer for answer in story.answers if answer.version == version]
        squares = pd.Series([answer.error**2 for answer in answers]).rolling(100, min_periods=20).mean()
        axes.plot([answer.at for answer in answers], np.sqrt(squares), label=f"version {version}")


def _held_back() -> pd.DataFrame:
    fractions = load_params()["preprocess"]
    return split(check(pd.read_csv(RAW_DATA)), fractions["test_fraction"], fractions["validation_fraction"])["test"]


def run(settings: Settings, scenario: str) -> int:
    """Tell one scenario, and return the exit code."""
    houses, story = Houses(_held_back()), Story()
    try:
        watcher = Watcher(settings.api_port, settings.prometheus_port, story)
    except (OSError, http.client.HTTPException, ValueError) as error:
        sys.stderr.write(f"the service does not answer on port {settings.api_port} ({error}); make up starts it\n")
        return 1
    if scenario == "drift" and (problem := obstacle(watcher.before, time.time())):
        sys.stderr.write(f"{problem}\n")
        return 1
    with Traffic(settings.api_port, houses, story) as traffic:
        problems = SCENARIOS[scenario](story, traffic, watcher)
    if story.failures:
        problems.append(f"{len(story.failures)} requests failed, the first: {story.failures[0]}")
    file = Layout(settings.state_dir).simulations / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{scenario}.png"
    draw(story, scenario, file)
    story.tell(f"{story.requests:,} predictions, {len(story.failures)} failed; a picture of the story: {file}")
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


def main() -> None:
    """Run the scenario that the argument names."""
    parser = argparse.ArgumentParser(description="Traffic and labels for a running appliance.")
    parser.add_argument("scenario", nargs="?", default="drift", choices=SCENARIOS)
    arguments = parser.parse_args()
    settings = load_settings()
    os.chdir(ROOT)
    sys.exit(run(settings, arguments.scenario))


if __name__ == "__main__":
    main()
