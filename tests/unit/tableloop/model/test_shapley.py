"""Shapley values: what they promise, and that they are those of a sum over all orders and of the package shap."""

from __future__ import annotations

import os
import sys
import warnings
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pytest

from tableloop.model.shapley import (
    BACKGROUND_ROWS,
    LEAST_BACKGROUND_ROWS,
    Predict,
    background_rows,
    representative,
    shapley_values,
)

Matrix = npt.NDArray[np.float64]
RANDOM = np.random.default_rng(5)
BACKGROUND = RANDOM.normal(size=(40, 5))
ROWS = RANDOM.normal(size=(50, 5))
ALONE = [(column,) for column in range(5)]
WIDE = RANDOM.normal(size=(40, 20))


def tangled(rows: Matrix) -> Matrix:
    """Return something with jumps, products and waves in which the last column has no part."""
    values: Matrix = rows[:, 0] * rows[:, 1] * rows[:, 2] + np.sin(3 * rows[:, 2]) * (rows[:, 0] > 0.3)
    return values + np.abs(rows[:, 3])


def of_all_orders(predict: Predict, row: Matrix, background: Matrix, players: list[tuple[int, ...]]) -> Matrix:
    """Return the Shapley values by their other definition: the mean over all orders in which players can join."""
    values = np.zeros(len(players))
    orders = [*permutations(range(len(players)))]
    for order in orders:
        rows = background.copy()
        before = predict(rows).mean()
        for player in order:
            rows[:, players[player]] = row[list(players[player])]
            after = predict(rows).mean()
            values[player] += after - before
            before = after
    return values / len(orders)


@pytest.mark.parametrize("players", [ALONE, [(0,), (3, 1), (2, 4)]], ids=["each column", "some together"])
def test_they_are_the_mean_over_all_orders(players: list[tuple[int, ...]]) -> None:
    for row in ROWS[:5]:
        found = shapley_values(tangled, row, BACKGROUND, players)
        assert found.errors is None
        np.testing.assert_allclose(found.values, of_all_orders(tangled, row, BACKGROUND, players), atol=1e-12)


def test_they_are_those_of_the_package_shap(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "darwin" and os.uname().machine == "x86_64":
        pytest.skip("NOT RUN: there is no shap for Macs with Intel processors")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes forty seconds, what is compiled a tenth of one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        from shap import explainers, maskers  # type: ignore[import-untyped,unused-ignore]

        theirs = explainers.Exact(tangled, maskers.Independent(BACKGROUND, max_samples=len(BACKGROUND)))(ROWS)
    for row, base, values in zip(ROWS, theirs.base_values, theirs.values, strict=True):
        ours = shapley_values(tangled, row, BACKGROUND, ALONE)
        np.testing.assert_allclose(ours.base, base, atol=1e-12)
        np.testing.assert_allclose(ours.values, values, atol=1e-12)


@pytest.mark.parametrize("columns", [5, 20], ids=["exact", "sampled"])
def test_they_add_up_and_a_column_without_a_part_gets_nothing(columns: int) -> None:
    background = WIDE[:, :columns]
    for row in RANDOM.normal(size=(5, columns)):
        found = shapley_values(tangled, row, background, [(column,) for column in range(columns)])
        assert found.prediction == tangled(row[None])[0]
        assert found.base == pytest.approx(tangled(background).mean(), abs=1e-12)
        assert found.base + found.values.sum() == pytest.approx(found.prediction, abs=1e-12)
        assert np.abs(found.values[4:]).max() < 1e-12


def test_players_that_do_the_same_get_the_same() -> None:
    background = BACKGROUND.copy()
    background[:, 1] = background[:, 0]
    row = ROWS[0].copy()
    row[1] = row[0]

    def alike(rows: Matrix) -> Matrix:
        values: Matrix = np.maximum(rows[:, 0] + rows[:, 1], 0.5) * rows[:, 2]
        return values

    values = shapley_values(alike, row, background, ALONE).values
    assert values[0] == pytest.approx(values[1], abs=1e-12)
    assert values[0] != 0


def test_sampled_ones_are_as_near_to_the_exact_ones_as_their_errors_say() -> None:
    # Of a sum of functions of a few columns each, the exact values are the sums of those of its parts.
    def model(rows: Matrix) -> Matrix:
        values: Matrix = tangled(rows[:, :5]) + tangled(rows[:, 5:10])
        return values

    off = []
    for row in RANDOM.normal(size=(20, 20)):
        found = shapley_values(model, row, WIDE, [(column,) for column in range(20)])
        halves = [shapley_values(tangled, row[part], WIDE[:, part], ALONE) for part in (slice(0, 5), slice(5, 10))]
        exact = np.concatenate([half.values for half in halves])
        assert found.errors is not None
        # Of two columns that have only each other, an order and its reverse are exact together.
        rough = found.errors[:10] > 1e-9
        off.append((found.values[:10] - exact)[rough] / found.errors[:10][rough])
    # Standard errors of a few orders for each background row are rough themselves.
    assert 0.7 < np.sqrt(np.mean(np.concatenate(off) ** 2)) < 1.3


def test_the_same_row_has_the_same_values_each_time() -> None:
    players = [(column,) for column in range(20)]
    first, second = (shapley_values(tangled, WIDE[0], WIDE, players).values.tolist() for _ in range(2))
    assert first == second


def test_missing_values_are_values() -> None:
    def known(rows: Matrix) -> Matrix:
        return np.where(np.isnan(rows[:, 0]), 7.0, 0.0) + rows[:, 1]

    row = ROWS[0].copy()
    row[0] = np.nan
    assert shapley_values(known, row, BACKGROUND, ALONE).values[0] == pytest.approx(7.0)


def test_a_wider_table_is_asked_against_fewer_rows() -> None:
    counts = [background_rows(players) for players in (1, 8, 20, 60, 500)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (BACKGROUND_ROWS, LEAST_BACKGROUND_ROWS)

    rows = 0

    def counting(asked: Matrix) -> Matrix:
        nonlocal rows
        rows += len(asked)
        return asked[:, 0]

    for players in (8, 20, 60):
        rows = 0
        row, background = np.ones(players), np.zeros((background_rows(players), players))
        shapley_values(counting, row, background, [(column,) for column in range(players)])
        assert rows < 11_000


def test_representative_rows_have_the_mean_and_the_spread_of_all() -> None:
    predictions = RANDOM.lognormal(size=2000)
    chosen = predictions[representative(predictions, 40)]
    assert len(chosen) == 40
    assert chosen.mean() == pytest.approx(predictions.mean(), rel=0.03)
    assert np.median(chosen) == pytest.approx(np.median(predictions), rel=0.05)
    assert representative(predictions[:3], 40).tolist() == np.argsort(predictions[:3]).tolist()
