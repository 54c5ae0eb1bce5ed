"""The loop that looks for drift and has the model retrained when it lasts: ``python -m monitoring.drift_monitor``.

Every DRIFT_INTERVAL_SECONDS it looks whether there is anything new in the store. If so it runs
`monitoring.drift_check` as a process of its own, which compares, decides, keeps its report and its memory in the
store, and says whether to start a retraining. A restart of this loop loses nothing. The lock of retrainings keeps two
from running: the second one ends with exit code 3, and the loop tries again later.

While a version is in the shadow, each look also has it score what is new (`monitoring.shadow_check`), meanwhile.

Only the standard library: it waits most of its life, in 15 MB.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY
from tableloop.state.monitor_report import beat
from tableloop.state.sqlite_rows import newest

CHECK = (sys.executable, "-m", "monitoring.drift_check", "--retraining")
NEWEST = (sys.executable, "-m", "tableloop.state.postgres_rows")
SHADOW = (sys.executable, "-m", "monitoring.shadow_check")
LEFT_THE_SHADOW = 4  # its exit code
RETRAIN = (sys.executable, "-m", "pipeline.retrain")
LONGEST_QUESTION = 10.0  # seconds
LONGEST_CHECK = 60.0  # seconds
LONGEST_SCORING = 300.0  # at its low priority, beside services that are busy
LONGEST_RETRAINING = 7200.0
STOP_SECONDS = 5.0


class Monitor:
    """The loop and what it has started."""

    def __init__(self, layout: Layout, interval: float) -> None:
        self._layout = layout
        self._interval = interval
        self._seen: object = None
        self._again_at: float | None = None  # when a check is due though nothing is new, in unix seconds
        self._said = ""
        self._training: subprocess.Popen[bytes] | None = None
        self._training_since = 0.0
        self._scoring: subprocess.Popen[bytes] | None = None  # by the version in the shadow
        self._scoring_since = 0.0
        self._ended: int | None = None  # exit code of a retraining that no check has been told of

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
            for process in (self._training, self._scoring):
                _stop(process)

    def look(self) -> None:
        """Check what is new, and start a retraining if one is due."""
        self._end_scoring()
        seen = self._signature()
        due = self._again_at is not None and time.time() >= self._again_at
        if seen == self._seen and self._ended is None and not due:
            beat(self._layout)
            return
        answer = self._check()
        if problem := answer.get("problem"):
            self._seen = None  # tries again at the next look
            beat(self._layout, problem)
            self._say(problem)
            return
        self._seen, self._ended, self._again_at = seen, None, answer["again_at"]
        beat(self._layout)
        if answer["ended"]:
            self._say(answer["ended"])
        if answer["shadow"] and self._scoring is None:
            self._scoring = subprocess.Popen(SHADOW, stdin=subprocess.DEVNULL)
            self._scoring_since = time.monotonic()
        if answer["start"] is not None:
            command = [*RETRAIN, "--trigger", answer["trigger"], "--reason", answer["start"]]
            self._training = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            self._training_since = time.monotonic()
        self._say(answer["says"])

    def _check(self) -> dict[str, Any]:
        """Run one check and return what it says; only a "problem" when it could not."""
        training = "running" if self._training else "none" if self._ended is None else str(self._ended)
        command = [*CHECK, training]
        answer: dict[str, Any]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_CHECK, check=False)
            answer = json.loads(result.stdout)
        except subprocess.TimeoutExpired:
            answer = {"problem": f"the drift check failed: no answer in {LONGEST_CHECK:.0f} s"}
        except ValueError:
            last = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
            answer = {"problem": f"the drift check failed: {last}"}
        return answer

    def _signature(self) -> object:
        """Return what changes when there is something new to look at."""
        try:
            pointer = self._layout.champion_pointer.stat().st_mtime_ns
        except OSError:
            pointer = None
        try:
            return pointer, self._newest()
        except (StoreError, subprocess.TimeoutExpired) as error:
            return pointer, str(error)

    def _newest(self) -> object:
        """Return what is newest in the store; PostgreSQL is asked by a process of its own, whose memory goes."""
        if not os.environ.get("DATABASE_URL"):
            return newest(self._layout.database)
        asked = subprocess.run(NEWEST, capture_output=True, text=True, timeout=LONGEST_QUESTION, check=False)
        return asked.stdout or asked.stderr

    def _wait(self, deadline: float) -> None:
        """Return at the deadline, or when a retraining has ended."""
        while True:
            if self._training is not None and self._training.poll() is not None:
                self._ended, self._training = self._training.returncode, None
                if self._ended != BUSY:
                    return
            if (left := deadline - time.monotonic()) <= 0:  # at once, when a look takes longer than the interval
                return
            if self._training is None:
                time.sleep(left)
                return
            if time.monotonic() > self._training_since + LONGEST_RETRAINING:
                _stop(self._training)
            time.sleep(min(left, 0.5))

    def _end_scoring(self) -> None:
        """Note how the scoring of the version in the shadow has ended, or end one that hangs."""
        if self._scoring is None:
            return
        if self._scoring.poll() is None:
            if time.monotonic() < self._scoring_since + LONGEST_SCORING:
                return
            _stop(self._scoring)
        code, self._scoring = self._scoring.returncode, None
        if code == LEFT_THE_SHADOW:
            self._seen = None  # what waits for its verdict goes on
        elif code < 0:
            self._say(f"the version in the shadow was ended by {signal.Signals(-code).name} as it scored")

    def _say(self, text: str) -> None:
        """Write a line when it is news."""
        # figures change all the time
        news = "".join(letter for letter in text if not letter.isdigit())
        if news != self._said:
            self._said = news
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    """Run until a signal comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    Monitor(Layout(Path(os.environ["STATE_DIR"])), float(os.environ["DRIFT_INTERVAL_SECONDS"])).run()


if __name__ == "__main__":
    main()
