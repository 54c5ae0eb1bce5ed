from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from scenarios.simulate import RISE, Answer, Houses, Story, draw, obstacle
from tableloop.table import FEATURES, TARGET

PLACES = {"San Francisco": (37.77, -122.45), "Los Angeles": (34.0, -118.4), "Fresno": (36.75, -119.77)}


@pytest.fixture
def houses() -> Houses:
    """Return forty houses in each of three towns, each of another income."""
    rows = [
        {column.name: column.example for column in FEATURES}
        | {"MedInc": 1 + number / 10, "Latitude": north, "Longitude": east, TARGET.name: 2.0}
        for number in range(40)
        for north, east in PLACES.values()
    ]
    return Houses(pd.DataFrame(rows))


def test_prices_rise_by_the_sea_only(houses: Houses) -> None:
    asked = [houses.next(changed=True) for _ in range(200)]
    values = {(features[6], features[7]): value for features, value in asked}
    assert values == {
        PLACES["San Francisco"]: 2.0 * RISE, PLACES["Los Angeles"]: 2.0 * RISE, PLACES["Fresno"]: 2.0,
    }  # fmt: skip
    assert sum(features[6] == PLACES["Los Angeles"][0] for features, _ in asked) > 110
    assert {value for _, value in (houses.next(changed=False) for _ in range(50))} == {2.0}


def test_after_the_promotion_only_new_rows_are_asked_about(houses: Houses) -> None:
    before = {tuple(houses.next(changed=changed)[0]) for changed in [True, False] * 200}
    houses.only_new()
    after = {tuple(houses.next(changed=changed)[0]) for changed in [True, False] * 200}
    assert len(after) == 30
    assert not before & after


def test_the_live_error_is_of_one_version_since_a_moment() -> None:
    story = Story(answers=[Answer(1.0, "1", 3.0, True), Answer(2.0, "1", 4.0, False), Answer(3.0, "2", 9.0, True)])
    assert story.live("1") == pytest.approx((math.sqrt(12.5), 0.5, 2))
    assert story.live("1", since=1.5) == pytest.approx((4.0, 0.0, 1))
    assert math.isnan(story.live("3")[0])


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ({}, ""),
        ({"retrain_on_drift": True, "pauses_until": None}, ""),
        ({"retrain_on_drift": False}, "start the appliance with RETRAIN_ON_DRIFT=on"),
        ({"pauses_until": "2020-01-01T01:00:00+00:00"}, "pauses until 01:00 UTC, 55 minutes from now"),
        ({"pauses_until": "2020-01-01T00:05:30+00:00"}, ""),
    ],
)
def test_a_story_that_cannot_end_well_is_not_begun(monitor: dict[str, object], words: str) -> None:
    said = obstacle({"monitor": monitor}, 1_577_837_100.0)  # five past midnight
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize("scenario", ["drift", "burst"])
def test_a_picture_is_drawn_of_every_story(scenario: str, tmp_path: Path) -> None:
    answers = [Answer(at / 10, "1", 0.3, True) for at in range(300)]
    draw(Story(answers=answers, events=[(12.0, "drift")]), scenario, tmp_path / "story.png")
    assert (tmp_path / "story.png").stat().st_size > 10_000
