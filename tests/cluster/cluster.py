"""A whole cluster on loopback: the programs of `entrypoint.sh`, each with a disk of its own, beside real servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import psutil  # type: ignore[import-untyped]
import yaml

from tableloop.credentials import basic
from tableloop.signing import SigningKey
from tests import hires
from tests.postgres import Postgres
from tests.s3 import S3Server
from tests.waiting import wait_for

ROOT: Final = Path(__file__).parents[2]
PASSWORD: Final = "of the whole cluster's administrator"
COPIES: Final = ("127.0.0.2", "127.0.0.3", "127.0.0.4")  # addresses of the copies of the service
WORKERS: Final = 2
KEPT: Final = {"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "XDG_CACHE_HOME"}
# What makes a training take seconds, and a drift be seen after some hundred predictions.
PARAMS: Final[dict[str, dict[str, Any]]] = {
    "preprocess": {
        **{"test_fraction": 0.2, "validation_fraction": 0.2, "gate_fraction": 0.3, "gate_rows": 20},
        **{"gate_share": 0.5, "learnt_share": 0.25},
    },
    "train": {
        **{"seed": 42, "coverage": 0.9, "least_error": 5, "importance_rows": 50, "importance_repeats": 1},
        "with_labels": ["linear", "hist_gradient_boosting"],
        "price_index": {"half_life": 100, "least": 50, "lowest_value": 5},
        "candidates": {"linear": {}, "hist_gradient_boosting": {"max_iter": 40, "min_samples_leaf": 10}},
    },
    "register": {"experiment": "hires", "tolerance": 0.005, "most_fall": 10.0},
    "drift": {
        **{"window": 200, "least_rows": 100, "alpha": 0.01, "psi": 0.1, "wasserstein": 0.2, "auc": 0.55},
        **{"sustained": 2, "fresh_share": 0.25, "live_labels": 40, "live_margin": 0.25, "new_labels": 40},
        "cooldown_seconds": 3600,
    },
}


class Program:
    """One program of the cluster. Killed, all that it has started is gone too, as with its container."""

    def __init__(self, name: str, state: Path, environment: Mapping[str, str], command: list[str]) -> None:
        self.name = name
        self.state = state
        self._environment = {**environment, "STATE_DIR": str(state)}
        self._command = command
        self._output = state.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Program:
        """Start it; it need not be ready yet."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [ROOT / "entrypoint.sh", *self._command],
                cwd="/", env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return self

    def kill(self) -> None:
        """End it and its children without a chance to say anything, if it was started."""
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        self._process.wait()

    def lose_disk(self) -> None:
        """Remove all that it has written."""
        shutil.rmtree(self.state)

    def tell_to_stop(self) -> None:
        """Send it the signal that orchestrators send."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        """Return its exit code once it has ended."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended in {seconds} s: {self.output()}") from None

    def runs(self) -> bool:
        """Return whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def output(self) -> str:
        """Return what it has written."""
        return self._output.read_text() if self._output.exists() else ""


class Cluster:
    """The programs, and the two servers that they share."""

    def __init__(self, directory: Path, postgres: Postgres, s3: S3Server, free_port: Callable[[], int]) -> None:
        self.directory = directory
        self._programs: list[Program] = []
        self.postgres = postgres
        self.s3 = s3
        self.bucket = s3.new_bucket()
        self.front_port, self.api_port = free_port(), free_port()
        self.mlflow_port, self.scheduler_port, self.prometheus_port = free_port(), free_port(), free_port()
        table = hires.write(directory / "table", note=False)
        (table / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
        key = directory / "signing-key"
        SigningKey.new().keep(key)
        self.environment = {name: value for name, value in os.environ.items() if name in KEPT} | {
            "TABLE": str(table),
            "DATABASE_URL": postgres.new_database(),
            "ARTIFACTS_URI": self.bucket,
            "DASK_SCHEDULER": f"tcp://127.0.0.1:{self.scheduler_port}",
            "ADMIN_PASSWORD": PASSWORD,
            "SIGNING_KEY_FILE": str(key),
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_PORT": str(self.mlflow_port),
            "API_PORT": str(self.api_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "MODEL_POLL_SECONDS": "1",
            "DRIFT_INTERVAL_SECONDS": "8",
            "DRAIN_SECONDS": "3",
            **s3.environment,
        }
        copies = ",".join(f"{address}:{self.api_port}" for address in COPIES)
        self.apis = [self.program(f"api-{n}", "api", BIND_ADDRESS=address) for n, address in enumerate(COPIES)]
        self.front = self.program("front", "front", API_PORT=str(self.front_port), API_HOST=copies)
        self.prometheus = self.program("prometheus", "prometheus", API_HOST=copies)
        self.mlflow = self.program("mlflow", "mlflow")
        self.monitor = self.program("drift-monitor", "drift-monitor")
        self.scheduler = self.program("dask-scheduler", "dask-scheduler", "--port", str(self.scheduler_port))
        self.workers = [self.program(f"dask-worker-{n}", "dask-worker") for n in range(WORKERS)]
        self.client = httpx.Client(base_url=self.url, timeout=30, headers={"Authorization": basic(PASSWORD)})
        self._jobs = 0

    @property
    def url(self) -> str:
        """The address that users have."""
        return f"http://127.0.0.1:{self.front_port}"

    def program(self, name: str, *command: str, **environment: str) -> Program:
        """Return a program that is not started yet, with an empty disk."""
        self._programs.append(Program(name, self.directory / name, {**self.environment, **environment}, [*command]))
        return self._programs[-1]

    def job(self, *command: str) -> Program:
        """Start a command with an empty disk of its own."""
        self._jobs += 1
        return self.program(f"job-{self._jobs}", *command).start()

    def copy(self, number: int, path: str) -> httpx.Response:
        """Ask one copy of the service."""
        return httpx.get(f"http://{COPIES[number]}:{self.api_port}{path}", timeout=10)

    def versions(self) -> list[str | None]:
        """Return the version that each copy serves; None for one that does not."""

        def version(number: int) -> str | None:
            try:
                answer = self.copy(number, "/ready")
            except httpx.TransportError:
                return None
            return str(answer.json()["model_version"]) if answer.status_code == 200 else None

        return [version(number) for number in range(len(COPIES))]

    def start(self) -> None:
        """Start everything, train the first version, and wait until it serves everywhere."""
        everything = [self.scheduler, *self.workers, self.mlflow, *self.apis, self.front, self.monitor]
        for program in everything:
            program.start()
        bootstrap = self.job("bootstrap")
        assert bootstrap.wait(420) == 0, bootstrap.output() + self.mlflow.output()
        wait_for("the first version everywhere", lambda: set(self.versions()) == {"1"}, 30)
        wait_for("the front", lambda: httpx.get(f"{self.url}/ready").status_code == 200)
        assert all(program.runs() for program in everything)

    def is_well(self, role: str, **environment: str) -> bool:
        """Return whether a role's own health check finds nothing."""
        asked = subprocess.run(
            [sys.executable, "-m", "monitoring.health", role],
            cwd=ROOT, env={**self.environment, **environment}, capture_output=True, check=False, timeout=30,
        )  # fmt: skip
        return asked.returncode == 0

    def scraped(self) -> int:
        """Return how many copies of the service Prometheus gets metrics of."""
        query = {"query": 'sum(up{job="api"})'}
        answer = httpx.get(f"http://127.0.0.1:{self.prometheus_port}/api/v1/query", params=query)
        found = answer.json()["data"]["result"] if answer.status_code == 200 else []
        return int(found[0]["value"][1]) if found else 0

    def retrainings(self) -> list[dict[str, Any]]:
        """Return the history, the newest first."""
        found: list[dict[str, Any]] = self.client.get("/retrainings").json()
        return found

    def stop(self) -> None:
        """End every program that was started here, and what is left of killed ones."""
        for program in self._programs:
            program.kill()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("STATE_DIR", "").startswith(f"{self.directory}/"):
                    process.kill()
        self.client.close()
