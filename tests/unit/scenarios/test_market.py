from __future__ import annotations

import pandas as pd
import pytest

from scenarios.market import Market
from tableloop.table import Story, load_table

TABLE = load_table()
PLACES = {"San Francisco": (37.77, -122.45), "Los Angeles": (34.0, -118.4), "Fresno": (36.75, -119.77)}


@pytest.fixture
def rows() -> pd.DataFrame:
    """Return forty block groups in each of three towns, each of another income."""
    return pd.DataFrame(
        TABLE.example | {"MedInc": 1 + number / 10, "Latitude": north, "Longitude": east, TABLE.target.name: 2.0}
        for number in range(40)
        for north, east in PLACES.values()
    )


def test_prices_rise_by_the_sea_only(rows: pd.DataFrame) -> None:
    assert TABLE.story
    market = Market(rows, TABLE)
    asked = [market.next(changed=True) for _ in range(200)]
    values = {(features[6], features[7]): value for features, value, *_ in asked}
    risen = 2.0 * TABLE.story.factor
    assert values == {PLACES["San Francisco"]: risen, PLACES["Los Angeles"]: risen, PLACES["Fresno"]: 2.0}
    assert sum(features[6] == PLACES["Los Angeles"][0] for features, *_ in asked) > 110
    assert {value for _, value, *_ in (market.next(changed=False) for _ in range(50))} == {2.0}


def test_a_mistaken_label_says_what_has_not_happened(rows: pd.DataFrame) -> None:
    assert TABLE.story
    market = Market(rows, TABLE)
    asked = [market.next(changed=False, mistaken=True) for _ in range(200)]
    assert {one.value for one in asked} == {2.0}
    assert {one.label for one in asked} == {2.0, 2.0 * TABLE.story.factor}
    assert {one.label for one in asked if one.features[6] == PLACES["Fresno"][0]} == {2.0}


def test_after_the_promotion_only_new_rows_are_asked_about(rows: pd.DataFrame) -> None:
    market = Market(rows, TABLE)
    before = {tuple(market.next(changed=changed)[0]) for changed in [True, False] * 200}
    market.only_new()
    after = {tuple(market.next(changed=changed)[0]) for changed in [True, False] * 200}
    assert len(after) == 30
    assert not before & after


def test_of_few_rows_all_others_are_asked_about_until_only_new_ones_are(rows: pd.DataFrame) -> None:
    more = rows.assign(Population=[float(number) for number in range(2, 2 + len(rows))])
    market = Market(rows, TABLE, more)
    before = {tuple(market.next(changed=False)[0]) for _ in range(210)}
    assert len(before) == 210  # no row twice
    market.only_new()
    after = {tuple(market.next(changed=False)[0]) for _ in range(60)}
    assert len(after) == 30
    assert not before & after


def test_a_story_without_other_rows_asks_about_all(rows: pd.DataFrame) -> None:
    story = Story(title="all", where={"MedInc": (0, 1000)}, factor=2)
    market = Market(rows, TABLE.model_copy(update={"story": story}))
    assert {value for _, value, *_ in (market.next(changed=True) for _ in range(50))} == {4.0}


def test_the_value_of_a_row_is_told_once_before_and_once_after_the_change(rows: pd.DataFrame) -> None:
    market = Market(rows, TABLE)
    for changed in (False, True):
        told = [first for *_, first in (market.next(changed=changed) for _ in range(1000))]
        assert sum(told) == len(rows) - int(0.25 * len(rows))
        assert told[0]
