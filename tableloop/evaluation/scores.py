"""How good a fitted candidate is: scores and intervals, from sums over rows that need not be there at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tableloop.model.conformal import ConformalRegressor

Vector = npt.NDArray[np.float64]
DIGITS = 6


@dataclass(frozen=True)
class Tally:
    """Sums over rows, of which the scores follow.

    Attributes
    ----------
    rows
        How many there are.
    mean, spread
        Of the actual values: their mean, and the sum of the squared distances from it.
    squared, absolute
        Sums of the squared and of the absolute errors.
    inside
        How many actual values lie in their intervals.
    width
        Sum of the widths of the intervals.
    """

    rows: int = 0
    mean: float = 0.0
    spread: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0
    inside: int = 0
    width: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of the rows of both.

        By Chan, Golub and LeVeque (1983), "Algorithms for Computing the Sample Variance", formula 2.1.
        """
        if not (self.rows and other.rows):
            return self if self.rows else other
        rows, apart = self.rows + other.rows, other.mean - self.mean
        return Tally(
            rows,
            self.mean + apart * other.rows / rows,
            self.spread + other.spread + apart**2 * self.rows * other.rows / rows,
            self.squared + other.squared,
            self.absolute + other.absolute,
            self.inside + other.inside,
            self.width + other.width,
        )

    @property
    def rmse(self) -> float:
        """The root of the mean squared error."""
        return math.sqrt(self.squared / self.rows)

    @property
    def r2(self) -> float:
        """The part of the spread that is explained; of values that are all the same, 1 without any error, else 0."""
        return 1.0 - self.squared / self.spread if self.spread else float(self.squared == 0.0)


def tally(model: ConformalRegressor, rows: pd.DataFrame, target: str) -> Tally:
    """Return the sums of a calibrated model over rows with their actual values in the column ``target``."""
    actual = rows[target].to_numpy(np.float64)
    predicted, low, high = model.predict_interval(rows)
    errors = actual - predicted
    mean = float(actual.mean())
    return Tally(
        len(rows),
        mean,
        float(np.sum((actual - mean) ** 2)),
        float(np.sum(errors**2)),
        float(np.sum(np.abs(errors))),
        int(np.sum((low <= actual) & (actual <= high))),
        float(np.sum(high - low)),
    )


def scores(model: ConformalRegressor, validation: pd.DataFrame, test: pd.DataFrame, target: str) -> dict[str, float]:
    """Return the metrics of a calibrated model: see `scores_of`."""
    return scores_of(tally(model, validation, target), tally(model, test, target))


def scores_of(validation: Tally, test: Tally) -> dict[str, float]:
    """Return the metrics of a calibrated model.

    ``custom_*`` are of the validation rows and choose the candidate; ``test_*`` are of the test rows. RMSE, MAE and
    the mean width of the intervals are in the unit of the target.
    """
    values = {
        "custom_rmse": validation.rmse,
        "custom_r2_score": validation.r2,
        "test_rmse": test.rmse,
        "test_r2": test.r2,
        "test_mae": test.absolute / test.rows,
        "test_interval_coverage": test.inside / test.rows,
        "test_interval_width": test.width / test.rows,
    }
    return {name: round(value, DIGITS) for name, value in values.items()}


def gate_scores(model: ConformalRegressor, gate: pd.DataFrame, target: str) -> dict[str, float]:
    """Return the metrics of labelled rows that were held out: what the model knows of the present."""
    held = tally(model, gate, target)
    values = {
        "gate_rmse": held.rmse,
        "gate_interval_coverage": held.inside / held.rows,
        "gate_interval_width": held.width / held.rows,
    }
    return {name: round(value, DIGITS) for name, value in values.items()}
