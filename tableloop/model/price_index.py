"""Carry old values to the level of new labels, as an appraiser does with old sales before comparing them.

Old and new rows may disagree: the market has moved, and neighbours' old values say nothing of the level of now.
`python -m bench.retraining` compares what can be done about it. With prices near the sea up by a half and 500 labels,
the RMSE is 1.08 with all rows as they are and 1.00 with old rows that weigh a thirtieth, as the few new ones do not
cover the state. It is 0.75 with the labels alone: without what is still true of old rows, that a view, a larger
house, a richer street cost more. Carried forward by an index learnt from the labels, they keep it: 0.59. In a market
that has not changed nothing is lost, 0.361 each way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_predict

from tableloop.model.spatial import SpatialFeatures

Matrix = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

FOLDS = 3
# Of the logarithm, from the median change: a row that is unlike its neighbours must not move the values around it.
LARGEST_DEVIATION = 0.5
LARGEST_DIFFERENCE = 3.0  # times the middle half of the differences, in the same way
MOST_KNOWN = 50_000  # older rows that the estimate learns from
MOST_LEFT_OUT = 3000  # older rows, to learn what the kriging gets wrong by itself
MOST_STEPS = 6  # older batches are one step together, so that years of batches cost no more than six


class PriceIndex:
    """How much dearer each row has become from batch to batch.

    A step, from all older rows to a batch, is a regression of log(value / estimate from older rows) of the batch's
    rows, less what the same regression says of older rows that were left out: what the estimate gets wrong by itself
    is no change of prices. Where values may be zero or less, differences stand for the ratios. Newer labels of the
    batch weigh more. The step is shrunk by how much of it holds in cross-validation, so where nothing has changed it
    is nearly nothing.

    Parameters
    ----------
    estimator
        Unfitted: the kriging, whose last feature is the estimate, or any regressor of the value.
    half_life
        A label that so many newer ones of its batch follow weighs half as much as the newest.
    least
        Batches with fewer rows are one step with the next.
    lowest_value
        Lower values and estimates count as this one, as the ratio to a value near zero says nothing; None where
        there are no ratios.
    """

    def __init__(self, estimator: Any, half_life: float, least: int, lowest_value: float | None) -> None:
        self._estimator = estimator
        self._lowest_value = lowest_value
        self._half_life = half_life
        self._least = least
        self._steps: list[tuple[int, _Step]] = []

    def fit(self, X: Matrix, y: Matrix, batch: Numbers) -> PriceIndex:
        """Learn from rows (n, columns), values (n,) and batch numbers (n,), 0 for the rows that are no labels.

        The rows of a batch come in the order of time.
        """
        self._steps = []
        for first, last in _groups(batch, self._least):
            older, newer = batch < first, (batch >= first) & (batch <= last)
            step = _Step(self._estimator, self._half_life, self._lowest_value)
            step.fit(X[older], self.renew(X[older], y[older], batch[older]), X[newer], y[newer])
            self._steps.append((first, step))
        return self

    def renew(self, X: Matrix, y: Matrix, batch: Numbers) -> Matrix:
        """Return the values in prices of the newest batch, shape (n,)."""
        values = y.copy()
        for first, step in self._steps:
            older = batch < first
            if older.any():
                values[older] = step.renewed(X[older], values[older])
        return values


class _Step:
    """The change of values, or of their logarithm, between older rows and a batch."""

    def __init__(self, estimator: Any, half_life: float, lowest_value: float | None) -> None:
        self._estimator = clone(estimator)
        self._half_life = half_life
        self._lowest_value = lowest_value

    def fit(self, X_old: Matrix, y_old: Matrix, X_new: Matrix, y_new: Matrix) -> None:
        order = np.random.default_rng(0).permutation(len(y_old))
        left_out, kept = np.split(order, [min(MOST_LEFT_OUT, len(y_old) // 5)])
        kept = kept[:MOST_KNOWN]
        self._estimator.fit(X_old[kept], y_old[kept])
        before = _model().fit(self._inputs(X_old[left_out]), self._deviation(X_old[left_out], y_old[left_out]))
        inputs = self._inputs(X_new)
        change = self._deviation(X_new, y_new) - before.predict(inputs)
        weight = 0.5 ** (np.arange(len(change))[::-1] / self._half_life)
        predicted = cross_val_predict(
            _model(), inputs, change, cv=KFold(FOLDS, shuffle=True, random_state=0), params={"sample_weight": weight}
        )
        # The factor with the smallest squared error on rows that were left out.
        explained, own = float(weight @ (predicted * change)), float(weight @ predicted**2)
        self._share = min(1.0, max(0.0, explained / own)) if own > 0 else 0.0
        self._model = _model().fit(inputs, change, sample_weight=weight)

    def renewed(self, X: Matrix, y: Matrix) -> Matrix:
        """Return values of older rows as the batch would have them."""
        change = self._share * np.asarray(self._model.predict(self._inputs(X)), dtype=np.float64)
        return y + change if self._lowest_value is None else y * np.exp(change)

    def _inputs(self, X: Matrix) -> Matrix:
        """Return the rows, those with a place with it along two turned axes."""
        if not isinstance(self._estimator, SpatialFeatures):
            return X
        where: Matrix = self._estimator.places(X)
        return np.column_stack([X, where.sum(axis=1), where[:, 0] - where[:, 1]])

    def _deviation(self, X: Matrix, y: Matrix) -> Matrix:
        """Return log(value / estimate), or value - estimate, shape (n,)."""
        if isinstance(self._estimator, SpatialFeatures):
            expected = self._estimator.transform(X)[:, -1].astype(np.float64)
        else:
            expected = np.asarray(self._estimator.predict(X), dtype=np.float64)
        if self._lowest_value is None:
            change = y - expected
            low, middle, high = np.quantile(change, [0.25, 0.5, 0.75])
            largest = LARGEST_DIFFERENCE * (high - low)
        else:
            change = np.log(np.maximum(y, self._lowest_value) / np.maximum(expected, self._lowest_value))
            middle, largest = np.median(change), LARGEST_DEVIATION
        return np.clip(change, middle - largest, middle + largest)


def _groups(batch: Numbers, least: int) -> list[tuple[int, int]]:
    """Return the first and last batch of each step, the oldest first."""
    numbers, counts = np.unique(batch[batch > 0], return_counts=True)
    groups: list[tuple[int, int]] = []
    size = 0
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        if groups and size < least:
            groups[-1] = (groups[-1][0], number)
            size += count
        else:
            groups.append((number, number))
            size = count
    if size < least and len(groups) > 1:
        (first, _), (_, last) = groups[-2:]
        groups[-2:] = [(first, last)]
    elif size < least:
        return []  # too few to say anything
    if len(groups) > MOST_STEPS:
        early = len(groups) - MOST_STEPS + 1
        groups[:early] = [(groups[0][0], groups[early - 1][1])]
    return groups


def _model() -> Any:
    return HistGradientBoostingRegressor(
        max_iter=60,
        learning_rate=0.1,
        max_leaf_nodes=8,
        max_bins=31,  # with weights, scikit-learn takes longer to find 255 of them than for all the rest
        min_samples_leaf=20,
        l2_regularization=10.0,
        early_stopping=False,
        random_state=0,
    )
