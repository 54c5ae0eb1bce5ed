"""What a model looks at: by how much its error rises when the values of an input are shuffled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tableloop.table import Input

Matrix = npt.NDArray[np.float64]
REPEATS = 3


def importance(
    predict: Callable[[Matrix], Matrix], rows: Matrix, actual: Matrix, inputs: Sequence[Input]
) -> dict[str, float]:
    """Return the rise of the RMSE by input (permutation importance, Breiman 2001).

    The columns of one input, as latitude and longitude, are shuffled together: shuffled alone, they would make places
    that no row has. ``rows`` (n, columns) and ``actual`` (n,) are rows that the model has not seen.
    """
    random = np.random.default_rng(0)
    error = _rmse(predict(rows), actual)
    rises = {}
    for input_ in inputs:
        errors = []
        for _ in range(REPEATS):
            shuffled = rows.copy()
            shuffled[:, input_.columns] = rows[random.permutation(len(rows))][:, input_.columns]
            errors.append(_rmse(predict(shuffled), actual))
        rises[input_.name] = float(np.mean(errors)) - error
    return rises


def _rmse(predicted: Matrix, actual: Matrix) -> float:
    return float(np.sqrt(np.mean((predicted - actual) ** 2)))
