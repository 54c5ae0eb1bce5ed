"""Stories of any table: those that `table.yaml` tells, and the one that is made from the data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.drift_check import load_policy
from pipeline.preprocess import split
from scenarios.market import Market
from scenarios.story import concerned_rows
from tableloop.drift.statistics import compare, make_reference
from tableloop.table import Table

COUNT, POLICY = 400, load_policy()


def table(story: dict[str, Any] | None = None, **target: Any) -> Table:
    optional = {"required": False}
    fields: list[dict[str, Any]] = [
        {"name": "age", "type": "integer", "example": 30, "constraints": {"minimum": 0, "maximum": 120} | optional},
        {"name": "smoker", "type": "string", "categories": ["no", "yes"], "example": "no"},
        {"name": "married", "type": "boolean", "example": True},
        {
            "name": "seen",
            "type": "date",
            "example": "2013-05-06",
            "constraints": {"minimum": "2010-01-01", "maximum": "2020-01-01"},
        },
        {
            "name": "charges",
            "unit": "$",
            "example": 100,
            "constraints": {"minimum": 0, "maximum": 100_000},
        }
        | target,
    ]
    content = {"name": "people", "path": "raw/people.csv", "target": "charges", "rows": "people", "fields": fields}
    return Table.model_validate(content | ({"story": story} if story else {}))


@pytest.fixture
def rows() -> pd.DataFrame:
    """Return people of whom smokers pay most, and the old more than the young."""
    rng = np.random.default_rng(0)
    age = rng.integers(18, 65, COUNT).astype(float)
    smoker = rng.random(COUNT) < 0.3
    return pd.DataFrame(
        {
            "age": np.where(rng.random(COUNT) < 0.1, np.nan, age),
            "smoker": np.where(smoker, "yes", "no"),
            "married": pd.array(rng.random(COUNT) < 0.5, dtype="boolean"),
            "seen": (np.datetime64("2012-01-01") + rng.integers(0, 1000, COUNT)).astype(str),
            "charges": 1000 + 20 * age + 5000 * smoker,
        }
    )


def test_what_is_asked_about_is_json(rows: pd.DataFrame) -> None:
    market = Market(rows, table())
    (asked, value, *_), *others = (market.next(changed=False) for _ in range(300))
    assert json.loads(json.dumps(asked)) == asked
    assert [type(part) for part in asked[1:]] == [str, bool, str]
    assert value > 1000
    assert None in {features[0] for features, *_ in others}


def test_without_a_story_the_most_important_input_moves_and_the_values_with_it(rows: pd.DataFrame) -> None:
    market = Market(rows, table())
    assert market.story.where == {"smoker": ("yes",)}
    assert market.story.title == "70 % of the questions are about people with smoker yes, their charges up by 50 %"
    asked = [market.next(changed=True) for _ in range(400)]
    smokers = [value for features, value, *_ in asked if features[1] == "yes"]
    assert 240 < len(smokers) < 320
    assert min(smokers) >= 1.5 * 6000
    assert max(value for features, value, *_ in asked if features[1] == "no") < 3000


def test_a_boolean_may_be_what_moves(rows: pd.DataFrame) -> None:
    rows["charges"] = 100 + 50 * ~rows["married"].astype(bool)
    assert Market(rows, table()).story.where == {"married": (False,)}


def test_rows_that_are_asked_about_at_random_are_no_drift_of_a_small_table_in_the_order_of_time(
    rows: pd.DataFrame,
) -> None:
    rows = rows.assign(seen=sorted(rows["seen"]))
    people = table()
    parts = split(rows, people.feature_names, 0.2, 0.2)
    fitted = pd.concat([parts["train"], parts["validation"]])
    reference = make_reference(
        people.coding.frame(fitted),
        parts["test"]["charges"].to_numpy(),
        1.0,
        columns=people.feature_names,
        kinds=people.kinds,
    )
    market = Market(parts["test"], people, fitted)
    asked, values, *_ = zip(*(market.next(changed=False) for _ in range(POLICY.window)), strict=True)
    report = compare(reference, people.coding.rows(asked), np.array(values), POLICY, people)
    assert (report["status"], report["summary"]) == ("no drift", "nothing moved")


def test_values_of_either_sign_move_by_a_sum_and_whole_numbers_stay_whole(rows: pd.DataFrame) -> None:
    signed = table(type="integer", constraints={"minimum": -100_000, "maximum": 100_000})
    market = Market(rows.assign(charges=rows["charges"] - 5000), signed)
    assert market.story.plus > 0
    assert "up by 3" in market.story.title
    assert not (market.changed % 1).any()


def test_values_that_cannot_rise_fall(rows: pd.DataFrame) -> None:
    market = Market(rows, table(constraints={"minimum": 0, "maximum": 7600}))
    assert market.story.factor == pytest.approx(1 / 1.5)
    assert "down by 33 %" in market.story.title


def test_two_inputs_that_explain_the_values_move_together(rows: pd.DataFrame) -> None:
    days = (pd.to_datetime(rows["seen"]) - pd.Timestamp("2012-01-01")).dt.days
    rows["charges"] = 6000 + 100 * rows["age"].fillna(40) - 5 * days
    market = Market(rows, table())
    assert sorted(market.story.where) == ["age", "seen"]
    low, high = market.story.where["seen"]
    assert low == "2010-01-01"
    assert f"age from {market.story.where['age'][0]:.4g} on" in market.story.title
    assert f"seen up to {high}" in market.story.title


def test_values_that_nothing_explains_all_move(rows: pd.DataFrame) -> None:
    market = Market(rows.assign(charges=100.0), table())
    assert market.story.where == {}
    assert set(market.changed) == {150.0}


def test_a_story_says_which_rows_it_is_about(rows: pd.DataFrame) -> None:
    told = table(
        {
            "title": "later",
            "where": {"seen": ["2013-01-01", "2014-01-01"], "married": [True]},
            "plus": 10,
            "share": 0.5,
        }
    )
    assert told.story
    concerned = concerned_rows(told.coding.frame(rows), told.story, told)
    within = (rows["seen"] >= "2013-01-01") & (rows["seen"] <= "2014-01-01") & rows["married"].astype(bool)
    np.testing.assert_array_equal(concerned, within)
    assert 0 < concerned.sum() < COUNT


@pytest.mark.parametrize(
    ("story", "problem"),
    [
        ({}, "where or line must say"),
        ({"where": {"height": [1, 2]}}, "there is no feature 'height'"),
        ({"where": {"smoker": ["sometimes"]}}, "there is no level 'sometimes'"),
        ({"where": {"age": [30]}}, "a least and a greatest value"),
        ({"where": {"seen": ["2013", "soon"]}}, "no date like"),
        ({"line": [[1, 2], [3, 4]], "kilometres": 3}, "without a place"),
        ({"where": {"age": [30, 40]}, "share": 1}, "less than 1"),
    ],
)
def test_a_story_that_cannot_be_told_is_refused(story: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        table({"title": "a story"} | story)
