"""What follows from a drift report: whether to retrain, and what that waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tableloop.figures import error_figure
from tableloop.state.locks import BUSY

DRIFT, SCHEDULE = "drift", "schedule"  # what a retraining of the monitor's is started by


@dataclass(frozen=True)
class Memory:
    """What is remembered from window to window, and over a restart.

    ``windows`` in a row wanted a retraining; ``last_id`` and ``labels`` are where the last of them ended. A
    retraining of the monitor runs since ``retraining_since``, its last attempt ended at ``tried_at`` (unix seconds).
    """

    version: str | None = None
    windows: int = 0
    last_id: int = 0
    labels: int = 0
    retraining_since: float | None = None
    retraining_reason: str = ""
    tried_at: float | None = None

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Memory:
        """Return what was kept, less what this code does not know."""
        return cls(**{name: value for name, value in kept.items() if name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Decision:
    """What follows from a report: what to remember, what to start a retraining for, if so, and the words for it.

    Until ``pauses_until`` (unix seconds) none is started, whatever is found. ``trigger`` is of one that is started.
    """

    memory: Memory
    start: str | None
    waits_for: tuple[str, ...]
    says: str
    pauses_until: float | None = None
    trigger: str = DRIFT


def after_retraining(memory: Memory, code: int | None, now: float) -> Memory:
    """Return what is remembered when a retraining of the monitor's does not run, or does not run any more.

    ``code`` is its exit code. None when there was none, or when it was killed together with the monitor, or goes on
    without it and will be in the history: it counts as one that was tried, for what was killed once may be again.
    """
    if memory.retraining_since is None:
        return memory
    if code == BUSY:
        return replace(memory, retraining_since=None)
    tried_at = memory.retraining_since if code is None else now
    return replace(memory, retraining_since=None, windows=0, tried_at=tried_at)


def decide(
    memory: Memory,
    report: Mapping[str, Any],
    *,
    now: float,
    last_retraining: float | None,
    on: bool,
    judging: str | None = None,
) -> Decision:
    """Return what to do about a report of `monitoring.drift_check`.

    Parameters
    ----------
    now, last_retraining : float
        Unix seconds: the time, and when the last retraining ended, whoever started it.
    on : bool
        Whether a retraining may be started at all.
    judging : str, optional
        The version in the shadow that labels are to judge first: another one would take its place.
    """
    memory = _count(memory, report)
    policy = report.get("policy")
    reasons = _reasons(report)
    ended = max(memory.tried_at or 0.0, last_retraining or 0.0)
    until = ended + policy["cooldown_seconds"] if policy else 0.0
    pause = until if until > now else None
    if policy is None or not reasons:
        return Decision(memory, None, (), f"nothing to do: {report['summary']}", pause)
    why = " and ".join(reasons)
    waits = []
    if (missing := policy["sustained"] - memory.windows) > 0:
        waits.append(f"{missing} more {'window' if missing == 1 else 'windows'} like this in a row")
    if (missing := policy["new_labels"] - report["new_labels"]) > 0:
        waits.append(f"{missing} more labels")
    if pause is not None:
        waits.append(f"the end of the pause after the last retraining, {iso(pause)}")
    if not on:
        waits.append("RETRAIN_ON_DRIFT=on")
    if judging is not None:
        waits.append(_verdict_on(judging))
    if memory.retraining_since is not None:
        since = f"a retraining runs since {iso(memory.retraining_since)}: {memory.retraining_reason}"
        return Decision(memory, None, ("its end",), since, pause)
    if waits:
        text = f"{why}; before it retrains it waits for {', '.join(waits)}"
        return Decision(memory, None, tuple(waits), text, pause)
    return Decision(memory, why, (), f"retrains: {why}")


def on_schedule(
    decision: Decision, schedule: str, due: float | None, now: float, judging: str | None = None
) -> Decision:
    """Return the decision when a retraining is due at ``due`` (unix seconds) whatever the report says.

    One that runs already is not joined by another; it too waits for the version that is ``judging``.
    """
    memory = decision.memory
    if due is None or due > now or decision.start is not None or memory.retraining_since is not None:
        return decision
    why = f"RETRAIN_EVERY={schedule}: due at {iso(due)}"
    if judging is not None:
        waits = (*(wait for wait in decision.waits_for if wait != _verdict_on(judging)), _verdict_on(judging))
        return replace(decision, waits_for=waits, says=f"{why}; before it retrains it waits for {waits[-1]}")
    return Decision(memory, why, (), f"retrains: {why}", trigger=SCHEDULE)


def _count(memory: Memory, report: Mapping[str, Any]) -> Memory:
    """Return the memory with this window counted, if it holds enough that the one before did not."""
    policy, version = report.get("policy"), report.get("version")
    if policy is None or version is None:
        return memory
    last_id, labels = report["window"]["last_id"], report["new_labels"]
    if memory.version is None:
        memory = replace(memory, version=version, labels=labels)
    if version != memory.version:
        # what came before was another version's: its windows count no more, nor do its rows
        return replace(memory, version=version, windows=0, last_id=last_id, labels=labels)
    if not _reasons(report):
        # a report that cannot say is no evidence for either
        return memory if report["status"] == "not enough data" else replace(memory, windows=0, last_id=last_id)
    fresh_rows = abs(last_id - memory.last_id) >= policy["fresh_share"] * policy["window"]
    fresh_labels = abs(labels - memory.labels) >= policy["fresh_share"] * policy["live_labels"]
    if not (fresh_rows or fresh_labels):
        return memory
    return replace(memory, windows=memory.windows + 1, last_id=last_id, labels=labels)


def _reasons(report: Mapping[str, Any]) -> list[str]:
    """Return why one would retrain, in words; nothing when there is no reason."""
    live = report.get("live")
    reasons = [f"drift: {report['summary']}"] if report["status"] == "drift" else []
    if live and live["worse"]:
        reasons.append(
            f"live RMSE {error_figure(live['rmse'])} of {live['labels']} labels above {error_figure(live['limit'])}"
        )
    return reasons


def _verdict_on(version: str) -> str:
    return f"the verdict on version {version} in the shadow"


def iso(seconds: float) -> str:
    """Return unix seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
