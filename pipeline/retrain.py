"""One retraining, start to end: ``python -m pipeline.retrain [--unless-registered] [--trigger T] [--reason WHY]``.

It takes the labels of the prediction log, runs the pipeline, and adds a line to ``STATE_DIR/retrains.jsonl``. Nothing
that serves is touched before the last step, which moves the alias: killed at any moment before, the former champion
goes on, and the next retraining finds what this one has left.

Exit codes: 0 done, 1 a stage failed, 3 another retraining runs.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO

from pipeline.stage_runner import FORCED
from pipeline.workspace import prepare
from tableloop.mlflow_http import has_alias, is_healthy, wait_until_healthy
from tableloop.settings import RegistrySettings

HISTORY = "retrains.jsonl"
FAILED = 1
BUSY = 3
STOP_SECONDS = 4  # from being told to stop to killing what has not ended; supervisord and Docker wait 10

_STAGE_STARTS = re.compile(r"^Running stage '(\w+)'")
_STAGE_FAILED = re.compile(r"^ERROR: failed to reproduce '(\w+)'")
_EXCEPTION = re.compile(r"^[\w.]+(Error|Exception|Interrupt|Exit)\b")
_LOGGED_ERROR = re.compile(r"\| ERROR\s*\| (.*)")


class BusyError(Exception):
    """Another retraining holds the lock, or what must not meet one."""


class StoppedError(Exception):
    """The process was told to stop."""


def retrain(settings: RegistrySettings) -> str | None:
    """Run the pipeline in the workspace, and return why it failed, or None; the caller holds the lock.

    Returns
    -------
    str or None
        "training failed in stage <name>: <reason>".
    """
    workspace = prepare(settings.state_dir)
    _take_labels(settings.state_dir / "predictions.db", workspace)
    progress = Progress()
    with _dvc(workspace, settings) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            progress.read(line)
    progress.stage_ends()
    if process.returncode == 0:
        _write_phases(settings.state_dir, progress.seconds)
        return None
    reason = progress.reason or f"dvc repro ended with exit code {process.returncode}"
    return f"training failed in stage {progress.stage or 'dvc'}: {reason}"


@dataclass(frozen=True)
class Retraining:
    """One retraining for the history: why it began, and when."""

    trigger: str
    reason: str
    started_at: datetime

    def ends(self, state_dir: Path, failure: str | None) -> None:
        """Add its line to the history: a failure, or what the gate said.

        The line names ``started_at``, ``ended_at``, ``trigger`` and ``cause`` (why it began), ``outcome``
        ("promoted", "rejected", "unchanged", "failed"), ``version`` (None after a failure) and ``reason`` (why this
        outcome).
        """
        line: dict[str, str | None] = {
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "trigger": self.trigger,
            "cause": self.reason,
        }
        if failure is None:
            report = json.loads((state_dir / "workspace/reports/registration.json").read_text())
            line |= {"outcome": report["gate"], "version": report["version"], "reason": report["reason"]}
        else:
            line |= {"outcome": "failed", "version": None, "reason": failure}
        # One write of a line to a file opened for appending: a reader sees all of it or nothing.
        with (state_dir / HISTORY).open("a") as file:
            file.write(f"{json.dumps(line)}\n")


@contextlib.contextmanager
def lock(state_dir: Path, holder: str = "a retraining") -> Iterator[int]:
    """Hold the one lock of all retrainings and yield its file descriptor; ``holder`` says for what.

    The kernel gives it back when its holders end, however they end. DVC inherits it: a training that goes on after
    its parent was killed is still a training.

    Raises
    ------
    BusyError
        Saying who holds it and since when.
    """
    path = state_dir / "run/retrain.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{path.read_text().strip() or 'a retraining, just begun,'} runs already") from None
        file.truncate(0)
        file.write(f"{holder} (process {os.getpid()} since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ})\n")
        file.flush()
        os.set_inheritable(file.fileno(), True)
        yield file.fileno()


@dataclass
class Progress:
    """What DVC's output tells: the stage that runs, the seconds of those before, and the last error."""

    stage: str = ""
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    _started: float = 0.0
    _last: str = ""

    def read(self, line: str) -> None:
        """Take in the next line."""
        text = line.strip()
        if starts := _STAGE_STARTS.match(text):
            self.stage_ends()
            self.stage, self.reason, self._started = starts[1], "", time.monotonic()
        elif failed := _STAGE_FAILED.match(text):
            self.stage = failed[1]
            if not self.reason:
                self.reason = self._last if _EXCEPTION.match(self._last) else text.partition(": failed to run: ")[2]
        elif logged := _LOGGED_ERROR.search(text):
            self.reason = logged[1].strip()
        elif text.startswith("ERROR: ") and not self.stage:
            self.reason = text.removeprefix("ERROR: ")
        self._last = text or self._last

    def stage_ends(self) -> None:
        """Note the seconds of the stage that ran until now, if one did."""
        if self.stage:
            self.seconds[self.stage] = time.monotonic() - self._started


@contextlib.contextmanager
def _dvc(workspace: Path, settings: RegistrySettings) -> Iterator[subprocess.Popen[str]]:
    """Run ``dvc repro`` in a process group of its own, and end all of it when we are told to stop."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "STATE_DIR": str(settings.state_dir),
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
        "MODEL_NAME": settings.model_name,
        "MODEL_ALIAS": settings.model_alias,
        "DVC_SITE_CACHE_DIR": str(workspace / ".dvc/site"),
        "DVC_NO_ANALYTICS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("PYTHONPATH", None)  # the stages import the workspace's code and no other
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=workspace,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,
        process_group=0,
    )
    try:
        yield process
        process.wait()
    except BaseException:
        _end_group(process)
        raise


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        # The stages are DVC's children: they may outlive it.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _take_labels(database: Path, workspace: Path) -> None:
    """Make a batch of the new labels, if the prediction log holds any."""
    if not database.exists():
        return
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'feedback'"
        if not connection.execute(query).fetchone()[0]:
            return
        if not connection.execute("SELECT EXISTS (SELECT 1 FROM feedback)").fetchone()[0]:
            return
    from tableloop.state.label_batches import FEEDBACK, take_batch  # noqa: PLC0415 - pandas, which a first start has no time for

    if batch := take_batch(database, workspace / FEEDBACK):
        _say(f"new labels: {FEEDBACK / batch.name}", sys.stdout)


def _is_registered(settings: RegistrySettings) -> bool:
    """Return whether a version serves already.

    Nobody waits for the server where nothing was ever trained: the first training can begin while it starts.
    """
    uri = settings.mlflow_tracking_uri
    trained_before = (settings.state_dir / "workspace/reports/metrics.json").exists()
    if trained_before and not wait_until_healthy(uri):
        raise OSError(f"the MLflow server does not answer at {uri}")
    if not trained_before and not is_healthy(uri):
        return False
    return has_alias(uri, settings.model_name, settings.model_alias)


def _write_phases(state_dir: Path, seconds: dict[str, float]) -> None:
    phases = state_dir / "run/phases"
    phases.mkdir(parents=True, exist_ok=True)
    for stage, value in seconds.items():
        (phases / stage).write_text(f"{value:.1f}\n")


def _stop(signum: int, frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise StoppedError(signal.Signals(signum).name)


def _say(text: str, to: IO[str]) -> None:
    to.write(f"{text}\n")
    to.flush()


def main() -> int:
    """Retrain once, and return the exit code."""
    parser = argparse.ArgumentParser(description="Train, register the best model, move the alias if it passes.")
    parser.add_argument("--unless-registered", action="store_true", help="do nothing when a version serves already")
    parser.add_argument("--trigger", help="who began it, for the history (default: start or user)")
    parser.add_argument("--reason", default="", help="why, for the history")
    parser.add_argument("--force", action="store_true", help="promote even what the gate rejects; needs --reason")
    arguments = parser.parse_args()
    if arguments.force:
        if not arguments.reason.strip():
            parser.error("--force needs --reason, which is noted with the version")
        os.environ[FORCED] = json.dumps({"by": _user(), "reason": arguments.reason})
    settings = RegistrySettings()
    trigger = arguments.trigger or ("start" if arguments.unless_registered else "user")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        if arguments.unless_registered and _is_registered(settings):
            _say(f"{settings.model_name}@{settings.model_alias} is registered: nothing to train", sys.stdout)
            return 0
        with lock(settings.state_dir):
            return _retrain_and_tell(settings, Retraining(trigger, arguments.reason, datetime.now(UTC)))
    except BusyError as error:
        _say(str(error), sys.stderr)
        return BUSY
    except StoppedError as error:
        _say(f"retraining stopped by {error}", sys.stderr)
        return 128 + signal.Signals[str(error)].value
    except OSError as error:
        _say(f"training failed before its first stage: {error}", sys.stderr)
        return FAILED


def _retrain_and_tell(settings: RegistrySettings, retraining: Retraining) -> int:
    """Retrain, write the history and the last line, and return the exit code; the caller holds the lock."""
    code = FAILED
    try:
        failure = retrain(settings)
    except StoppedError as error:
        failure, code = f"retraining stopped by {error}", 128 + signal.Signals[str(error)].value
    except (OSError, sqlite3.Error) as error:
        failure = f"training failed before its first stage: {error}"
    try:
        retraining.ends(settings.state_dir, failure)
    except OSError as error:
        failure = failure or f"{settings.state_dir / HISTORY} cannot be written: {error}"
    if failure:
        _say(failure, sys.stderr)
        return code
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


if __name__ == "__main__":
    sys.exit(main())
