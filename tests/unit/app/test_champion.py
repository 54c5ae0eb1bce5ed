"""What a model must show before it serves, and what a champion says about a row."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.champion import FORGOTTEN_SECONDS, ChampionKeeper, Model, Version, dummy_champion, tried
from tableloop.model.intervals import Answers
from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.table import load_table

FEATURE_NAMES = load_table().feature_names
FEATURES = load_table().features

EXAMPLE = tuple(column.example for column in FEATURES)
VERSION = Version("3", "run", None)
METADATA = {"family": "x", "interval_coverage": 0.9, "training_range": dict.fromkeys(FEATURE_NAMES, (0.0, 1.0))}


def model(values: list[float], low: list[float], high: list[float]) -> Model:
    answers = Answers(np.array(values), np.array(low), np.array(high), None)
    return Model(lambda _rows: answers, "scikit-learn", METADATA, np.zeros((2, 8)))


def test_a_model_that_answers_for_its_example_serves() -> None:
    champion = tried(model([1, 2], [0, 1], [2, 3]), VERSION, "registry")
    assert (champion.version, champion.family, champion.coverage) == ("3", "x", 0.9)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (([1.0], [0.0], [2.0]), "shapes"),
        (([1.0, np.nan], [0.0, 1.0], [2.0, 3.0]), "not finite"),
        (([1.0, 2.0], [0.0, 1.0], [2.0, np.inf]), "not finite"),
        (([1.0, 2.0], [0.0, 2.5], [2.0, 3.0]), "outside of their intervals"),
    ],
)
def test_a_model_that_answers_wrongly_is_refused(answers: tuple[list[float], ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        tried(model(*answers), VERSION, "registry")


def test_a_model_without_its_training_range_is_refused() -> None:
    with pytest.raises(ValueError, match="training_range"):
        tried(replace(model([1, 2], [0, 1], [2, 3]), metadata={"interval_coverage": 0.9}), VERSION, "registry")


def test_each_feature_outside_its_range_has_a_warning() -> None:
    champion = replace(dummy_champion(), known=((0.0, 1.0),) * 8)
    assert champion.warnings((0.0, 1.0, 0.5, -0.1, 1.5, 0.0, 0.0, 0.0), None) == [
        "AveBedrms -0.1 is outside the training range 0 to 1",
        "Population 1.5 is outside the training range 0 to 1",
    ]


@pytest.mark.parametrize(("kilometres", "warned"), [(None, False), (5.0, False), (5.1, True)])
def test_a_place_far_from_all_training_places_has_a_warning(kilometres: float | None, warned: bool) -> None:
    champion = replace(dummy_champion(), far_km=5.0)
    lines = champion.warnings(EXAMPLE, kilometres)
    assert [line.startswith("nearest_training_km 5.1 is more than 5:") for line in lines] == [True] * warned


def test_the_distance_that_is_far_comes_with_the_model() -> None:
    known = replace(model([1, 2], [0, 1], [2, 3]), metadata=METADATA | {"limits": {"far_km": 3.5}})
    assert tried(known, VERSION, "registry").far_km == 3.5
    unknown = replace(known, metadata=METADATA | {"limits": {"far_km": None}})
    assert not tried(unknown, VERSION, "registry").warnings((0.5,) * 8, 10_000.0)


def unnoted(_version: Version, _event: str, _detail: str) -> None:
    """Note nothing."""


class SlowRegistry:
    """Has one version, which is a file; a download goes on until all who share the barrier are at it."""

    def __init__(self, together: threading.Barrier) -> None:
        self._together = together

    def find(self) -> Version:
        return VERSION

    def download(self, version: str, directory: Path) -> None:
        (directory / "model").write_text(version)
        self._together.wait(10)

    def load(self, directory: Path, version: Version, *, trial: bool) -> Model:
        assert (directory / "model").read_text() == version.version
        assert trial
        return model([1, 2], [0, 1], [2, 3])


def test_processes_that_share_a_directory_do_not_disturb_each_other(tmp_path: Path) -> None:
    forgotten = tmp_path / ".incoming-v2-killed"
    forgotten.mkdir()
    os.utime(forgotten, (0, FORGOTTEN_SECONDS))
    (tmp_path / "v2").mkdir()
    together = threading.Barrier(3)
    keepers = [ChampionKeeper(SlowRegistry(together), tmp_path, 5, "Model@Alias", unnoted) for _ in range(3)]
    threads = [threading.Thread(target=keeper.poll) for keeper in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [keeper.current and keeper.current.version for keeper in keepers] == ["3", "3", "3"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["current.json", "v3"]
    assert json.loads((tmp_path / "current.json").read_text())["directory"] == "v3"
    assert (tmp_path / "v3" / "model").exists()


class ChangingRegistry:
    """Names the version that the test wants; one called "broken" does not load."""

    wanted = "1"

    def find(self) -> Version:
        return Version(self.wanted, f"run {self.wanted}", None)

    def download(self, version: str, directory: Path) -> None:
        (directory / "model").write_text(version)

    def load(self, directory: Path, version: Version, *, trial: bool) -> Model:
        if (directory / "model").read_text() == "broken":
            raise ValueError("it is broken")
        return model([1, 2], [0, 1], [2, 3])


def test_the_store_knows_what_serves_and_what_was_refused(tmp_path: Path, place: Path | str) -> None:
    store = Store(place, FEATURE_NAMES)

    def record(version: Version, event: str, detail: str) -> None:
        store.record_serving("Model", version.version, version.run_id, event, detail)

    registry = ChangingRegistry()
    keeper = ChampionKeeper(registry, tmp_path / "champion", 0.001, "Model@Alias", record)
    keeper.poll()
    registry.wanted = "broken"
    for _ in range(3):
        keeper.poll()
        time.sleep(0.01)
    told = [(event.version, event.event, event.detail) for event in store.serving_history("Model", 10)]
    assert told == [("broken", "refused", "it is broken"), ("1", "serves", "")]
    champion = store.serving_champion("Model")
    assert champion is not None
    assert (champion.version, champion.run_id) == ("1", "run 1")


def test_a_store_that_cannot_be_written_stops_nobody_from_serving(tmp_path: Path) -> None:
    def record(_version: Version, _event: str, _detail: str) -> None:
        raise StoreError("disk full")

    keeper = ChampionKeeper(ChangingRegistry(), tmp_path, 5, "Model@Alias", record)
    keeper.poll()
    assert keeper.current is not None
