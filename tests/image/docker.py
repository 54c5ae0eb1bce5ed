"""The Docker command line, and one container of the appliance."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

# Debian's client where there is one: other clients may lack BuildKit.
DOCKER = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker") or "docker"
HARDENED = (
    "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--tmpfs", "/tmp",
)  # fmt: skip


def docker(*arguments: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run one Docker command and return what it printed."""
    done = subprocess.run(
        [DOCKER, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=os.environ | {"DOCKER_BUILDKIT": "1"},
    )
    if check and done.returncode:
        raise AssertionError(
            f"docker {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done


def moment(text: str) -> datetime:
    """Return a time as Docker writes it, with nanoseconds."""
    return datetime.fromisoformat(re.sub(r"\.(\d{6})\d*", r".\1", text))


class Container:
    """A container that is started once, asked questions, and removed."""

    ready_after: float  # seconds

    def __init__(self, image: str, options: Sequence[str] = (), command: Sequence[str] = ()) -> None:
        self.name = f"tableloop-test-{uuid.uuid4().hex[:10]}"
        self.started = time.monotonic()
        docker("run", "--detach", "--name", self.name, *options, image, *command)

    @classmethod
    def named(cls, name: str) -> Container:
        """Return a container that somebody else starts about now."""
        container = cls.__new__(cls)
        container.name, container.started = name, time.monotonic()
        return container

    def exec(self, *command: str, check: bool = True, user: str = "") -> str:
        options = ["--user", user] if user else []
        return docker("exec", *options, self.name, *command, check=check).stdout.strip()

    def logs(self) -> str:
        done = docker("logs", self.name)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", self.name).stdout)
        return state

    def wait_ready(self, seconds: float) -> float:
        """Return the seconds from the start until ``run/ready`` appeared."""
        self.wait_for("[ -e /data/run/ready ]", self.started + seconds - time.monotonic())
        self.ready_after = time.monotonic() - self.started
        return self.ready_after

    def wait_for(self, condition: str, seconds: float) -> None:
        """Wait until a shell in the container finds the condition true."""
        # One command that waits, instead of many that ask: each costs a tenth of a second of a core.
        command = ("exec", self.name, "sh", "-c", f"until {condition}; do sleep 0.1; done")
        try:
            ended = docker(*command, check=False, timeout=max(1.0, seconds)).returncode
        except subprocess.TimeoutExpired:
            ended = 1
        assert not ended, f"never {condition} in {seconds:.0f} s:\n{self.state()}\n{self.logs()}"

    def wait_exit(self, seconds: float) -> int:
        """Return the exit code of a container that ends by itself."""
        try:
            return int(docker("wait", self.name, timeout=seconds).stdout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds} s:\n{self.logs()}") from None

    def wait_log(self, text: str, seconds: float, times: int = 1) -> None:
        """Wait until the given number of lines in the log contain the text."""
        command = [DOCKER, "logs", "--follow", self.name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            timer = threading.Timer(seconds, process.kill)
            timer.start()
            for line in process.stdout or ():
                times -= text in line
                if not times:
                    break
            timer.cancel()
            process.kill()
        assert not times, f"no {text!r} in {seconds} s:\n{self.logs()}"

    def health(self) -> tuple[int, str]:
        """Return the exit code and the words of the image's own health check, run now."""
        done = docker("exec", self.name, "python", "-m", "monitoring.health", check=False)
        return done.returncode, done.stdout.strip()

    def pids(self, program: str) -> list[str]:
        """Return the process ids, inside the container, of a supervised program."""
        return self._pids((PROGRAMS | WITHOUT_ADDRESS)[program])

    def _pids(self, words: str) -> list[str]:
        return sorted((pid for pid, (_, _, command) in self.processes().items() if words in command), key=int)

    def processes(self) -> dict[str, tuple[str, str, str]]:
        """Return pid -> (parent, state, command) of every process in the container; it holds no `ps`."""
        script = (
            "import pathlib\n"
            "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
            "    try:\n"
            "        rest = (p / 'stat').read_text().rpartition(') ')[2].split()\n"
            "        command = (p / 'cmdline').read_text().replace(chr(0), ' ').strip()\n"
            "    except OSError:\n"
            "        continue\n"
            "    print(p.name, rest[1], rest[0], command.replace(chr(10), ' '), sep='\\t')\n"
        )
        # A zombie has no command line.
        lines = ([*line.split("\t"), ""][:4] for line in self.exec("python", "-c", script).splitlines())
        return {pid: (parent, state, command) for pid, parent, state, command in lines if "pathlib" not in command}

    def kill_program(self, program: str, signal: str = "KILL") -> None:
        self.kill((PROGRAMS | WITHOUT_ADDRESS)[program], signal)

    def kill(self, words: str, signal: str = "KILL") -> None:
        """Send a signal to every process with these words in its command."""
        pids = self._pids(words)
        assert pids, f"no process of {words}:\n{self.processes()}"
        self.exec("python", "-c", f"import os, signal; [os.kill(p, signal.SIG{signal}) for p in [{', '.join(pids)}]]")

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.name, check=False)


PROGRAMS = {
    "api": "app.main",
    "mlflow": "appliance.mlflow_server",
    "prometheus": "monitoring.prometheus_front",
}
WITHOUT_ADDRESS = {
    "drift-monitor": "monitoring.drift_monitor",
    "watchdog": "monitoring.watchdog",
}
