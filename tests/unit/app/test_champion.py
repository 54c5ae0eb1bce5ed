"""What a model must show before it serves, and what a champion says about a row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.champion import Model, Version, dummy_champion, tried
from pipeline.schema import FEATURE_NAMES

VERSION = Version("3", "run", None)
METADATA = {"family": "x", "interval_coverage": 0.9, "training_range": dict.fromkeys(FEATURE_NAMES, (0.0, 1.0))}


def model(values: list[float], low: list[float], high: list[float]) -> Model:
    answers = (np.array(values), np.array(low), np.array(high))
    return Model(lambda _rows: answers, METADATA, np.zeros((2, 8)))


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
    champion = replace(dummy_champion(), training_range=((0.0, 1.0),) * 8)
    assert champion.warnings((0.0, 1.0, 0.5, -0.1, 1.5, 0.0, 0.0, 0.0)) == [
        "AveBedrms -0.1 is outside the training range 0 to 1",
        "Population 1.5 is outside the training range 0 to 1",
    ]
