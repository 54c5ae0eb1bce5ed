"""The model that serves: found in the registry, tried, swapped in one assignment, kept as a local copy.

A thread asks the registry every few seconds which version the alias names. A new one is downloaded, loaded and tried
before it replaces the old; whatever fails, the old one goes on. The local copy under ``champion/`` lets the service
start without the registry. Several processes may keep theirs in one directory.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from loguru import logger
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from app.schemas import Engine, GroupError, Limits, Source
from tableloop.model.coding import days_of
from tableloop.model.intervals import Answers
from tableloop.model.kriging import Neighbours
from tableloop.state.database import REFUSED, SERVES
from tableloop.state.errors import StoreError
from tableloop.state.locks import champion_lock
from tableloop.table import Column, Value, load_table

TABLE = load_table()
Matrix = npt.NDArray[np.float64]
Known = tuple[float, float] | frozenset[str] | None  # of a feature in training: its range, or its levels
Predict = Callable[[Matrix], Answers]
MAX_RETRY_SECONDS = 300.0
INCOMING = ".incoming-"
FORGOTTEN_SECONDS = 3600.0  # a download is abandoned after this many seconds


@dataclass(frozen=True)
class Version:
    """A version of the registered model, as the registry names it."""

    version: str
    run_id: str
    registered_at: str | None


Line = Annotated[str, Field(max_length=100, pattern=r"^[ -~]*$")]  # what is logged and counted under its name


class Metadata(BaseModel):
    """What a version says of itself in its MLmodel file."""

    model_config = ConfigDict(frozen=True)

    family: Line = "unknown"
    training_range: dict[str, tuple[FiniteFloat, FiniteFloat]]
    kinds: dict[str, dict[str, Any]] = {}
    interval_coverage: float = Field(gt=0, lt=1)
    scores: dict[Line, FiniteFloat] = {}
    limits: Limits | None = None
    importance: dict[Line, FiniteFloat] = {}
    error_by_region: list[GroupError] = []
    data_md5: Line | None = None
    code_digest: Line | None = None


Record = Callable[[Version, str, str], None]  # a version, what became of it, and why


class Insight(Protocol):
    """What explanations ask of a compiled scorer beside its answers."""

    def left_out(self, rows: Matrix) -> Answers:
        """Return what it would say of rows of its training, without each."""

    def neighbours(self, row: Matrix, *, left_out: bool = False) -> Neighbours | None:
        """Return the training places that a row is compared with; None if there are none."""


@dataclass(frozen=True)
class Model:
    """A loaded model: ``predict`` takes rows of shape (n, features), and ``metadata`` is that of the MLmodel file.

    ``reference`` are some rows of its training, (m, features), if they were kept.
    """

    predict: Predict
    engine: Engine
    metadata: Mapping[str, Any]
    example: Matrix
    reference: Matrix | None = None
    insight: Insight | None = None


class Registry(Protocol):
    """What the champion needs from a model registry; `app.model_loader` is the one over MLflow."""

    def find(self) -> Version | None:
        """Return the version the alias names, None when there is none; any exception: no answer."""

    def download(self, version: str, directory: Path) -> None:
        """Put the files of a version into an existing, empty directory."""

    def load(self, directory: Path, version: Version, *, trial: bool) -> Model:
        """Load a model from its files, with ``trial`` in a process of its own first."""


@dataclass(frozen=True)
class Champion:
    """One loaded version with everything an answer needs; never changes, so a request sees one version only."""

    version: str
    run_id: str
    registered_at: str | None
    source: Source
    metadata: Metadata
    engine: Engine
    predict: Predict
    known: tuple[Known, ...]
    far_km: float
    reference: Matrix | None = None
    insight: Insight | None = None

    @property
    def family(self) -> str:
        """The kind of model, as params.yaml names it."""
        return self.metadata.family

    @property
    def coverage(self) -> float:
        """The share of true values that the intervals are made to hold."""
        return self.metadata.interval_coverage

    def checked(self, rows: Matrix) -> Answers:
        """Return the predictions of rows of shape (n, features).

        Raises
        ------
        ArithmeticError
            A prediction is not a finite number.
        """
        answers = self.predict(rows)
        if not np.isfinite(answers[:3]).all():
            raise ArithmeticError(f"version {self.version} predicts values that are not finite")
        return answers

    def warnings(self, row: Sequence[Value], kilometres: float | None) -> list[str]:
        """Return a line for each feature of one row that is unlike the training data: outside its range, or no level.

        One more says when the nearest training place, this many kilometres away, is too far for the model.
        """
        lines = [
            line
            for value, known, column in zip(row, self.known, TABLE.features, strict=True)
            # Most values are numbers in their range; asked here, that takes a third of the time of a call.
            if not (type(value) is float and type(known) is tuple and known[0] <= value <= known[1])
            and value is not None
            and (line := _warning(value, known, column))
        ]
        if kilometres is not None and kilometres > self.far_km:
            lines.append(
                f"nearest_training_km {kilometres:.1f} is more than {self.far_km:g}: "
                "predictions so far out are less certain"
            )
        return lines

    def unusual(self, rows: Matrix, kilometres: Matrix | None) -> npt.NDArray[np.bool_]:
        """Return for which rows of shape (n, features) `warnings` has lines, as shape (n,)."""
        low, high = np.array([known if isinstance(known, tuple) else (-np.inf, np.inf) for known in self.known]).T
        outside: npt.NDArray[np.bool_] = ((rows < low) | (rows > high)).any(axis=1)
        # A level that is not known is coded as a missing value is; `warnings` can tell them apart.
        outside |= np.isnan(rows[:, [isinstance(known, frozenset) for known in self.known]]).any(axis=1)
        if kilometres is not None:
            outside |= kilometres > self.far_km
        return outside


class ChampionKeeper:
    """Keeps `current` equal to the version the alias names, as far as the registry answers.

    ``state`` says in words what is going on, for `/ready` and for the 503 of a service without a model. ``matches``
    is whether the alias names the version that serves, None while the registry has not answered. ``looks_at_copy``
    until the local copy is loaded, or there turned out to be none.
    """

    def __init__(self, registry: Registry, directory: Path, poll_seconds: float, name: str, record: Record) -> None:
        self.current: Champion | None = None
        self.state = "starting"
        self.matches: bool | None = None
        self.looks_at_copy = True
        self._registry = registry
        self._directory = directory
        self._pointer = directory / "current.json"
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
        self.looks_at_copy = False
        while not self._stop.is_set():
            try:
                self.poll()
            except Exception:  # the thread must outlive any surprise
                logger.exception("looking for a new model version failed")
            # Without a model, the registry is asked more often.
            self._stop.wait(self._poll_seconds if self.current else min(0.5, self._poll_seconds))

    def poll(self) -> None:
        """Ask once; load and swap if the alias names another version."""
        try:
            found = self._registry.find()
        except Exception as error:
            self.matches = None
            self._tell(f"the registry does not answer ({_brief(error)})")
            return
        current = self.current
        serves = (current.version, current.run_id) if current else None
        self.matches = found is not None and serves == (found.version, found.run_id)
        if found is None:
            self._tell(f"the registry has no {self._name}")
            return
        if current is not None and self.matches:
            if current.source == "local copy":
                self.current = replace(current, source="registry", registered_at=found.registered_at)
            self._failed = None
            self._tell(f"version {found.version} is the registry's {self._name}", well=True)
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
            champion = tried(self._registry.load(incoming, found, trial=True), found, "registry")
        except Exception as error:
            if incoming is not None:
                shutil.rmtree(incoming, ignore_errors=True)
            self._failures = self._failures + 1 if found == self._failed else 1
            self._failed = found
            self._retry_at = time.monotonic() + min(self._poll_seconds * 2**self._failures, MAX_RETRY_SECONDS)
            self._failure = f"version {found.version} cannot be used ({_brief(error)})"
            self._tell(self._failure)
            if self._failures == 1:
                self._note(found, REFUSED, _brief(error))
            return
        self._failed = None
        self.current, self.matches = champion, True
        self.state = f"version {found.version} is the registry's {self._name}"
        served = f"version {found.version} ({champion.family}, {champion.engine}) from the registry"
        logger.info(f"serving {served}, loaded in {time.monotonic() - started:.1f} s")
        self._note(found, SERVES)
        self._keep(incoming, found)

    def _keep(self, incoming: Path, found: Version) -> None:
        """Make the downloaded files the local copy and remove older ones, unless another process has done it."""
        kept = self._directory / f"v{found.version}"
        text = json.dumps(asdict(found) | {"directory": kept.name})
        try:
            with champion_lock(self._directory, change=True):
                if kept.is_dir() and self._pointer.exists() and self._pointer.read_text() == text:
                    shutil.rmtree(incoming)
                    return
                shutil.rmtree(kept, ignore_errors=True)  # of another registry with the same version number
                incoming.chmod(0o750)  # a temporary directory is its maker's alone
                incoming.rename(kept)
                temporary = self._directory / ".current.json"
                temporary.write_text(text)
                temporary.replace(self._pointer)
                for other in self._directory.iterdir():
                    coming = (
                        other.name.startswith(INCOMING) and other.stat().st_mtime > time.time() - FORGOTTEN_SECONDS
                    )
                    if other.is_dir() and other != kept and not coming:
                        shutil.rmtree(other)
        except OSError as error:
            logger.warning(
                f"no local copy of version {found.version} in {self._directory} ({error}); it serves without one"
            )

    def _start_from_copy(self) -> None:
        if not self._pointer.exists():
            return
        self.state = "loading the local copy"
        try:
            with champion_lock(self._directory, change=False):
                pointer = json.loads(self._pointer.read_text())
                version = Version(pointer["version"], pointer["run_id"], pointer.get("registered_at"))
                # It has had its trial before it became the copy.
                model = self._registry.load(self._directory / pointer["directory"], version, trial=False)
            champion = tried(model, version, "local copy")
        except Exception as error:
            self._tell(f"the local copy in {self._directory} cannot be used ({_brief(error)})")
            return
        self.current = champion
        self.state = "the registry has not been asked yet"
        self._note(version, SERVES)
        logger.info(f"serving version {champion.version} ({champion.family}, {champion.engine}) from the local copy")

    def _note(self, version: Version, event: str, detail: str = "") -> None:
        """Record in the store what became of a version; serving goes on when the store cannot be written."""
        try:
            self._record(version, event, detail)
        except StoreError as error:
            logger.warning(f"that version {version.version} {event} is not recorded ({error})")

    def _tell(self, state: str, well: bool = False) -> None:
        """Note the state; log it when it is a new one."""
        if state == self.state:
            return
        self.state = state
        served = f"version {self.current.version} serves on" if self.current else "there is no model to predict with"
        # Without a model and without a version that failed, the first training runs: nothing is wrong.
        waiting = self.current is None and self._failed is None
        logger.log("INFO" if well or waiting else "WARNING", state if well else f"{state}; {served}")


class DummyKeeper:
    """The keeper of `TEST_MODE`: a model that needs nothing and never changes."""

    state = "TEST_MODE: a dummy model"
    matches: bool | None = None
    looks_at_copy = False

    def __init__(self) -> None:
        self.current: Champion | None = dummy_champion()

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """There is nothing to stop."""


Keeper = ChampionKeeper | DummyKeeper


def dummy_champion() -> Champion:
    """Return a model that maps the possible values of a feature to those of the target, evenly.

    The feature is the first one with a size that no row lacks; without one, every value is in the middle.
    """
    target = TABLE.target
    ordered = [feature for feature in TABLE.features if feature.is_ordered]
    first = next((feature for feature in ordered if feature.required), None)

    def predict(rows: Matrix) -> Answers:
        if first is None:
            values = np.full(len(rows), (target.minimum + target.maximum) / 2)
        else:
            factor = (target.maximum - target.minimum) / (first.maximum - first.minimum)
            values = target.minimum + factor * (rows[:, TABLE.feature_names.index(first.name)] - first.minimum)
        return Answers(values, values - 0.5, values + 0.5, None)

    metadata = {
        "family": "dummy",
        "training_range": {feature.name: [feature.minimum, feature.maximum] for feature in ordered},
        "kinds": TABLE.kinds,
        "scores": {},
        "interval_coverage": 0.9,
    }
    example = TABLE.coding.rows([[*TABLE.example.values()]])
    model = Model(predict, "dummy", metadata, example, reference=example)
    return tried(model, Version("dummy", "none", None), "dummy")


def tried(model: Model, version: Version, source: Source) -> Champion:
    """Return the model as a champion after it has predicted its own example.

    Raises
    ------
    ValueError
        A prediction has the wrong shape, is not finite or lies outside its interval, or the metadata lack a part.
    """
    values, low, high, _ = model.predict(model.example)
    expected = (len(model.example),)
    if not values.shape == low.shape == high.shape == expected:
        raise ValueError(f"its answers have the shapes {values.shape}, {low.shape}, {high.shape}, not {expected}")
    if not np.isfinite([values, low, high]).all():
        raise ValueError("it predicts values that are not finite for its own example")
    if not ((low <= values) & (values <= high)).all():
        raise ValueError("its predictions lie outside of their intervals")
    metadata = _metadata(model.metadata)
    ordered = [column.name for column in TABLE.features if column.is_ordered]
    if missing := [name for name in ordered if name not in metadata.training_range]:
        raise ValueError(f"its metadata have no training_range of {', '.join(missing)}")
    return Champion(
        **asdict(version),
        source=source,
        metadata=metadata,
        engine=model.engine,
        predict=model.predict,
        known=tuple(_known(column, metadata) for column in TABLE.features),
        far_km=(metadata.limits.far_km if metadata.limits else None) or math.inf,
        reference=model.reference,
        insight=model.insight,
    )


def _known(column: Column, metadata: Metadata) -> Known:
    if column.is_ordered:
        return metadata.training_range[column.name]
    levels = metadata.kinds.get(column.name, {}).get("categories")
    return frozenset(levels) if levels is not None and column.type == "string" else None


def _warning(value: Value, known: Known, column: Column) -> str | None:
    """Return what is unusual about a value, None if nothing is."""
    if known is None:
        return None
    if isinstance(known, frozenset):
        return None if value in known else f"{column.name} {value!r} is none of the levels in the training data"
    number = days_of(value) if isinstance(value, str) else float(value or 0)
    low, high = known
    if low <= number <= high:
        return None
    written = column.written
    return f"{column.name} {written(number)} is outside the training range {written(low)} to {written(high)}"


def _metadata(described: Mapping[str, Any]) -> Metadata:
    try:
        return Metadata.model_validate(described)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"its metadata cannot be used: {where}: {first['msg']}") from None


def _brief(error: BaseException) -> str:
    """Return the first line of an error, without the pages that some clients add."""
    line = str(error).strip().partition(os.linesep)[0] or type(error).__name__
    return line if len(line) <= 200 else line[:200] + "…"
