from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from tableloop.model.price_index import PriceIndex, _groups
from tableloop.model.spatial import SpatialFeatures
from tests.unit.tableloop.model.test_spatial import COLUMNS, PLACE

Matrix = npt.NDArray[np.float64]


def market(rows: int, seed: int) -> tuple[Matrix, Matrix]:
    """Return rows over ten degrees, their values a smooth function of place and income."""
    random = np.random.default_rng(seed)
    X = np.column_stack(
        [
            random.uniform(1, 8, rows), random.uniform(1, 50, rows), random.uniform(3, 8, rows), np.ones(rows),
            random.uniform(200, 2000, rows), random.uniform(2, 4, rows), random.uniform(33, 41, rows),
            random.uniform(-123, -116, rows),
        ]
    )  # fmt: skip
    y = 0.3 * X[:, 0] + 0.3 * np.sin(X[:, 6]) + 1.0 + random.normal(0, 0.05, rows)
    return X, y


def fitted(X: Matrix, y: Matrix, batch: npt.NDArray[np.int64]) -> Matrix:
    kriging = SpatialFeatures(COLUMNS, PLACE, middle_latitude=36.0)
    return PriceIndex(kriging, half_life=1000, least=50, lowest_value=0.05).fit(X, y, batch).renew(X, y, batch)


def test_old_values_follow_a_market_that_rose_in_one_part() -> None:
    X, y = market(900, seed=0)
    batch = np.repeat([0, 1], [600, 300])
    risen = (batch == 1) & (X[:, 6] < 36)
    carried = fitted(X, np.where(risen, 1.5 * y, y), batch)
    old = batch == 0
    change = carried / y
    assert np.median(change[old & (X[:, 6] < 35.5)]) == pytest.approx(1.5, abs=0.08)
    assert np.median(change[old & (X[:, 6] > 36.5)]) == pytest.approx(1.0, abs=0.04)
    np.testing.assert_array_equal(carried[~old], np.where(risen, 1.5 * y, y)[~old])


@pytest.mark.parametrize("lowest_value", [0.05, None])
def test_without_a_place_old_values_follow_those_alike(lowest_value: float | None) -> None:
    X, y = market(900, seed=0)
    y = y if lowest_value else y - 3.0  # of both signs
    batch = np.repeat([0, 1], [600, 300])
    risen = (batch == 1) & (X[:, 6] < 36)
    now = np.where(risen, 1.5 * y if lowest_value else y + 1.0, y)
    index = PriceIndex(HistGradientBoostingRegressor(random_state=0), 1000, 50, lowest_value)
    carried = index.fit(X, now, batch).renew(X, now, batch)
    change = carried / y if lowest_value else carried - y
    old = batch == 0
    moved, same = (1.5, 1.0) if lowest_value else (1.0, 0.0)
    assert np.median(change[old & (X[:, 6] < 35.5)]) == pytest.approx(moved, abs=0.12)
    assert np.median(change[old & (X[:, 6] > 36.5)]) == pytest.approx(same, abs=0.06)


def test_where_nothing_has_changed_values_stay() -> None:
    X, y = market(900, seed=1)
    batch = np.repeat([0, 1], [600, 300])
    assert np.abs(np.log(fitted(X, y, batch) / y)).mean() < 0.02


def test_every_batch_carries_what_is_older() -> None:
    X, y = market(900, seed=2)
    batch = np.repeat([0, 1, 2], [500, 200, 200])
    level = np.array([1.0, 1.5, 3.0])[batch]
    change = fitted(X, level * y, batch) / (level * y)
    assert [np.median(change[batch == number]) for number in (0, 1, 2)] == pytest.approx([3.0, 2.0, 1.0], rel=0.1)


def test_small_batches_are_one_step_and_too_few_labels_none() -> None:
    assert _groups(np.repeat([0, 1], [500, 49]), 50) == []
    assert _groups(np.repeat([0, 1, 2, 3], [500, 20, 40, 60]), 50) == [(1, 2), (3, 3)]
    assert _groups(np.repeat([0, 1, 2], [500, 60, 20]), 50) == [(1, 2)]
    steps = _groups(np.repeat(np.arange(21), 50), 50)
    assert len(steps) == 6
    assert steps[0] == (1, 15)
    assert steps[-1] == (20, 20)


def test_without_labels_nothing_is_touched() -> None:
    X, y = market(100, seed=3)
    np.testing.assert_array_equal(fitted(X, y, np.zeros(100, dtype=np.int64)), y)
