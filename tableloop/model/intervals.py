"""What a model says of rows, and where an interval ends: the same for scikit-learn's models and for the scorer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

SCALE_FLOOR = 0.03  # 3,000 dollars: nothing is predicted better, and a quotient of residuals must not explode


class Answers(NamedTuple):
    """What a model says of rows, each of shape (n,): values, ends of the intervals, kilometres to the nearest place.

    ``kilometres`` is None for a model that asks no neighbours.
    """

    values: Matrix
    low: Matrix
    high: Matrix
    kilometres: Matrix | None


def interval_ends(
    values: Matrix, expected_errors: Matrix, factor: float, lowest: float, highest: float
) -> tuple[Matrix, Matrix]:
    """Return the ends of the intervals around predicted values, all of shape (n,)."""
    width = factor * np.maximum(expected_errors, SCALE_FLOOR)
    # A linear model may itself leave the range of the training values: the interval still holds its value.
    low = np.minimum(np.maximum(values - width, lowest), values)
    high = np.maximum(np.minimum(values + width, highest), values)
    return low, high
