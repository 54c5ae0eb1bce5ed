"""What a model cannot do, measured: prices beyond the places it was trained on."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.metrics import root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Matrix = npt.NDArray[np.float64]

LINE = 36.0  # degrees north: San Francisco lies on one side, Los Angeles on the other
DISTANCES_KM = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0)


class AcrossLine(TypedDict):
    """Errors of models that were trained on one side of a line of latitude and asked about the other."""

    line_degrees_north: float
    south_from_north_rmse: float
    south_from_north_linear_rmse: float
    north_from_south_rmse: float
    north_from_south_linear_rmse: float


class AtDistance(TypedDict):
    """Error and coverage of rows whose nearest training place is at least so far, and nearer than the next entry."""

    from_km: float
    rows: int
    rmse: float
    coverage: float


def across_line(estimator: Any, X: Matrix, y: Matrix, line: float = LINE) -> AcrossLine:
    """Return how an estimator, and a linear model for comparison, predict the side of a line they do not know.

    Four fits, each on part of the rows of shape (n, 8): about a second for the spatial candidate.
    """
    north = X[:, 6] > line

    def error(model: Any, known: npt.NDArray[np.bool_]) -> float:
        fitted = clone(model).fit(X[known], y[known])
        return round(float(root_mean_squared_error(y[~known], fitted.predict(X[~known]))), 4)

    linear = make_pipeline(StandardScaler(), LinearRegression())
    return {
        "line_degrees_north": line,
        "south_from_north_rmse": error(estimator, north),
        "south_from_north_linear_rmse": error(linear, north),
        "north_from_south_rmse": error(estimator, ~north),
        "north_from_south_linear_rmse": error(linear, ~north),
    }


def by_distance(kilometres: Matrix, errors: Matrix, inside: npt.NDArray[np.bool_]) -> list[AtDistance]:
    """Return the errors of rows that a model has not seen, grouped by how far its nearest training place is.

    All of shape (n,): the distances, value less prediction, and whether the value lay inside the interval.
    """
    group = np.digitize(kilometres, DISTANCES_KM) - 1
    return [
        {
            "from_km": start,
            "rows": int(rows.sum()),
            "rmse": round(float(np.sqrt(np.mean(errors[rows] ** 2))), 4),
            "coverage": round(float(inside[rows].mean()), 4),
        }
        for number, start in enumerate(DISTANCES_KM)
        if (rows := group == number).any()
    ]
