"""A real Dask scheduler with workers, processes of this machine, for the tests; and tasks to give them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.integration.conftest import ROOT


class DaskCluster:
    """A scheduler and its workers, started by `entrypoint.sh`; they write below ``directory`` alone."""

    def __init__(self, directory: Path, port: int) -> None:
        self.address = f"tcp://127.0.0.1:{port}"
        self._port = port
        self._directory = directory
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    @property
    def log(self) -> str:
        """What all of them have written."""
        return (self._directory / "log").read_text()

    def start_scheduler(self) -> None:
        """Start it; clients and workers wait until it answers."""
        self._scheduler = self._start(ROOT, "dask-scheduler", "--port", str(self._port))

    def start_worker(self, root: Path = ROOT, *options: str) -> None:
        """Start one worker, with the code in ``root``."""
        self._workers.append(self._start(root, "dask-worker", *options))

    def kill_scheduler(self) -> None:
        """Kill it, and wait for the workers, which end with their scheduler."""
        assert self._scheduler is not None
        self._scheduler.kill()
        self._scheduler.wait()
        for worker in self._workers:
            worker.wait(60)
        self._workers.clear()

    def worker_processes(self) -> list[psutil.Process]:
        """Return the processes that compute: not the nannies, which start them anew."""
        found = []
        for worker in self._workers:
            if worker.poll() is None:
                found += [child for child in psutil.Process(worker.pid).children() if "spawn_main" in _command(child)]
        return found

    def stop(self) -> None:
        """End all of them."""
        for process in filter(None, [*self._workers, self._scheduler]):
            process.terminate()
        for process in filter(None, [*self._workers, self._scheduler]):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._workers.clear()

    def _start(self, root: Path, *command: str) -> subprocess.Popen[bytes]:
        own = {"STATE_DIR": str(self._directory / "state"), "DASK_SCHEDULER": self.address}
        own |= {"TMPDIR": str(self._directory), "BIND_ADDRESS": "127.0.0.1"}
        inherited = {name: value for name, value in os.environ.items() if name != "APPLIANCE_ROOT"}
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(
                [str(root / "entrypoint.sh"), *command], cwd=root, env=inherited | own, stdout=log, stderr=log
            )


def hold(directory: Path, name: str) -> int:
    """Say in a file of this name which process runs this task, wait for the file ``go``, and return the process."""
    (directory / name).write_text(str(os.getpid()))
    while not (directory / "go").exists():
        time.sleep(0.02)
    return os.getpid()


def die() -> None:
    """Kill the process that runs this task, as the kernel does when memory is short."""
    os.kill(os.getpid(), 9)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
