"""What a model says of rows, and where an interval ends: the same for scikit-learn's models and for the scorer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


class Answers(NamedTuple):
    """What a model says of rows, each of shape (n,): values, ends of the intervals, kilometres to the nearest place.

    ``kilometres`` is None for a model that asks no neighbours.
    """

    values: Matrix
    low: Matrix
    high: Matrix
    kilometres: Matrix | None


def interval_ends(
    values: Matrix, errors: Matrix, factor: float, lowest: float, highest: float
) -> tuple[Matrix, Matrix]:
    """Return the ends of the intervals around predicted values with expected errors, all of shape (n,)."""
    width = factor * errors
    # A linear model may itself leave the range of the training values: the interval still holds its value.
    low = np.minimum(np.maximum(values - width, lowest), values)
    high = np.maximum(np.minimum(values + width, highest), values)
    return low, high
