"""Rows put into groups: none is lost, none counted twice."""

from __future__ import annotations

import numpy as np
import pytest

from tableloop.evaluation.error_breakdown import Answered, by_band, by_quantile, by_region
from tableloop.table import load_table

PLACES = {
    "San Francisco Bay": (37.77, -122.45),
    "Los Angeles, Orange": (34.05, -118.25),
    "San Diego": (32.75, -117.1),
    "Central Valley": (36.75, -119.8),
    "elsewhere": (40.8, -124.1),
}


@pytest.fixture
def answered() -> Answered:
    rows = np.zeros((5, 8))
    rows[:, 6:] = list(PLACES.values())
    actual = np.array([0.5, 1.0, 2.5, 4.0, 5.00001])
    predicted = actual + np.array([0.1, 0.2, -0.3, 0.4, -1.0])
    return Answered(rows, actual, predicted, predicted - 0.35, predicted + 0.35)


def test_each_town_is_in_its_region(answered: Answered) -> None:
    groups = by_region(answered, load_table())
    assert [group.name for group in groups] == list(PLACES)
    assert [group.rmse for group in groups] == pytest.approx([0.1, 0.2, 0.3, 0.4, 1.0])
    assert [group.coverage for group in groups] == [1, 1, 1, 0, 0]


def test_prices_are_in_bands_with_their_bias(answered: Answered) -> None:
    groups = by_band(answered, load_table())
    assert [group.name for group in groups] == [
        "below 100,000", "100,000 to 200,000", "200,000 to 300,000", "300,000 to 500,000", "500,000 and more",
    ]  # fmt: skip
    assert [group.bias for group in groups] == pytest.approx([0.1, 0.2, -0.3, 0.4, -1.0])


def test_groups_of_the_same_size_hold_every_row_once(answered: Answered) -> None:
    groups = by_quantile(answered, 2)
    assert [(group.name, group.rows) for group in groups] == [("1 of 2", 3), ("2 of 2", 2)]
    assert groups[1].rmse == pytest.approx(np.sqrt((0.4**2 + 1.0) / 2))
