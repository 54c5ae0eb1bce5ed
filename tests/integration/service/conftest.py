"""Real processes for the tests of the service: an MLflow server with real versions, and the service itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from appliance.prepare import prepare_database
from pipeline.build_version import build_version
from pipeline.fitting import new_model
from pipeline.stage_runner import load_params
from tableloop.credentials import basic, write_secret
from tableloop.drift.statistics import make_reference
from tableloop.model.conformal import ConformalRegressor
from tableloop.signing import SigningKey
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.waiting import free_port, wait_for

FEATURE_NAMES = load_table().feature_names
FEATURES = load_table().features
TARGET = load_table().target

ROOT = Path(__file__).parents[3]
EXAMPLE: dict[str, float] = {column.name: column.example for column in FEATURES}
NAME, ALIAS = "HousePriceModel", "Production"

POLL_SECONDS = 0.3
PASSWORD = "the administrator's"
KEY = SigningKey.new()  # signs what `Registry` publishes, for all services


def clean_environment(**variables: object) -> dict[str, str]:
    """Return an environment in which only the given variables can be settings."""
    kept = {"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}
    base = {name: value for name, value in os.environ.items() if name in kept}
    return (
        base
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        | {key: str(value) for key, value in variables.items()}
    )


@dataclass
class Service:
    """One process of the service and a client for it."""

    state_dir: Path
    variables: dict[str, object]
    port: int = field(default_factory=free_port)
    prefix: tuple[str, ...] = ()

    def start(self, ready: bool = True) -> Service:
        KEY.keep(Layout(self.state_dir).signing_key)
        write_secret(Layout(self.state_dir).admin_password, PASSWORD)
        self.console = (self.state_dir.parent / f"{self.state_dir.name}.console").open("ab")
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "app.main"],
            cwd=self.state_dir.parent,
            env=clean_environment(STATE_DIR=self.state_dir, API_PORT=self.port, **self.variables),
            stdout=self.console,
            stderr=subprocess.STDOUT,
        )
        login = {"Authorization": basic(PASSWORD)}
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10, headers=login)
        path = "/ready" if ready else "/health"
        try:
            wait_for(path, lambda: self.get(path).status_code == 200)
        except AssertionError:
            self.stop(signal.SIGKILL)
            raise AssertionError(f"{path} never came: {self.output()}") from None
        return self

    def get(self, path: str) -> httpx.Response:
        if self.process.poll() is not None:
            raise AssertionError(f"the service ended with {self.process.returncode}: {self.output()}")
        return self.client.get(path)

    def predict(self, **changes: object) -> httpx.Response:
        return self.client.post("/predict", json=EXAMPLE | changes)

    def output(self) -> str:
        return Path(self.console.name).read_text()

    @property
    def store(self) -> Store:
        return Store(str(self.variables.get("DATABASE_URL") or "") or Layout(self.state_dir).database)

    def log_rows(self, query: str = "SELECT * FROM predictions") -> list[dict[str, Any]]:
        with self.store.reading() as connection:
            return [dict(row) for row in connection.exec_driver_sql(query).mappings()]

    def request_lines(self) -> list[str]:
        text = (self.state_dir / "logs" / "app.log").read_text()
        return [line for line in text.splitlines() if '"message":"request"' in line]

    def stop(self, sign: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sign)
        code = self.process.wait(timeout=10)
        self.client.close()
        self.console.close()
        return code


StartService = Callable[..., Service]


def store_at(place: Path | str) -> dict[str, str]:
    """Return the variables with which a service has its store there, a file always in its state."""
    return {"DATABASE_URL": place} if isinstance(place, str) else {}


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Start services that are stopped at the end of the test; without a registry they run in TEST_MODE."""
    services: list[Service] = []

    def start(
        state_dir: Path | None = None, *, ready: bool = True, prefix: tuple[str, ...] = (), **variables: object
    ) -> Service:
        state_dir = state_dir or tmp_path / f"state{len(services)}"
        state_dir.mkdir(exist_ok=True)
        if "MLFLOW_TRACKING_URI" not in variables:
            variables["TEST_MODE"] = 1
        service = Service(state_dir, {"MODEL_POLL_SECONDS": POLL_SECONDS, **variables}, prefix=prefix)
        services.append(service)
        return service.start(ready)

    yield start
    for service in services:
        service.stop(signal.SIGKILL)


@dataclass
class Registry:
    """A running MLflow server, and methods that publish versions to it."""

    directory: Path
    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)

    def start(self) -> None:
        options = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_MODEL_CATALOG_URI": "",
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
        }
        log = (self.directory / "server.log").open("ab")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)),
                *("--backend-store-uri", f"sqlite:///{self.directory}/mlflow.db"),
                *("--serve-artifacts", "--artifacts-destination", str(self.directory / "artifacts")),
            ],
            cwd=self.directory,
            env=clean_environment(**options),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        wait_for("the MLflow server", lambda: httpx.get(f"{self.uri}/health").status_code == 200, 60)

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def publish(self, offset: float = 0.0) -> str:
        """Register a linear model whose predictions are raised by ``offset``; return its version."""
        X, y = training_rows()
        model = ConformalRegressor(make_pipeline(StandardScaler(), LinearRegression()), list(FEATURE_NAMES))
        model.fit(X[:15_000], y[:15_000] + offset).calibrate(X[15_000:], y[15_000:] + offset)
        own = {
            "family": "linear",
            "scores": {"custom_rmse": 0.73, "test_rmse": 0.73},
            "data_md5": "0" * 32,
            "code_digest": "1" * 64,
        }
        return self.publish_model(model, X[:15_000], X[15_000:16_000], own)

    def publish_model(
        self,
        model: ConformalRegressor,
        fitted: npt.NDArray[np.float64],
        test: npt.NDArray[np.float64],
        metadata: dict[str, Any],
    ) -> str:
        """Register a fitted model with all files of a version; return its number."""
        client = self.client
        frame, rows = (pd.DataFrame(values, columns=list(FEATURE_NAMES)) for values in (fitted, test))
        ranges = {name: [float(frame[name].min()), float(frame[name].max())] for name in frame}
        run_id = client.create_run("0").info.run_id
        logged = client.create_logged_model("0", "model", source_run_id=run_id)
        described = Model(
            artifact_path=logged.artifact_location,
            run_id=run_id,
            metadata={"training_range": ranges, "interval_coverage": 0.9} | metadata,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        )
        with tempfile.TemporaryDirectory() as parent, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's own, about pandas and about its type hints
            directory = Path(parent) / "version"
            build_version(
                directory,
                model,
                described,
                example=frame.head(5),
                requirements=["scikit-learn"],
                reference=make_reference(fitted[:1000], model.predict(fitted[:1000]), 0.5, columns=model.columns),
                test=rows,
                made_by={},
            )
            KEY.sign(directory, run_id)
            client.log_model_artifacts(logged.model_id, str(directory))
        client.finalize_logged_model(logged.model_id, "READY")
        with suppress(MlflowException):  # it is there from the second time on
            client.create_registered_model(NAME)
        version = client.create_model_version(NAME, f"models:/{logged.model_id}", run_id, model_id=logged.model_id)
        return str(version.version)

    def promote(self, version: str) -> None:
        self.client.set_registered_model_alias(NAME, ALIAS, version)

    def artifact_directory(self, version: str) -> Path:
        """Return where the server keeps the files of a version."""
        source = self.client.get_model_version(NAME, version).source
        return next(self.directory.joinpath("artifacts").rglob(f"{source.removeprefix('models:/')}/artifacts"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An MLflow server with one version, which is promoted."""
    directory = tmp_path_factory.mktemp("mlflow")
    prepare_database(directory / "mlflow.db")
    registry = Registry(directory, free_port())
    try:
        registry.start()
        mlflow.set_tracking_uri(registry.uri)
        registry.promote(registry.publish())
        yield registry
    finally:
        registry.stop()


@pytest.fixture(scope="session")
def spatial_version(registry: Registry) -> str:
    """Return a version of the shipped spatial model with its scorer, as `register` stores it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        params = load_params()["train"]
    X, y = training_rows()
    model = new_model("spatial", params, load_table())
    model.fit(X[:12_000], y[:12_000]).calibrate(X[12_000:16_000], y[12_000:16_000])
    metadata = {"family": "spatial", "limits": {"far_km": 5.0}}
    return registry.publish_model(model, X[:12_000], X[16_000:17_000], metadata)


def training_rows() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    frame = pd.read_csv(ROOT / "data" / "raw" / "california_housing.csv").sample(frac=1, random_state=0)
    return frame[list(FEATURE_NAMES)].to_numpy(np.float64), frame[TARGET.name].to_numpy(np.float64)


class Load:
    """Threads that predict without a pause and keep the answers."""

    def __init__(self, port: int, threads: int = 8) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.lost = 0
        self._url = f"http://127.0.0.1:{port}/predict"
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        count = 0
        with httpx.Client(timeout=10) as client:
            while not self._stop.is_set():
                count += 1
                try:
                    answer = client.post(self._url, json=EXAMPLE | {"Population": float(1 + number + 8 * count)})
                except httpx.TransportError:  # the server was killed
                    self.lost += 1
                    self._stop.wait(0.01)
                    continue
                self.answers.append((answer.status_code, answer.json()))
