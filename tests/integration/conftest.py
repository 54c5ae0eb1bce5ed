"""A real appliance: free ports, its state in a directory under /tmp, started with the commands of the user."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from monitoring.health import Services
from tableloop.settings import as_environment, load_settings

ROOT = Path(__file__).parents[2]


def copy_checkout(target: Path) -> None:
    """Copy the checkout without installed packages and without state."""
    left_out = {".venv", ".runtime", ".git", "state"}

    def ignored(directory: str, names: list[str]) -> set[str]:
        at_the_top = left_out.intersection(names) if Path(directory) == ROOT else set()
        return at_the_top | {name for name in names if name == "__pycache__" or name.endswith("_cache")}

    shutil.copytree(ROOT, target, ignore=ignored)


def link_checkout(target: Path, **programs: str) -> Path:
    """Make a copy of the checkout with scripts in place of some programs in its `.runtime`."""
    copy_checkout(target)
    (target / ".venv").symlink_to(ROOT / ".venv")
    (target / ".runtime").mkdir()
    for entry in (ROOT / ".runtime").iterdir():
        if entry.name not in programs:
            (target / ".runtime" / entry.name).symlink_to(entry)
    for name, script in programs.items():
        binary = target / ".runtime" / name / ("bin" if name == "grafana" else "") / name
        binary.parent.mkdir(parents=True)
        binary.write_text(f"#!/bin/sh\n{script}\n")
        binary.chmod(0o755)
    return target


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Return the seconds until the condition held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.1)
    return time.monotonic() - started


@dataclass
class Appliance:
    """One state directory with its ports, and what a user can do with it."""

    state: Path
    ports: dict[str, int]
    root: Path = ROOT
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        settings = {"STATE_DIR": str(self.state)} | {name: str(port) for name, port in self.ports.items()}
        # What `make test` tells the makes below it has no place in what a user sees.
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        return own | settings | self.extra

    @property
    def services(self) -> Services:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return Services.from_environment(as_environment(load_settings()))

    def make(self, target: str, seconds: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--no-print-directory", target],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def start(self) -> str:
        """Start it and return what ``make up`` printed."""
        result = self.make("up", 400)
        assert result.returncode == 0, result.stdout + result.stderr + self.console()
        return result.stdout

    def entrypoint(self) -> subprocess.Popen[str]:
        """Start it in the foreground, as a container does."""
        return subprocess.Popen(
            [self.root / "entrypoint.sh"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def is_ready(self) -> bool:
        return (self.state / "run" / "ready").exists()

    def console(self) -> str:
        file = self.state / "logs" / "appliance.log"
        return file.read_text() if file.exists() else ""

    def processes(self) -> list[psutil.Process]:
        """Return every process that was started with this state, found by its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("STATE_DIR") == str(self.state):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def program(self, *words: str) -> psutil.Process | None:
        """Return the oldest process whose command has all the words."""
        for process in sorted(self.processes(), key=lambda process: process.create_time()):
            try:
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in command for word in words):
                return process
        return None
