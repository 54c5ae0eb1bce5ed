"""The model that serves: found in the registry, tried, swapped in one assignment, kept as a local copy.

A thread asks the registry every few seconds which version the alias names. A new one is downloaded, loaded and tried
before it replaces the old; whatever fails, the old one goes on. The local copy under ``champion/`` lets the service
start without the registry. Several processes may keep theirs in one directory.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from loguru import logger

from tableloop.model.intervals import Answers
from tableloop.state.database import REFUSED, SERVES, StoreError
from tableloop.state.locks import champion_lock
from tableloop.table import load_table

Matrix = npt.NDArray[np.float64]
Predict = Callable[[Matrix], Answers]
Source = Literal["registry", "local copy", "dummy"]
Engine = Literal["compiled", "scikit-learn", "dummy"]
MAX_RETRY_SECONDS = 300.0
INCOMING = ".incoming-"
FORGOTTEN_SECONDS = 3600.0  # a download so old is nobody's any more


@dataclass(frozen=True)
class Version:
    """A version of the registered model, as the registry names it."""

    version: str
    run_id: str
    registered_at: str | None


Record = Callable[[Version, str, str], None]  # a version, what became of it, and why


@dataclass(frozen=True)
class Model:
    """A loaded model.

    ``predict`` answers for rows of shape (n, 8), ``engine`` is what runs in it, ``metadata`` is the one of the
    MLmodel file.
    """

    predict: Predict
    engine: Engine
    metadata: Mapping[str, Any]
    example: Matrix


class Registry(Protocol):
    """What the champion needs from a model registry; `app.model_loader` is the one over MLflow."""

    def find(self) -> Version | None:
        """Return the version the alias names, None when there is none; any exception: no answer."""

    def download(self, version: str, directory: Path) -> None:
        """Put the files of a version into an existing, empty directory."""

    def load(self, directory: Path) -> Model:
        """Load a model from its files."""


@dataclass(frozen=True)
class Champion:
    """One loaded version with everything an answer needs; never changes, so a request sees one version only."""

    version: str
    run_id: str
    registered_at: str | None
    source: Source
    metadata: Mapping[str, Any]
    engine: Engine
    predict: Predict
    coverage: float
    training_range: tuple[tuple[float, float], ...]
    far_km: float

    @property
    def family(self) -> str:
        """The kind of model, as params.yaml names it."""
        return str(self.metadata.get("family", "unknown"))

    def checked(self, rows: Matrix) -> Answers:
        """Return the predictions of rows of shape (n, 8).

        Raises
        ------
        ArithmeticError
            One of them is no finite number.
        """
        answers = self.predict(rows)
        if not np.isfinite(answers[:3]).all():
            raise ArithmeticError(f"version {self.version} predicts values that are not finite")
        return answers

    def warnings(self, row: tuple[float, ...], kilometres: float | None) -> list[str]:
        """Return a line for each feature of one row that lies outside of what the model has seen.

        And one when the nearest training place, so many kilometres away, is farther than the model can be relied on.
        """
        lines = [
            f"{name} {value:g} is outside the training range {low:g} to {high:g}"
            for value, (low, high), name in zip(row, self.training_range, load_table().feature_names, strict=True)
            if not low <= value <= high
        ]
        if kilometres is not None and kilometres > self.far_km:
            lines.append(
                f"nearest_training_km {kilometres:.1f} is more than {self.far_km:g}: "
                "predictions so far out are less certain"
            )
        return lines

    def unusual(self, rows: Matrix, kilometres: Matrix | None) -> npt.NDArray[np.bool_]:
        """Return of which rows of shape (n, 8) `warnings` has something to say, (n,)."""
        low, high = np.array(self.training_range).T
        outside: npt.NDArray[np.bool_] = ((rows < low) | (rows > high)).any(axis=1)
        if kilometres is not None:
            outside |= kilometres > self.far_km
        return outside


class ChampionKeeper:
    """Keeps `current` equal to the version the alias names, as far as the registry answers.

    ``state`` says in words what is going on, for `/ready` and for the 503 of a service without a model.
    """

    def __init__(self, registry: Registry, directory: Path, poll_seconds: float, name: str, record: Record) -> None:
        self.current: Champion | None = None
        self.state = "starting"
        self._registry = registry
        self._directory = directory
        self._poll_seconds = poll_seconds
        self._name = name
        self._record = record
        self._failed: Version | None = None
        self._failure = ""
        self._failures = 0
        self._retry_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion", daemon=True)

    def start(self) -> None:
        """Start the thread; the local copy is loaded there as well, so the port opens at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that is waiting for the registry ends with the process."""
        self._stop.set()
        self._thread.join(timeout=0.2)

    def _run(self) -> None:
        self._start_from_copy()
        while not self._stop.is_set():
            try:
                self.poll()
            except Exception:  # the thread must outlive any surprise
                logger.exception("looking for a new model version failed")
            # A service without a model has nothing better to do than to look for one.
            self._stop.wait(self._poll_seconds if self.current else min(0.5, self._poll_seconds))

    def poll(self) -> None:
        """Ask once; load and swap if the alias names another version."""
        try:
            found = self._registry.find()
        except Exception as error:
            self._tell(f"the registry does not answer ({_brief(error)})")
            return
        if found is None:
            self._tell(f"the registry has no {self._name}")
            return
        current = self.current
        if current is not None and (current.version, current.run_id) == (found.version, found.run_id):
            if current.source == "local copy":
                self.current = replace(current, source="registry", registered_at=found.registered_at)
            self._failed = None
            self._tell(f"version {found.version} is the registry's {self._name}")
            return
        if found == self._failed and time.monotonic() < self._retry_at:
            self._tell(self._failure)
            return
        self._replace(found)

    def _replace(self, found: Version) -> None:
        if self.current is None:
            self.state = f"loading version {found.version}"
        incoming = None
        started = time.monotonic()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            incoming = Path(tempfile.mkdtemp(prefix=f"{INCOMING}v{found.version}-", dir=self._directory))
            self._registry.download(found.version, incoming)
            champion = tried(self._registry.load(incoming), found, "registry")
        except Exception as error:
            if incoming is not None:
                shutil.rmtree(incoming, ignore_errors=True)
            self._failures = self._failures + 1 if found == self._failed else 1
            self._failed = found
            wait = min(self._poll_seconds * 2**self._failures, MAX_RETRY_SECONDS)
            self._retry_at = time.monotonic() + wait
            self._failure = f"version {found.version} cannot be used ({_brief(error)})"
            self._tell(self._failure)
            if self._failures == 1:
                self._note(found, REFUSED, _brief(error))
            return
        self._failed = None
        self.current = champion
        self.state = f"version {found.version} is the registry's {self._name}"
        seconds = time.monotonic() - started
        logger.info(
            f"serving version {found.version} ({champion.family}, {champion.engine}) from the registry, "
            f"loaded in {seconds:.1f} s"
        )
        self._note(found, SERVES)
        self._keep(incoming, found)

    def _keep(self, incoming: Path, found: Version) -> None:
        """Make the downloaded files the local copy and remove older ones, unless another process has done it."""
        kept = self._directory / f"v{found.version}"
        pointer = {
            "version": found.version,
            "directory": kept.name,
            "run_id": found.run_id,
            "registered_at": found.registered_at,
        }
        text = json.dumps(pointer)
        pointer_file = self._directory / "current.json"
        try:
            with champion_lock(self._directory, change=True):
                if kept.is_dir() and pointer_file.exists() and pointer_file.read_text() == text:
                    shutil.rmtree(incoming)
                    return
                shutil.rmtree(kept, ignore_errors=True)  # of another registry with the same version number
                incoming.chmod(0o755)  # a temporary directory is its maker's alone
                incoming.rename(kept)
                temporary = self._directory / ".current.json"
                temporary.write_text(text)
                temporary.replace(pointer_file)
                self._remove_all_but(kept)
        except OSError as error:
            logger.warning(
                f"no local copy of version {found.version} in {self._directory} ({error}); serving goes on"
            )

    def _remove_all_but(self, kept: Path) -> None:
        for other in self._directory.iterdir():
            coming = other.name.startswith(INCOMING) and time.time() - other.stat().st_mtime < FORGOTTEN_SECONDS
            if other.is_dir() and other != kept and not coming:
                shutil.rmtree(other)

    def _start_from_copy(self) -> None:
        pointer_file = self._directory / "current.json"
        if not pointer_file.exists():
            return
        self.state = "loading the local copy"
        try:
            with champion_lock(self._directory, change=False):
                pointer = json.loads(pointer_file.read_text())
                version = Version(pointer["version"], pointer["run_id"], pointer.get("registered_at"))
                champion = tried(self._registry.load(self._directory / pointer["directory"]), version, "local copy")
        except Exception as error:
            self._tell(f"the local copy in {self._directory} cannot be used ({_brief(error)})")
            return
        self.current = champion
        self.state = "the registry has not been asked yet"
        self._note(version, SERVES)
        logger.info(f"serving version {champion.version} ({champion.family}, {champion.engine}) from the local copy")

    def _note(self, version: Version, event: str, detail: str = "") -> None:
        """Record in the store what became of a version; a store that cannot be written stops nobody from serving."""
        try:
            self._record(version, event, detail)
        except StoreError as error:
            logger.warning(f"that version {version.version} {event} is not recorded ({error})")

    def _tell(self, state: str) -> None:
        """Note the state; log it when it is a new one."""
        if state == self.state:
            return
        self.state = state
        served = f"version {self.current.version} serves on" if self.current else "there is no model to predict with"
        well = self.current is not None and self._failed is None and "is the registry's" in state
        # Without a model and without a version that failed, the first training runs: nothing is wrong.
        waiting = self.current is None and self._failed is None
        logger.log("INFO" if well or waiting else "WARNING", state if well else f"{state}; {served}")


class DummyKeeper:
    """The keeper of `TEST_MODE`: a model that needs nothing and never changes."""

    state = "TEST_MODE: a dummy model"

    def __init__(self) -> None:
        self.current: Champion | None = dummy_champion()

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """There is nothing to stop."""


def dummy_champion() -> Champion:
    """Return a model whose prediction is 0.4 of the median income, give or take one half."""

    def predict(rows: Matrix) -> Answers:
        values = 0.4 * rows[:, 0]
        return Answers(values, values - 0.5, values + 0.5, None)

    metadata = {
        "family": "dummy",
        "training_range": {column.name: [column.minimum, column.maximum] for column in load_table().features}
        | {"Latitude": [32.5, 42.0], "Longitude": [-124.4, -114.3]},
        "scores": {},
        "interval_coverage": 0.9,
    }
    example = np.array([list(load_table().example.values())])
    model = Model(predict, "dummy", metadata, example)
    return tried(model, Version("dummy", "none", None), "dummy")


def tried(model: Model, version: Version, source: Source) -> Champion:
    """Return the model as a champion after it has predicted its own example.

    Raises
    ------
    ValueError
        It answers with wrong shapes, with something that is no number or outside of its interval, or does not say
        what it was trained on.
    """
    values, low, high, _ = model.predict(model.example)
    expected = (len(model.example),)
    if not values.shape == low.shape == high.shape == expected:
        raise ValueError(f"its answers have the shapes {values.shape}, {low.shape}, {high.shape}, not {expected}")
    if not np.isfinite([values, low, high]).all():
        raise ValueError("it predicts values that are not finite for its own example")
    if not ((low <= values) & (values <= high)).all():
        raise ValueError("its predictions lie outside of their intervals")
    missing = {"training_range", "interval_coverage"} - set(model.metadata)
    if missing:
        raise ValueError(f"its metadata lack {', '.join(sorted(missing))}")
    ranges = model.metadata["training_range"]
    return Champion(
        version=version.version,
        run_id=version.run_id,
        registered_at=version.registered_at,
        source=source,
        metadata=model.metadata,
        engine=model.engine,
        predict=model.predict,
        coverage=float(model.metadata["interval_coverage"]),
        training_range=tuple((float(ranges[name][0]), float(ranges[name][1])) for name in load_table().feature_names),
        far_km=float((model.metadata.get("limits") or {}).get("far_km") or "inf"),
    )


def _brief(error: BaseException) -> str:
    """Return the first line of an error, without the pages that some clients add."""
    line = str(error).strip().partition(os.linesep)[0] or type(error).__name__
    return line if len(line) <= 200 else line[:200] + "…"
