"""The commands of the Makefile: up, down, status, logs, retrain, clean.

``./entrypoint.sh python -m appliance.control COMMAND``: the entrypoint gives commands the programs' environment.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from appliance.own_registry import own_registry
from appliance.prepare import ROOT, RefusedError
from appliance.status import is_running, show
from tableloop.mlflow_http import is_healthy
from tableloop.settings import Settings, load_settings
from tableloop.state.layout import Layout

LONGEST_START = 1800.0  # seconds; a training on a small machine may take minutes
LONGEST_STOP = 10.0
RELAYED = ("appliance", "bootstrap")


def up(settings: Settings) -> int:
    """Start the appliance in the background and wait until it is ready; 0 when it is, or was already."""
    layout = Layout(settings.state_dir)
    console = layout.console
    if is_running(settings.state_dir):
        say(read(layout.ready) or "runs already and is not ready: see make status, make logs")
        return 0
    try:
        console.parent.mkdir(parents=True, exist_ok=True)
        offset = console.stat().st_size if console.exists() else 0
        output = console.open("ab")
    except OSError:
        # The entrypoint says in one line what is wrong with the directory.
        return subprocess.run([ROOT / "entrypoint.sh"], check=False).returncode or 1
    with output:
        process = subprocess.Popen(
            [ROOT / "entrypoint.sh"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"CONSOLE": str(console)},
        )
    return _follow_start(process, layout, offset)


def down(settings: Settings) -> int:
    """Stop the appliance and wait for its end; 0 also when it did not run."""
    if not is_running(settings.state_dir):
        say("does not run")
        return 0
    layout = Layout(settings.state_dir)
    # The second one is there when somebody killed the first.
    for file in (layout.pid, layout.supervisord_pid):
        try:
            os.kill(int(read(file)), signal.SIGTERM)
            break
        except (ValueError, ProcessLookupError):
            continue
    deadline = time.monotonic() + LONGEST_STOP
    while is_running(settings.state_dir):
        if time.monotonic() > deadline:
            say(f"is still stopping after {LONGEST_STOP:.0f} s: see make logs")
            return 1
        time.sleep(0.05)
    say("stopped")
    return 0


def logs(settings: Settings) -> int:
    """Follow the console until Ctrl-C."""
    console = Layout(settings.state_dir).console
    if not console.exists():
        say("has not written anything yet: make up starts it")
        return 1
    return subprocess.run(["tail", "-n", "100", "-F", console], check=False).returncode


def retrain(settings: Settings) -> int:
    """Run one retraining against the running appliance, else with a registry of its own; return its exit code.

    Arguments of the command line are those of `pipeline.retrain`.
    """
    command = [sys.executable, "-m", "pipeline.retrain", *sys.argv[2:]]
    # In Compose the appliance's own registry is in a container of its own, which MLFLOW_HOST names.
    foreign = is_running(settings.state_dir) or settings.has_foreign_registry or settings.mlflow_host != ""
    if foreign and not is_healthy(settings.mlflow_tracking_uri):
        say(f"cannot retrain: {settings.registry} does not answer; see make status, or docker exec NAME make retrain")
        return 1
    try:
        with nullcontext() if foreign else own_registry(settings):
            return subprocess.run(command, check=False).returncode
    except RefusedError as refusal:
        say(f"cannot retrain: {refusal}")
        return 1


def clean(settings: Settings) -> int:
    """Remove the state after the question was answered with yes, or without one when ``FORCE=1``."""
    if is_running(settings.state_dir):
        say("runs: make down first")
        return 1
    layout = Layout(settings.state_dir)
    if settings.state_dir.exists():
        if not layout.is_state():
            say(f"nothing removed: {settings.state_dir} is no state of the appliance, it has no {layout.marker.name}")
            return 1
        question = f"Remove {settings.state_dir} with all models and logs? [y/N] "
        if sys.argv[2:] != ["--force"] and not _confirmed(question):
            say("nothing removed")
            return 1
        for path in layout.own():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if left := sorted(path.name for path in settings.state_dir.iterdir()):
            say(f"removed all but what is not the appliance's in {settings.state_dir}: {', '.join(left)[:200]}")
        else:
            settings.state_dir.rmdir()
            say(f"removed {settings.state_dir}")
    return 0


def read(file: Path) -> str:
    """Return a file's text without the line end, empty when there is none."""
    return file.read_text().strip() if file.exists() else ""


def say(text: str) -> None:
    """Write one line about the appliance."""
    sys.stdout.write(f"appliance     | {text}\n")
    sys.stdout.flush()


def _follow_start(process: subprocess.Popen[bytes], layout: Layout, offset: int) -> int:
    deadline = time.monotonic() + LONGEST_START
    ready, last = False, ""
    try:
        while True:
            ended = process.poll() is not None
            ready = not ended and process.pid == int(read(layout.pid) or 0) and layout.was_ready.exists()
            offset, last = _relay(layout.console, offset, last)
            if ready:
                return 0
            if ended:
                # The entrypoint's own last line says why, be it of prepare or of run/failed.
                sys.stderr.write(f"{last}\n")
                return process.returncode or 1
            if time.monotonic() > deadline:
                say(f"is not ready after {LONGEST_START:.0f} s and goes on: see make status, make logs, make down")
                return 1
            time.sleep(0.1)
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        say("goes on starting in the background: make status, make logs, make down")
        return 130


def _relay(console: Path, offset: int, last: str) -> tuple[int, str]:
    """Copy new lines that a user wants to see to stdout; return the new offset and the console's last line."""
    with console.open("rb") as file:
        offset = min(offset, console.stat().st_size)  # the watchdog empties a long one
        file.seek(offset)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        last = line
        if line.startswith(RELAYED):
            sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    return offset + len(whole), last


def _confirmed(question: str) -> bool:
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


COMMANDS: dict[str, Callable[[Settings], int]] = {
    "up": up, "down": down, "status": show, "logs": logs, "retrain": retrain, "clean": clean,
}  # fmt: skip


def main() -> None:
    """Run the command that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.stderr.write(f"usage: ./entrypoint.sh python -m appliance.control {' | '.join(COMMANDS)}\n")
        sys.exit(2)
    os.chdir(ROOT)
    try:
        sys.exit(COMMANDS[sys.argv[1]](load_settings()))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
