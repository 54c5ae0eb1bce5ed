"""The supervisord event listener: it writes the console, measures health, and ends the appliance when it cannot run.

supervisord sends it what every program writes and every change of a program's state. A thread asks the services
every few seconds whether they answer. supervisord itself exits 0 whatever happened, and restarts for ever a program
that ends after its first second. Here a program that supervisord gives up (FATAL), a program that ends too often and
a failed training leave one line in ``run/failed`` and stop everything; ``entrypoint.sh`` turns that line into a
non-zero exit. A helper, without which the service predicts all the same, is stopped alone and said to be down.

It imports the standard library only, so that it stays small. stdout belongs to the event protocol.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TextIO

from monitoring.health import Check, Services, check_all, check_whole
from monitoring.process_usage import usage
from tableloop.log_text import LONGEST_LINE, printable
from tableloop.state.layout import Layout

# A program that ends so often in so many seconds will not recover. A crash that comes back 5 s after every start is
# found within a minute; somebody who kills a program by hand a few times is not mistaken for one.
ENDS, ENDS_SECONDS = 9, 120.0
INTERVAL = 2.0  # seconds between two measurements
STARTING_INTERVAL = 0.3  # until ready
FAILURES = 2  # failed measurements in a row until a service counts as down: one may be a moment of load
HELPERS = frozenset(("drift-monitor", "prometheus", "alertmanager", "grafana"))
HELPER_SECONDS = 20.0  # that the ready line waits for helpers when all else is ready
NAME_WIDTH = 13
_PATH = re.compile(r"(https?://[^/\s\"]+)/[^\s\":]+")
LONGEST_CONSOLE = 10_000_000  # bytes


class Console:
    """Writes whole lines, each behind the name of the program it comes from."""

    def __init__(self, stream: TextIO, file: Path | None = None) -> None:
        """Write to ``stream``, or to ``file``, opened each time because somebody may have removed or replaced it."""
        self._stream = stream
        self._file = file
        self._lock = threading.Lock()
        self._unfinished: dict[str, str] = {}
        self.last_line: dict[str, str] = {}

    def write(self, program: str, text: str) -> None:
        """Add a piece of a program's output; an unfinished line waits for its end."""
        with self._lock:
            *lines, rest = (self._unfinished.pop(program, "") + text).split("\n")
            if len(rest) > LONGEST_LINE:
                lines, rest = [*lines, rest], ""
            if rest:
                self._unfinished[program] = rest
            self._write_lines(program, lines)

    def finish(self, program: str) -> None:
        """Write what a program that ended has left without a line end."""
        with self._lock:
            rest = self._unfinished.pop(program, "")
            self._write_lines(program, [rest] if rest else [])

    def _write_lines(self, program: str, lines: list[str]) -> None:
        lines = [printable(line.rstrip("\r")) for line in lines]
        if program == "alertmanager":  # an older one writes whole addresses, which are secrets
            lines = [_PATH.sub(r"\1/…", line) for line in lines]
        for line in lines:
            if line.strip():
                self.last_line[program] = line.strip()
        text = "".join(f"{program:{NAME_WIDTH}} | {line}\n" for line in lines)
        if self._file is None:
            self._stream.write(text)
            self._stream.flush()
            return
        with contextlib.suppress(OSError), self._file.open("a") as file:  # its directory may be gone
            file.write(text)


class Watchdog:
    """What is known about the programs, and what follows from it."""

    def __init__(
        self,
        services: Services,
        layout: Layout,
        console: Console,
        stop: Callable[[], None],
        stop_program: Callable[[str], None],
    ) -> None:
        self.services = services
        self.layout = layout
        self.console = console
        self._stop = stop
        self._stop_program = stop_program
        self._state = os.open(layout.run_lock, os.O_RDONLY)  # kept open, so that no later file can be taken for it
        self._ends: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=ENDS))
        self._groups: dict[str, int] = json.loads(_read(layout.groups) or "{}")
        self._given_up: dict[str, str] = json.loads(_read(layout.given_up) or "{}")
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    # -- events -------------------------------------------------------------------------------------------------

    def handle(self, event: str, fields: Mapping[str, str], data: str) -> None:
        """Act on one event of supervisord."""
        program = fields.get("processname", "")
        if event.startswith("PROCESS_LOG"):
            self.console.write(program, data)
        elif event == "SUPERVISOR_STATE_CHANGE_STOPPING":
            self._stopping.set()
            self.layout.ready.unlink(missing_ok=True)
        elif program == "watchdog":
            pass
        elif event == "PROCESS_STATE_RUNNING":
            self._note_groups(self._groups | {program: int(fields["pid"])})
            if program in self._given_up:  # somebody has started it again
                self._note_given_up({name: why for name, why in self._given_up.items() if name != program})
        elif event == "PROCESS_STATE_EXITED":
            self._note_groups({name: group for name, group in self._groups.items() if name != program})
            self.console.finish(program)
            self._exited(program, expected=fields["expected"] == "1")
        elif event == "PROCESS_STATE_BACKOFF":
            self.console.finish(program)
            self.say(f"{program} ended within a second of its start and is started again")
        elif event == "PROCESS_STATE_FATAL":
            self.console.finish(program)
            self._give_up(program, f"does not start: {self._last_words(program)}")

    def orphaned(self) -> None:
        """Stop every program: supervisord is gone, and nobody else would."""
        if not self._stopping.is_set():
            _write(self.layout.failed, "supervisord was killed\n")
        self.layout.ready.unlink(missing_ok=True)
        for group in self._groups.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)

    def fail(self, reason: str) -> None:
        """End the appliance with one line; only the first reason counts."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._stopping.set()
        self.layout.ready.unlink(missing_ok=True)
        _write(self.layout.failed, reason + "\n")
        self.say(f"stopping everything: {reason}")
        self._stop()

    def abandon(self) -> None:
        """End the appliance whose state was removed or replaced: no command would find it to stop it."""
        with self._lock:
            self._stopping.set()
        self.say(f"stopping everything: its state in {self.layout.root} was removed")
        self._stop()

    def say(self, text: str) -> None:
        """Write a line of the appliance itself."""
        self.console.write("appliance", text + "\n")

    def _exited(self, program: str, *, expected: bool) -> None:
        if program == "bootstrap":
            if expected:
                _write(self.layout.registered, "")
            else:
                self.fail(self._last_words(program))
            return
        ends, now = self._ends[program], time.monotonic()
        ends.append(now)
        first = ends[0]
        if len(ends) == ENDS and now - first <= ENDS_SECONDS:
            ends.clear()
            if program in HELPERS:
                self._stop_program(program)
            self._give_up(program, f"ended {ENDS} times in {now - first:.0f} s: {self._last_words(program)}")
        elif not self._stopping.is_set():
            self.say(f"{program} ended and is started again")

    def _give_up(self, program: str, reason: str) -> None:
        """End the appliance because of a program, or go on without a helper."""
        if program not in HELPERS:
            self.fail(f"{program} {reason}")
        elif not self._stopping.is_set():
            self.layout.ready.unlink(missing_ok=True)
            self._note_given_up(self._given_up | {program: reason})
            self.say(f"{program} {reason}; the service goes on without it (make down, make up start it again)")

    def _note_given_up(self, given_up: dict[str, str]) -> None:
        self._given_up = given_up
        _write(self.layout.given_up, json.dumps(given_up) + "\n")

    def _note_groups(self, groups: dict[str, int]) -> None:
        """Keep the process groups for the watchdog that follows when this one is killed."""
        self._groups = groups
        _write(self.layout.groups, json.dumps(self._groups) + "\n")

    def _last_words(self, program: str) -> str:
        return self.console.last_line.get(program, "it wrote nothing")

    # -- health -------------------------------------------------------------------------------------------------

    def watch(self, started: float) -> None:
        """Measure until the appliance stops; `started` is when its first process did (unix seconds)."""
        while not self._stopping.is_set():
            try:
                self._measure(started)
            except OSError as error:  # a full disk, most likely
                self.say(f"the health of the services cannot be noted: {error}")
                self._stopping.wait(INTERVAL)

    def _measure(self, started: float) -> None:
        prepared = time.time()
        first_up: dict[str, float] = {}
        failures: Counter[str] = Counter()
        down_since: dict[str, float] = {}
        ready_line = _read(self.layout.was_ready)  # by a watchdog before this one
        enough_since: float | None = None  # all but helpers answer
        while not self._stopping.is_set():
            if _identity(self.layout.run_lock) != _identity(self._state):
                self.abandon()
                return
            checks = check_all(self.services)
            now = time.time()
            for name, check in checks.items():
                failures[name] = 0 if check.up else failures[name] + 1
                if check.up:
                    first_up.setdefault(name, now)
                    if name in down_since:
                        self.say(f"{name} is back after {now - down_since.pop(name):.1f} s")
                elif (ready_line or name in first_up) and name not in down_since and failures[name] >= FAILURES:
                    down_since[name] = now
                    self._degraded(name, check)
            self._report(checks, first_up, down_since)
            self._bound_console()
            ill = {name for name, check in checks.items() if not check.up}
            enough_since = None if ill - HELPERS else enough_since or now
            waited = enough_since is not None and now - enough_since > HELPER_SECONDS
            if not ready_line and (not ill or (ill <= HELPERS and (waited or ill <= self._given_up.keys()))):
                ready_line = self._first_ready(started, prepared, first_up, ill)
            with self._lock:
                if ready_line and not down_since and not self._given_up and not self._stopping.is_set():
                    _write(self.layout.ready, ready_line + "\n")
            self._stopping.wait(INTERVAL if ready_line else STARTING_INTERVAL)

    def _bound_console(self) -> None:
        """Keep the console's file from growing for ever: it is written at its end, so it can be emptied meanwhile."""
        console = self.layout.console
        if console.exists() and console.stat().st_size > LONGEST_CONSOLE:
            with contextlib.suppress(OSError):  # a full disk: less of the past is better than none to come
                shutil.copyfile(console, self.layout.former_console)
            os.truncate(console, 0)

    def _degraded(self, name: str, check: Check) -> None:
        self.layout.ready.unlink(missing_ok=True)
        if not self._stopping.is_set():
            self.say(f"{name} is down: {check.detail}")

    def _first_ready(
        self, started: float, prepared: float, first_up: Mapping[str, float], ill: Collection[str]
    ) -> str:
        """Return the ready line, once the whole has answered a real question; till then an empty string.

        ``ill`` are helpers that it does not wait for.
        """
        registered = self.layout.registered
        if not (registered.exists() or self.services.test_mode):
            return ""
        if not check_whole(self.services, json.loads(_read(self.layout.example)), without=ill).up:
            return ""
        phases = read_phases(self.layout.phases)
        seconds = {"prepare": prepared - started} | phases
        # The service has waited for the model; what it took itself is counted from there.
        awaited = registered.stat().st_mtime if phases else prepared
        seconds |= {name: max(0.0, at - (awaited if name == "api" else prepared)) for name, at in first_up.items()}
        taken = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        missing = self.services.missing()
        titles = {"api": "API", "mlflow": "MLflow", "prometheus": "Prometheus", "grafana": "Grafana"}
        titles |= {"alertmanager": "Alertmanager"}
        addresses = " ".join(
            f"{titles[name]} {'missing' if name in missing else 'down' if name in ill else url or 'up'}"
            for name, url in self.services.addresses().items()
        )
        line = f"ready in {time.time() - started:.1f} s ({taken}): {addresses}"
        password = f"the login that changes something: admin, with the password in {self.layout.admin_password}"
        _write(self.layout.was_ready, line + "\n")
        self.say(line)
        self.say(password)
        for name, remedy in missing.items():
            self.say(f"without {titles[name]}: {remedy}")
        return line

    def _report(
        self, checks: Mapping[str, Check], first_up: Mapping[str, float], down_since: Mapping[str, float]
    ) -> None:
        missing = self.services.missing()
        services = {}
        for name, address in self.services.addresses().items():
            state = "down" if name in down_since else "up" if name in first_up else "starting"
            state, detail = ("missing", missing[name]) if name in missing else (state, checks[name].detail)
            services[name] = {"state": state, "detail": detail, "address": address}
        for name, reason in self._given_up.items():
            services.setdefault(name, {"address": ""}).update(state="down", detail=reason)
        report = {
            "checked_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "services": services,
            "processes": usage(self._groups | {"watchdog": os.getpgrp()}),
        }
        _write(self.layout.health, json.dumps(report) + "\n")


def read_phases(directory: Path) -> dict[str, float]:
    """Return the seconds that the pipeline noted for its phases, in the order in which they ended."""
    files = sorted(directory.glob("*"), key=lambda file: file.stat().st_mtime)
    return {file.name: float(file.read_text()) for file in files}


def _identity(file: Path | int) -> tuple[int, int] | None:
    """Return what tells a file, a path or a descriptor, from every other; None when there is none."""
    try:
        status = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write(file: Path, text: str) -> None:
    """Replace a file in one step: others may be reading it."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.replace(file)


def _read(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


def read_event(stream: TextIO) -> tuple[str, dict[str, str], str] | None:
    """Return the next event's name, fields and data, or None at the end of the stream.

    A stream of text, not of bytes: supervisord counts the length of an event in characters.
    """
    header = _fields(stream.readline())
    if "len" not in header:
        return None
    payload = stream.read(int(header["len"]))
    if header["eventname"].startswith("PROCESS_LOG"):
        first, _, data = payload.partition("\n")
        return header["eventname"], _fields(first), data
    return header["eventname"], _fields(payload), ""


def _stop_program(program: str) -> None:
    """Have supervisord stop a program, without waiting: it is this process that it may wait for."""
    command = [sys.executable, "-m", "supervisor.supervisorctl", "--configuration", "supervisord.conf"]
    # stdout belongs to the event protocol.
    subprocess.Popen([*command, "stop", f"appliance:{program}"], stdout=subprocess.DEVNULL)


def _fields(line: str) -> dict[str, str]:
    return dict(word.split(":", 1) for word in line.split() if ":" in word)


def main() -> None:
    """Listen to supervisord until it goes away."""
    supervisord = os.getppid()
    services = Services.from_environment(os.environ)
    layout = Layout(Path(os.environ["STATE_DIR"]))
    if not layout.run_lock.exists():  # removed while there was no watchdog
        os.kill(supervisord, signal.SIGTERM)
        return
    console = Console(sys.stderr, layout.console if os.environ.get("CONSOLE") else None)
    watchdog = Watchdog(services, layout, console, lambda: os.kill(supervisord, signal.SIGTERM), _stop_program)
    threading.Thread(target=watchdog.watch, args=(float(os.environ["STARTED_AT"]),), daemon=True).start()
    events = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", newline="\n")
    while True:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        event = read_event(events)
        if event is None:
            watchdog.orphaned()
            return
        watchdog.handle(*event)
        sys.stdout.write("RESULT 2\nOK")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
