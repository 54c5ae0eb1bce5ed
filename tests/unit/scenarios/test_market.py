from __future__ import annotations

import pandas as pd
import pytest

from scenarios.market import Market
from tableloop.table import load_table

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
    values = {(features[6], features[7]): value for features, value in asked}
    risen = 2.0 * TABLE.story.factor
    assert values == {PLACES["San Francisco"]: risen, PLACES["Los Angeles"]: risen, PLACES["Fresno"]: 2.0}
    assert sum(features[6] == PLACES["Los Angeles"][0] for features, _ in asked) > 110
    assert {value for _, value in (market.next(changed=False) for _ in range(50))} == {2.0}


def test_after_the_promotion_only_new_rows_are_asked_about(rows: pd.DataFrame) -> None:
    market = Market(rows, TABLE)
    before = {tuple(market.next(changed=changed)[0]) for changed in [True, False] * 200}
    market.only_new()
    after = {tuple(market.next(changed=changed)[0]) for changed in [True, False] * 200}
    assert len(after) == 30
    assert not before & after


def test_the_market_of_a_table_without_a_story_does_not_change(rows: pd.DataFrame) -> None:
    market = Market(rows, TABLE.model_copy(update={"story": None}))
    assert {value for _, value in (market.next(changed=True) for _ in range(50))} == {2.0}
