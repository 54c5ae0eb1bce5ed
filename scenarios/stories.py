"""The stories: each tells what it does, and returns what went otherwise than it should."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

from scenarios.record import Record
from scenarios.traffic import CONNECTIONS, RATE, Traffic
from scenarios.watcher import Watcher
from tableloop.figures import error_figure
from tableloop.table import Table

SECONDS = 180
PATIENCE = 420.0  # seconds; on a busy machine the training takes longer, and the story waits so long for it
NORMAL_SECONDS = 25.0
AFTERWARDS_SECONDS = 25.0
RATE_IN_TRAINING = 12.0  # requests a second
LEARNING_SECONDS = 20.0  # in which labels come that a retraining learns from
SHOWN_SECONDS = 10.0
RETRAIN = (sys.executable, "-m", "pipeline.retrain", "--reason", "the story of make simulate SCENARIO=shadow")
GOAL = 0.7  # of the live RMSE that the former version had after the change


def drift(table: Table, record: Record, traffic: Traffic, watcher: Watcher) -> list[str]:
    """Let happen what the story says, and wait until a new version serves and errs less."""
    record.tell(f"version {watcher.first} serves; normal traffic, labels some seconds late")
    _watch(watcher, _at(record, NORMAL_SECONDS))
    record.tell(f"in the market that it knows: {record.summary(watcher.first)}")
    told = changed_at = record.seconds()
    traffic.changed = True
    record.tell(f"SIMULATED: from now on {traffic.story.title}", "market changes")

    def promoted() -> bool:
        nonlocal told
        traffic.rate = RATE_IN_TRAINING if watcher.retraining else RATE
        if watcher.version == watcher.first and record.seconds() - told > 15:
            told = record.seconds()
            record.tell(f"version {watcher.first} since the change: {record.summary(watcher.first, changed_at)}")
        return watcher.version != watcher.first or record.seconds() >= PATIENCE

    _watch(watcher, promoted)
    if watcher.version == watcher.first:
        return [f"no version was promoted in {PATIENCE:.0f} s"]
    before, _, _ = record.live(watcher.first, changed_at)
    traffic.rate = RATE
    traffic.only_new()
    new_from = record.seconds()
    _watch(watcher, _at(record, new_from + AFTERWARDS_SECONDS))
    after, inside, count = record.live(watcher.version, new_from)
    record.tell(
        f"live RMSE {error_figure(before)} before, {error_figure(after)} after: {after / before:.2f} of it, in "
        f"{table.rows} nobody asked about before; its intervals hold {inside:.0%} of {count} labels"
    )
    return [] if after <= GOAL * before else [f"the live RMSE fell to {after / before:.2f} only; {GOAL} is the goal"]


def steady(_: Table, record: Record, traffic: Traffic, watcher: Watcher) -> list[str]:
    """Let three minutes pass in which nothing changes; nothing may be retrained."""
    record.tell(f"version {watcher.first} serves; normal traffic of {traffic.rate:.0f} requests a second")
    retrained = False
    for end in range(30, SECONDS + 1, 30):
        _watch(watcher, _at(record, end))
        retrained |= watcher.retraining
        record.tell(record.summary(watcher.version))
    return ["a retraining was started although nothing had changed"] if retrained else []


def burst(_: Table, record: Record, traffic: Traffic, watcher: Watcher) -> list[str]:
    """Send a burst of requests every twenty seconds, for whoever wants to watch the dashboards."""
    record.tell(f"version {watcher.first} serves; ten seconds of load, ten of quiet")
    for start in range(0, SECONDS, 20):
        before = len(record.answers)
        traffic.rate = 2000.0
        _watch(watcher, _at(record, start + 10))
        traffic.rate = 5.0
        count = len(record.answers) - before
        record.tell(f"{count / 10:.0f} predictions a second over {CONNECTIONS} connections")
        _watch(watcher, _at(record, start + 20))
    return []


def shadow(table: Table, record: Record, traffic: Traffic, watcher: Watcher) -> list[str]:
    """Have a version learn from wrong labels, and one from right ones; in the shadow, labels tell them apart."""
    first = watcher.first
    record.tell(f"version {first} serves; its labels are wrong: they say that {traffic.story.title}", "wrong labels")
    traffic.mistaken = True
    _watch(watcher, _at(record, LEARNING_SECONDS))
    traffic.mistaken = False
    record.tell("the labels are right again; a retraining learns from those that came")
    worse = _retrained(record, traffic, watcher)
    if (outcome := _verdict(record, traffic, watcher, worse)) != "rejected":
        return [f"version {worse}, which was made from wrong labels, is {outcome or 'not judged'}"]
    traffic.changed = True
    since = record.seconds()
    record.tell(f"SIMULATED: from now on {traffic.story.title}, and labels say so", "market changes")
    _watch(watcher, _at(record, since + LEARNING_SECONDS))
    better = _retrained(record, traffic, watcher)
    if (outcome := _verdict(record, traffic, watcher, better)) != "promoted":
        return [f"version {better}, which knows the change, is {outcome or 'not judged'}"]
    before, _, _ = record.live(first, since)
    traffic.rate = RATE
    traffic.only_new()
    new_from = record.seconds()
    _watch(watcher, _at(record, new_from + SHOWN_SECONDS))
    after, _, count = record.live(better, new_from)
    record.tell(
        f"live RMSE {error_figure(before)} of version {first} since the change, {error_figure(after)} of version "
        f"{better} on {count} labels of {table.rows} nobody asked about before"
    )
    return [] if after < before else ["the version that was promoted errs more than the one before it"]


def _retrained(record: Record, traffic: Traffic, watcher: Watcher) -> str:
    """Retrain as `make retrain` does, while requests go on, and return the version that waits then."""
    traffic.rate = RATE_IN_TRAINING
    with subprocess.Popen(RETRAIN, env=os.environ | {"PROMOTE": "shadow"}, stdout=subprocess.DEVNULL) as process:
        _watch(watcher, lambda: process.poll() is not None)
    traffic.rate = RATE
    _watch(watcher, lambda: "" in watcher.verdicts.values() or record.seconds() >= PATIENCE)
    waiting = [version for version, outcome in watcher.verdicts.items() if not outcome]
    return waiting[0] if waiting else f"of the retraining that ended with {process.returncode}"


def _verdict(record: Record, traffic: Traffic, watcher: Watcher, version: str) -> str:
    """Return what labels say of a version in the shadow, once the service has followed."""

    def judged() -> bool:
        outcome = watcher.verdicts.get(version)
        return bool(outcome) and (outcome != "promoted" or watcher.version == version)

    _watch(watcher, lambda: judged() or record.seconds() >= PATIENCE)
    return watcher.verdicts.get(version, "")


STORIES = {"drift": drift, "steady": steady, "burst": burst, "shadow": shadow}


def _watch(watcher: Watcher, done: Callable[[], bool]) -> None:
    while not done():
        watcher.look()
        time.sleep(1.0)


def _at(record: Record, seconds: float) -> Callable[[], bool]:
    return lambda: record.seconds() >= seconds
