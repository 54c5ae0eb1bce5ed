"""The loop that looks for drift and has the model retrained when it lasts: ``python -m monitoring.drift_monitor``.

Every DRIFT_INTERVAL_SECONDS it runs `monitoring.drift_check` as a process of its own, if there is anything new, and
writes the report with what follows from it to ``STATE_DIR/drift/report.json``; the service shows that file and makes
metrics of it. A retraining is started when drift, or a live error above what the version promised, was found in
several windows in a row, and there are new labels to learn from. What was counted lies in ``state.json`` beside the
report, so a restart goes on where the loop was. The lock of `pipeline.retrain` keeps two from running: the second
one ends with exit code 3, and the loop tries again later.

Only the standard library: it waits most of its life, in 15 MB.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHECK = (sys.executable, "-m", "monitoring.drift_check", "--json")
RETRAIN = (sys.executable, "-m", "pipeline.retrain", "--trigger", "drift", "--reason")
BUSY = 3  # exit code of pipeline.retrain: another one runs
LONGEST_CHECK = 60.0  # seconds
LONGEST_RETRAINING = 7200.0
STOP_SECONDS = 5.0
HISTORY_TAIL = 65_536  # bytes; the last retraining is in them


@dataclass(frozen=True)
class State:
    """What is remembered from window to window, and over a restart.

    ``windows`` in a row wanted a retraining; ``last_id`` and ``labels`` are where the last of them ended. A
    retraining of ours runs since ``retraining_since``, the last attempt ended at ``tried_at`` (both in unix seconds).
    """

    version: str | None = None
    windows: int = 0
    last_id: int = 0
    labels: int = 0
    retraining_since: float | None = None
    retraining_reason: str = ""
    tried_at: float | None = None


@dataclass(frozen=True)
class Decision:
    """What follows from a report: the new state, what to start a retraining for, if so, and the words for it.

    Until ``pauses_until`` (unix seconds) none is started, whatever is found.
    """

    state: State
    start: str | None
    waits_for: tuple[str, ...]
    says: str
    pauses_until: float | None = None


def decide(
    state: State, report: Mapping[str, Any], *, now: float, last_retraining: float | None, on: bool
) -> Decision:
    """Return what to do about a report of `monitoring.drift_check`.

    Parameters
    ----------
    now, last_retraining : float
        Unix seconds: the time, and when the last retraining ended, whoever started it.
    on : bool
        Whether a retraining may be started at all.
    """
    state = _count(state, report)
    policy = report.get("policy")
    reasons = _reasons(report)
    ended = max(state.tried_at or 0.0, last_retraining or 0.0)
    until = ended + policy["cooldown_seconds"] if policy else 0.0
    pause = until if until > now else None
    if policy is None or not reasons:
        return Decision(state, None, (), f"nothing to do: {report['summary']}", pause)
    why = " and ".join(reasons)
    waits = []
    if (missing := policy["sustained"] - state.windows) > 0:
        waits.append(f"{missing} more {'window' if missing == 1 else 'windows'} like this in a row")
    if (missing := policy["new_labels"] - report["new_labels"]) > 0:
        waits.append(f"{missing} more labels")
    if pause is not None:
        waits.append(f"the end of the pause after the last retraining, {_iso(pause)}")
    if not on:
        waits.append("RETRAIN_ON_DRIFT=on")
    if state.retraining_since is not None:
        since = f"a retraining runs since {_iso(state.retraining_since)}: {state.retraining_reason}"
        return Decision(state, None, ("its end",), since, pause)
    if waits:
        text = f"{why}; before it retrains it waits for {', '.join(waits)}"
        return Decision(state, None, tuple(waits), text, pause)
    return Decision(state, why, (), f"retrains: {why}")


def _count(state: State, report: Mapping[str, Any]) -> State:
    """Return the state with this window counted, if it holds enough that the one before did not."""
    policy, version = report.get("policy"), report.get("version")
    if policy is None or version is None:
        return state
    last_id, labels = report["window"]["last_id"], report["new_labels"]
    if version != state.version:
        # what came before was another version's: its windows count no more, nor do its rows
        return replace(state, version=version, windows=0, last_id=last_id if state.version else 0, labels=labels)
    if not _reasons(report):
        # a report that cannot say is no evidence for either
        return state if report["status"] == "not enough data" else replace(state, windows=0, last_id=last_id)
    fresh_rows = abs(last_id - state.last_id) >= policy["fresh_share"] * policy["window"]
    fresh_labels = abs(labels - state.labels) >= policy["fresh_share"] * policy["live_labels"]
    if not (fresh_rows or fresh_labels):
        return state
    return replace(state, windows=state.windows + 1, last_id=last_id, labels=labels)


def _reasons(report: Mapping[str, Any]) -> list[str]:
    """Return why one would retrain, in words; nothing when there is no reason."""
    live = report.get("live")
    reasons = [f"drift: {report['summary']}"] if report["status"] == "drift" else []
    if live and live["worse"]:
        reasons.append(f"live RMSE {live['rmse']:.3f} of {live['labels']} labels above {live['limit']:.3f}")
    return reasons


class Monitor:
    """The loop and what it has started."""

    def __init__(self, state_dir: Path, *, interval: float, on: bool) -> None:
        self._state_dir = state_dir
        self._directory = state_dir / "drift"
        self._interval = interval
        self._on = on
        self._seen: object = None
        self._report: dict[str, Any] = {}
        self._said = ""
        self._training: subprocess.Popen[bytes] | None = None
        self._state = self._load()

    def run(self) -> None:
        """Look, act and wait until a signal ends it."""
        try:
            while True:
                started = time.monotonic()
                try:
                    self.look()
                except OSError as error:  # a full disk, most likely
                    self._say(f"cannot go on for now: {error}")
                self._wait(started + self._interval)
        finally:
            self._stop_training()

    def look(self) -> None:
        """Check what is new, decide, write the report, and start a retraining if one is due."""
        now = time.time()
        seen = self._signature()
        if seen != self._seen or self._report.get("status") == "check failed":
            self._report, self._seen = self._check(), seen
        decision = decide(self._state, self._report, now=now, last_retraining=self._last_retraining(), on=self._on)
        self._keep(decision.state)
        if decision.start is not None:
            self._start_training(decision.start, now)
        self._write(decision)
        self._say(decision.says)

    def _check(self) -> dict[str, Any]:
        try:
            result = subprocess.run(CHECK, capture_output=True, text=True, timeout=LONGEST_CHECK, check=False)
            report: dict[str, Any] = json.loads(result.stdout)
        except subprocess.TimeoutExpired:
            problem = f"no answer in {LONGEST_CHECK:.0f} s"
        except ValueError:
            problem = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        else:
            return report
        return {
            "status": "check failed",
            "summary": f"the drift check failed: {problem}",
            "checked_at": _iso(time.time()),
        }

    def _signature(self) -> object:
        """Return what changes when there is something new to look at."""
        files = ("predictions.db", "predictions.db-wal", "champion/current.json")
        found: list[tuple[int, int, int] | None] = []
        for name in files:
            try:
                stat = (self._state_dir / name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return found

    def _start_training(self, reason: str, now: float) -> None:
        # on disk first: whoever is started after a kill knows that there was one
        self._keep(replace(self._state, retraining_since=now, retraining_reason=reason))
        self._training = subprocess.Popen([*RETRAIN, reason], stdin=subprocess.DEVNULL)

    def _wait(self, deadline: float) -> None:
        """Return at the deadline, or when a retraining has ended."""
        while (left := deadline - time.monotonic()) > 0:
            if self._training is None:
                time.sleep(left)
            elif self._training.poll() is None:
                if self._state.retraining_since and time.time() > self._state.retraining_since + LONGEST_RETRAINING:
                    self._stop_training()
                time.sleep(min(left, 0.5))
            else:
                self._training_ended(self._training.returncode)
                return

    def _training_ended(self, code: int) -> None:
        self._training = None
        if code == BUSY:
            self._keep(replace(self._state, retraining_since=None))
            self._say("another retraining runs: tries again later")
            return
        self._keep(replace(self._state, retraining_since=None, windows=0, tried_at=time.time()))
        last = self._history()[-1:]
        outcome = f"{last[0].get('outcome')}, {last[0].get('reason')}" if last else f"exit code {code}"
        self._say(f"the retraining has ended: {outcome}")

    def _stop_training(self) -> None:
        if self._training is None:
            return
        self._training.terminate()
        try:
            self._training.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._training.kill()
            self._training.wait()

    def _last_retraining(self) -> float | None:
        """Return when the last retraining ended; the first training of a fresh state is none."""
        ends = [_seconds(line.get("ended_at")) for line in self._history() if line.get("trigger") != "start"]
        return ends[-1] if ends else None

    def _history(self) -> list[dict[str, Any]]:
        """Return the newest lines of what `pipeline.retrain` notes of each retraining."""
        try:
            with (self._state_dir / "retrains.jsonl").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - HISTORY_TAIL))
                lines = file.read().splitlines()[1 if size > HISTORY_TAIL else 0 :]
        except OSError:
            return []
        return [line for line in map(json_object, lines) if line]

    def _load(self) -> State:
        """Return the state that the loop before this one left."""
        kept = json_object(_read(self._directory / "state.json"))
        state = State(**{name: value for name, value in kept.items() if name in State.__dataclass_fields__})
        if state.retraining_since is not None:
            # It was killed with its parent, or goes on and will be in the history. Either way it counts as one:
            # what was killed once may well be again.
            state = replace(state, retraining_since=None, windows=0, tried_at=state.retraining_since)
        return state

    def _keep(self, state: State) -> None:
        if state != self._state:
            self._state = state
            _replace(self._directory / "state.json", json.dumps(asdict(state)))

    def _write(self, decision: Decision) -> None:
        monitor = {
            "looked_at": _iso(time.time()),
            "says": decision.says,
            "windows": self._state.windows,
            "waits_for": decision.waits_for,
            "pauses_until": None if decision.pauses_until is None else _iso(decision.pauses_until),
            "retraining": self._training is not None,
            "retrain_on_drift": self._on,
        }
        _replace(self._directory / "report.json", json.dumps(self._report | {"monitor": monitor}))

    def _say(self, text: str) -> None:
        """Write a line when it is news."""
        # figures change all the time
        news = "".join(letter for letter in text if not letter.isdigit())
        if news != self._said:
            self._said = news
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def json_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object; empty when it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text + "\n")
    new.replace(path)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _seconds(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def main() -> None:
    """Run until a signal comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    monitor = Monitor(
        Path(os.environ["STATE_DIR"]),
        interval=float(os.environ["DRIFT_INTERVAL_SECONDS"]),
        on=os.environ["RETRAIN_ON_DRIFT"] == "on",
    )
    monitor.run()


if __name__ == "__main__":
    main()
