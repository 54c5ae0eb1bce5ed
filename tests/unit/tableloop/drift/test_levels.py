"""Drift of counts by level: against scipy, with known answers, and how often chance alone is called significant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency, fisher_exact

from tableloop.drift.levels import (
    change_of_levels,
    homogeneity,
    level_names,
    share_change,
    stability,
    stability_of_levels,
    with_unknown,
)
from tableloop.model.coding import Coding, Kinds

KINDS: Kinds = {"smoker": {"type": "string", "categories": ["no", "yes"]}, "married": {"type": "boolean"}}


def test_levels_that_suffice_are_compared_by_the_chi_squared_test() -> None:
    before, now = np.array([800.0, 150.0, 50.0]), np.array([350.0, 110.0, 40.0])
    assert homogeneity(before, now) == pytest.approx(chi2_contingency([before, now], correction=False).pvalue)


def test_two_levels_are_compared_exactly() -> None:
    before, now = np.array([900.0, 100.0]), np.array([430.0, 70.0])
    assert homogeneity(before, now) == pytest.approx(fisher_exact([[900, 100], [430, 70]]).pvalue)


def test_rare_levels_are_together_until_enough_are_expected() -> None:
    before, now = np.array([900.0, 60.0, 40.0, *[6.0] * 10]), np.array([400.0, 50.0, 30.0, *[2.0] * 10])
    together = [[900.0, 60.0, 40.0, *[12.0] * 5], [400.0, 50.0, 30.0, *[4.0] * 5]]  # 2.6 expected of each, 5.1 of two
    assert homogeneity(before, now) == pytest.approx(chi2_contingency(together, correction=False).pvalue)


def test_a_level_of_which_too_few_are_expected_is_compared_exactly() -> None:
    exact = fisher_exact([[1000, 0], [497, 3]]).pvalue
    common = chi2_contingency([[700.0, 200.0, 100.0], [350.0, 97.0, 50.0]], correction=False).pvalue
    p_value = homogeneity(np.array([700.0, 200.0, 100.0, 0.0]), np.array([350.0, 97.0, 50.0, 3.0]))
    assert p_value == pytest.approx(2 * min(exact, common))


def test_what_is_as_it_was_or_has_one_level_is_no_change() -> None:
    assert homogeneity(np.array([1000.0, 0.0]), np.array([500.0, 0.0])) == 1.0
    assert homogeneity(np.array([1000.0, 500.0]), np.array([200.0, 100.0])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "shares",
    [[0.97, 0.03], [0.7, 0.2, 0.0999, 0.0001], [0.5, 0.49, 0.002, 0.002, 0.002, 0.002, 0.002], [1 / 300] * 300],
    ids=["missing or not", "a level that is hardly there", "some rare levels", "only rare levels"],
)
def test_chance_alone_is_significant_as_often_as_alpha_says(shares: list[float]) -> None:
    rng, windows, alpha = np.random.default_rng(0), 2000, 0.01
    found = sum(
        homogeneity(*(rng.multinomial(rows, shares).astype(float) for rows in (4000, 1000))) < alpha
        for _ in range(windows)
    )
    assert found / windows <= alpha + 2.5 * np.sqrt(alpha / windows)


def test_the_stability_index_of_levels_takes_only_rare_ones_together() -> None:
    before, now = np.array([900.0, 6.0, 6.0, 88.0, 0.0]), np.array([380.0, 2.0, 2.0, 16.0, 100.0])
    expected = stability(np.array([900.0, 12.0, 88.0, 0.0]), np.array([380.0, 4.0, 16.0, 100.0]))
    assert stability_of_levels(before, now, apart=2) == pytest.approx(expected)
    assert stability_of_levels(before, before, apart=2) == 0


def test_levels_have_names() -> None:
    assert level_names("smoker", KINDS) == ["no", "yes", "unknown"]
    assert level_names("married", KINDS) == ["false", "true"]
    assert level_names("age", KINDS) == []


def test_an_unknown_level_is_a_level_and_a_missing_one_is_missing() -> None:
    coding = Coding(("age", "smoker"), KINDS)
    values: list[list[Any]] = [[30.0, "yes"], [None, "sometimes"], [31.0, None]]
    given = np.array([[value is not None for value in row] for row in values])
    np.testing.assert_array_equal(
        with_unknown(coding.rows(values), given, coding), [[30, 1], [np.nan, 2], [31, np.nan]]
    )


def test_the_levels_that_changed_most_are_named_in_words() -> None:
    two = change_of_levels(["no", "yes", "unknown"], np.array([0.79, 0.21, 0]), np.array([0.52, 0.48, 0]))
    assert two == "yes 21 % → 48 %"
    three = change_of_levels(["a", "b", "c"], np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.31, 0.49]))
    assert three == "a 50 % → 20 %, c 20 % → 49 %"
    assert share_change("missing", 0.0, 0.004) == "missing 0 % → 0.4 %"
