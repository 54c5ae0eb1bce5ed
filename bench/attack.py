"""Whether an attacker can take the service down: ``python -m bench.attack``, a minute and a half.

One client sends everything of `bench.attacks` at once for a minute, while four honest clients with
other addresses ask for single predictions. It ends with exit code 1 when one of these is missed: the slowest percent
of the honest requests within a second, none of them refused, the memory of the service, and that all is well ten
seconds after. The service is started with the model that serves in STATE_DIR, without one with the dummy model of
TEST_MODE; ``--port`` attacks one that runs on this machine, and looks at the other services of its appliance, too.
Linux only: elsewhere one machine has no other loopback addresses.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil  # type: ignore[import-untyped]

from bench.attacks import ATTACKS
from tableloop.credentials import write_secret
from tableloop.settings import load_settings
from tableloop.state.layout import Layout
from tableloop.state.local_copy import local_copy
from tableloop.table import load_table

ROOT = Path(__file__).resolve().parent.parent
HONEST: Final = tuple(f"127.0.0.{number}" for number in (3, 4, 5, 6))
PAUSE_SECONDS: Final = 0.05  # between two requests of an honest client
PATIENCE_SECONDS: Final = 30.0
MOST_SECONDS: Final = 1.0  # the slowest percent
MOST_BYTES: Final = 600 * 1024**2
REST_SECONDS: Final = 10.0


@dataclass
class Seen:
    """What the honest clients and a look at the process have seen."""

    seconds: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    most_bytes: int = 0


def main() -> None:
    """Attack, print what became of it, and end with 1 when the service did not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.attack")
    parser.add_argument("--seconds", type=float, default=60, help="of the attack (60)")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=[], metavar="NAME", help="of an attack")
    parser.add_argument("--port", type=int, help="of a service that runs on this machine; else one is started")
    options = parser.parse_args()
    if options.port:
        failures = attack(options.port, _listener(options.port), options.seconds, options.only)
    else:
        with tempfile.TemporaryDirectory(prefix="attack-") as directory, _started(Path(directory)) as (port, process):
            failures = attack(port, process, options.seconds, options.only)
    for failure in failures:
        sys.stdout.write(f"FAILED: {failure}\n")
    sys.exit(bool(failures))


def attack(port: int, process: psutil.Process, seconds: float, only: Sequence[str]) -> list[str]:
    """Attack a service for some seconds, with all attacks or only some; print what was seen, return what missed."""
    seen = Seen()
    stop = threading.Event()
    threads = [threading.Thread(target=_ask_honestly, args=(port, address, seen, stop)) for address in HONEST]
    threads.append(threading.Thread(target=_watch_memory, args=(process, seen, stop)))
    for thread in threads:
        thread.start()
    command = [sys.executable, "-m", "bench.attacks", str(port), str(seconds), *only]
    attacked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    stop.set()
    for thread in threads:
        thread.join()
    if attacked.returncode:
        sys.exit(f"the attacker failed:\n{attacked.stderr[-2000:]}")
    for name, answers in json.loads(attacked.stdout).items():
        became = ", ".join(f"{count:,} x {status}" for status, count in answers.items())
        sys.stdout.write(f"{name:19} {became or 'nothing was answered'}\n")
    p50, p99 = np.quantile(seen.seconds, (0.5, 0.99)) if seen.seconds else (np.inf, np.inf)
    sys.stdout.write(
        f"\nhonest requests     {len(seen.seconds):,}: p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, slowest "
        f"{max(seen.seconds, default=np.inf) * 1e3:.0f} ms; refused: {len(seen.refused):,}\n"
        f"largest memory      {seen.most_bytes / 1024**2:.0f} MiB, with the processes that it starts\n"
    )
    failures = []
    if p99 >= MOST_SECONDS:
        failures.append(f"the slowest percent of honest requests took {p99:.1f} s")
    if seen.refused:
        failures.append(f"{len(seen.refused):,} honest requests were refused, the first one by: {seen.refused[0]}")
    if seen.most_bytes >= MOST_BYTES:
        failures.append(f"the service took {seen.most_bytes / 1024**2:.0f} MiB of memory")
    time.sleep(REST_SECONDS)
    sick = _sickness(port, process)
    sys.stdout.write(f"{REST_SECONDS:.0f} s after          {sick or 'all is well'}\n")
    return [*failures, *([sick] if sick else [])]


def _ask_honestly(port: int, address: str, seen: Seen, stop: threading.Event) -> None:
    """Ask for predictions on a connection that is kept, as clients do, and note how long each takes."""
    body = json.dumps(load_table().example)
    connection = _connection(port, address)
    while not stop.wait(PAUSE_SECONDS):
        began = time.perf_counter()
        try:
            connection.request("POST", "/predict", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            seen.refused.append(repr(error))
            connection.close()
            continue
        if answer.status == http.client.OK:
            seen.seconds.append(time.perf_counter() - began)
        else:
            seen.refused.append(f"{answer.status} {text[:200]!r}")
    connection.close()


def _connection(port: int, address: str = "127.0.0.1") -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, PATIENCE_SECONDS, source_address=(address, 0))


def _watch_memory(process: psutil.Process, seen: Seen, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        with suppress(psutil.NoSuchProcess):
            seen.most_bytes = max(seen.most_bytes, _memory(process))


def _memory(process: psutil.Process) -> int:
    """Return the bytes of a process and of those that it has started; pages that they share count once."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            total += member.memory_full_info().pss
    return total


def _sickness(port: int, process: psutil.Process) -> str:
    """Return what is wrong with the service and, in an appliance, with the services beside it; empty for nothing."""
    if not process.is_running():
        return "the service has ended"
    for path, body in (("/ready", None), ("/health", None), ("/predict", json.dumps(load_table().example))):
        connection = _connection(port)
        began = time.perf_counter()
        try:
            connection.request("POST" if body else "GET", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            said: dict[str, Any] = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"{path} does not answer: {error!r}"
        finally:
            connection.close()
        if answer.status != http.client.OK or time.perf_counter() - began > MOST_SECONDS:
            return f"{path} answers {answer.status} after {time.perf_counter() - began:.1f} s: {said}"
        down = [name for name, service in said.get("services", {}).items() if service["state"] == "down"]
        if down:
            return f"{', '.join(down)} is down"
    return ""


def _listener(port: int) -> psutil.Process:
    """Return the process that listens on a port."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    sys.exit(f"no process that you may look at listens on port {port}")


@contextmanager
def _started(scratch: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Start a service on a free port, with a copy of the model that serves in STATE_DIR, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    former, layout = Layout(load_settings().state_dir), Layout(scratch / "state")
    write_secret(layout.admin_password, "the administrator's")
    variables = {"TEST_MODE": "1"}
    if local_copy(former) and former.signing_key.exists():
        shutil.copytree(former.champion, layout.champion)
        shutil.copy(former.signing_key, layout.signing_key)
        variables = {"TEST_MODE": "0", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # from the local copy
    variables |= {"STATE_DIR": str(layout.root), "API_PORT": str(port), "PYTHONPATH": str(ROOT)}
    log = scratch / "server.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "app.main"],
            cwd=scratch,
            env=os.environ | variables,
            stdout=output,
            stderr=output,
        )
    process = psutil.Process(started.pid)
    try:
        deadline = time.monotonic() + 60
        while sick := _sickness(port, process):
            if started.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the service does not start: {sick}\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        model = "a dummy model" if variables["TEST_MODE"] == "1" else f"the model of {former.root}"
        sys.stdout.write(f"attacked: a service with {model}\n\n")
        sys.stdout.flush()
        yield port, process
    finally:
        started.kill()
        started.wait()


if __name__ == "__main__":
    main()
