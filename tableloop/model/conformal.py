"""Prediction intervals by normalised split-conformal prediction, stored with the model they belong to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import HistGradientBoostingRegressor, VotingRegressor
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from tableloop.model.coding import Coding, Kinds, Matrix
from tableloop.model.intervals import interval_ends
from tableloop.model.price_index import PriceIndex
from tableloop.model.spatial import SpatialFeatures

__all__ = ["ConformalRegressor", "Matrix", "as_matrix"]

FOLDS = 3  # of the estimator: two more halve the speed and change neither coverage nor width
SCALE_FOLDS = 5
MOST_RESIDUALS = 50_000  # more of them say no more of the width of intervals
LEAST_PART = 0.1
LEAST_LABELLED = 100  # with fewer, their own quantile says less than that of all rows

Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # as `map`
Numbers = npt.NDArray[np.int64]
Part = npt.NDArray[np.intp]


class ConformalRegressor(RegressorMixin, BaseEstimator):
    """A regressor that also says how wrong it may be.

    An interval is the prediction plus and minus ``factor_`` times the error that ``scale_`` expects of this row, cut
    off where no training value lies. ``factor_`` is the ceil((n + 1) * coverage)-th smallest quotient of absolute
    residual and expected error of n rows (Lei et al. 2018, "Distribution-Free Predictive Inference for Regression",
    sections 2.2 and 5.2). Every residual is of a row that the estimator was not fitted on, and every expected error
    of a row that ``scale_`` was not fitted on: it is cross-fitted.

    Parameters
    ----------
    estimator
        A regressor of arrays of shape (n, columns).
    columns
        The names of the columns, in their order; of a data frame these are taken, in this order.
    coverage
        The share of true values that the intervals are to hold.
    least_error
        No expected error counts as less, or a quotient of a residual could be of any size; in the target's unit.
        Without it, `LEAST_PART` of the median residual.
    kinds
        Of columns that are no plain numbers, as `tableloop.model.coding.Coding` takes them. Data frames hold values
        as people know them, arrays hold coded rows.
    """

    def __init__(
        self,
        estimator: Any,
        columns: Sequence[str],
        coverage: float = 0.9,
        least_error: float | None = None,
        kinds: Kinds | None = None,
    ) -> None:
        self.estimator = estimator
        self.columns = columns
        self.coverage = coverage
        self.least_error = least_error
        self.kinds = kinds

    def fit(self, X: pd.DataFrame | Matrix, y: npt.ArrayLike) -> ConformalRegressor:
        """Train the estimator on rows of shape (n, columns) and targets of shape (n,)."""
        targets = np.asarray(y, dtype=np.float64)
        return self.around(self.estimator.fit(self._coded(X), targets), targets)

    def calibrate(
        self, X: pd.DataFrame | Matrix, y: npt.ArrayLike, *, labelled: npt.NDArray[np.bool_] | None = None
    ) -> ConformalRegressor:
        """Learn the width of the intervals from rows that ``fit`` has not seen.

        Those ``labelled``, (n,), alone set the factor if there are `LEAST_LABELLED` of them.
        """
        deciding = labelled if labelled is not None and labelled.sum() >= LEAST_LABELLED else None
        self._learn_widths(*_predict(self.estimator, self._coded(X)), np.asarray(y, dtype=np.float64), deciding)
        return self

    def fit_calibrated(
        self,
        X: pd.DataFrame | Matrix,
        y: npt.ArrayLike,
        *,
        index: PriceIndex | None = None,
        batch: npt.ArrayLike | None = None,
        most_rows: int | None = None,
        run: Run = map,
    ) -> ConformalRegressor:
        """Train on all rows, and learn the width of the intervals from models of folds that left the row out.

        Those models know fewer rows than the final one, so their residuals are a little too large for it, and the
        intervals rather too wide than too narrow.

        With an ``index``, and the number of the ``batch`` of each row, values of older batches enter in prices of the
        newest one. The index too is learnt without the fold. As carried values are no observations, the labelled rows
        (batch 1 and later) alone set the factor of the intervals, if there are `LEAST_LABELLED` of them.

        Of more than ``most_rows`` rows, the intervals come from so many, the labelled ones first.

        ``run`` maps a function over the folds, and another over all rows. It may do so on other processes: the result
        is the same.
        """
        rows, targets = self._coded(X), np.asarray(y, dtype=np.float64)
        numbers = np.zeros(len(rows), dtype=np.int64) if batch is None else np.asarray(batch, dtype=np.int64)
        known = _Known(rows, targets, numbers)
        part = _drawn(numbers > 0, most_rows)
        splits = list(KFold(FOLDS, shuffle=True, random_state=0).split(part))
        folds = [(part[kept], part[left_out]) for kept, left_out in splits]
        of_folds = run(partial(_left_out, clone(self.estimator), known, index), folds)
        of_all = run(partial(_fitted, self.estimator, known), [index])
        values, present = np.empty(len(part)), np.empty(len(part))
        inputs: Matrix | None = None
        for (_, places), (predicted, made, then) in zip(splits, of_folds, strict=True):
            values[places], present[places] = predicted, then
            if inputs is None:
                inputs = np.empty((len(part), made.shape[1]))
            inputs[places] = made
        ((estimator, carried),) = of_all
        self.around(estimator, carried)
        assert inputs is not None
        labelled = numbers[part] > 0
        self._learn_widths(values, inputs, present, labelled if labelled.sum() >= LEAST_LABELLED else None)
        return self

    def predict(self, X: pd.DataFrame | Matrix) -> Matrix:
        """Return the predicted values, shape (n,)."""
        return np.asarray(self.estimator.predict(self._coded(X)), dtype=np.float64)

    def predict_interval(self, X: pd.DataFrame | Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Return the predicted values and the lower and upper ends of their intervals, each of shape (n,)."""
        check_is_fitted(self, "scale_")
        values, inputs = _predict(self.estimator, self._coded(X))
        errors = np.maximum(self.scale_.predict(inputs), self.least_error_)
        return (values, *interval_ends(values, errors, self.factor_, self.lowest_, self.highest_))

    def nearest_training_km(self, X: pd.DataFrame | Matrix) -> Matrix | None:
        """Return how far the nearest training place is from each row; None for a model that asks no neighbours."""
        for part in _parts(self.estimator):
            if isinstance(part, SpatialFeatures):
                return part.nearest_km(self._coded(X))
        return None

    def _coded(self, X: pd.DataFrame | Matrix) -> Matrix:
        return as_matrix(X, self.columns, self.kinds)

    def around(self, estimator: Any, targets: Matrix) -> ConformalRegressor:
        """Take over an estimator that was fitted on such targets."""
        self.estimator = estimator
        self.lowest_, self.highest_ = float(targets.min()), float(targets.max())
        self.n_features_in_ = len(self.columns)
        self.feature_names_in_ = np.array(self.columns, dtype=object)
        return self

    def _learn_widths(
        self, values: Matrix, inputs: Matrix, targets: Matrix, deciding: npt.NDArray[np.bool_] | None = None
    ) -> None:
        """Fit the expected error to all rows, the factor to those ``deciding``, or to all."""
        residuals = np.abs(targets - values)
        if len(residuals) > MOST_RESIDUALS:
            part = _drawn(np.zeros(len(residuals), dtype=bool) if deciding is None else deciding, MOST_RESIDUALS)
            residuals, inputs = residuals[part], inputs[part]
            deciding = None if deciding is None else deciding[part]
        count = len(residuals) if deciding is None else int(deciding.sum())
        rank = math.ceil((count + 1) * self.coverage)
        if rank > count:
            raise ValueError(f"{count} calibration rows are too few for a coverage of {self.coverage}")
        # Most residuals, or all, may be zero.
        derived = LEAST_PART * float(np.median(residuals)) or 1e-6 * float(residuals.max()) or 1.0
        self.least_error_ = derived if self.least_error is None else self.least_error
        self.scale_ = _scale_model()
        expected = cross_val_predict(
            self.scale_, inputs, residuals, cv=KFold(SCALE_FOLDS, shuffle=True, random_state=1)
        )
        quotients = residuals / np.maximum(expected, self.least_error_)
        self.factor_ = float(np.sort(quotients if deciding is None else quotients[deciding])[rank - 1])
        self.scale_.fit(inputs, residuals)


def as_matrix(X: pd.DataFrame | Matrix, columns: Sequence[str], kinds: Kinds | None = None) -> Matrix:
    """Return rows as float64, shape (n, columns).

    A data frame is coded, and read by column name, so a shuffled one cannot give a wrong prediction.
    """
    if isinstance(X, pd.DataFrame):
        return Coding(columns, kinds).frame(X)
    # One layout: with another, sums are added in another order, and the last digit differs.
    return np.ascontiguousarray(X, dtype=np.float64)


def _drawn(first: npt.NDArray[np.bool_], most: int | None) -> npt.NDArray[np.intp]:
    """Return the numbers of at most so many rows, drawn by lot after those that come ``first``, in their order."""
    return np.sort(np.lexsort((np.random.default_rng(0).random(len(first)), ~first))[:most])


class _Known(NamedTuple):
    """Coded rows, (n, columns), with their targets and the numbers of their batches, (n,)."""

    rows: Matrix
    targets: Matrix
    numbers: Numbers

    def part(self, places: Part) -> _Known:
        return _Known(self.rows[places], self.targets[places], self.numbers[places])


def _left_out(
    estimator: Any, known: _Known, index: PriceIndex | None, fold: tuple[Part, Part]
) -> tuple[Matrix, Matrix, Matrix]:
    """Return what `_predict` says of the fold's second rows after a fit on its first, and their present values."""
    kept, others = known.part(fold[0]), known.part(fold[1])
    then, present = kept.targets, others.targets
    if index is not None:
        then = index.fit(*kept).renew(*kept)
        present = index.renew(*others)
    return *_predict(clone(estimator).fit(kept.rows, then), others.rows), present


def _fitted(estimator: Any, known: _Known, index: PriceIndex | None) -> tuple[Any, Matrix]:
    """Return the estimator fitted on all rows, and their present values that it was fitted on."""
    targets = known.targets if index is None else index.fit(*known).renew(*known)
    return estimator.fit(known.rows, targets), targets


def _scale_model() -> HistGradientBoostingRegressor:
    # The median of the residuals, not their mean: a few huge ones would widen every interval around them. Few trees,
    # as absolute residuals are mostly noise: 150 of them make the intervals wider at the same coverage.
    return HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=50,
        learning_rate=0.08,
        max_leaf_nodes=15,
        min_samples_leaf=40,
        max_features=0.25,
        max_bins=127,
        early_stopping=False,
        random_state=0,
    )


def _predict(estimator: Any, X: Matrix) -> tuple[Matrix, Matrix]:
    """Return the predicted values, (n,), and what the error may depend on, (n, m): the features, then the values."""
    features = X
    if isinstance(estimator, Pipeline) and len(estimator) > 1:
        features = estimator[:-1].transform(X)
        estimator = estimator[-1]
    values = np.asarray(estimator.predict(features), dtype=np.float64)
    return values, np.column_stack([features, values])


def _parts(estimator: Any) -> Iterator[Any]:
    """Yield every estimator inside another, itself included."""
    yield estimator
    if isinstance(estimator, Pipeline):
        inner = [step for _, step in estimator.steps]
    elif isinstance(estimator, VotingRegressor):
        inner = estimator.estimators_
    else:
        inner = []
    for part in inner:
        yield from _parts(part)
