"""What a model cannot do, measured: values beyond the places it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.metrics import root_mean_squared_error

from tableloop.model.coding import Matrix
from tableloop.model.conformal import ConformalRegressor

LEAST_VALUE = 0.01  # of the standard deviation: by less, no error is divided
FAR_SHARE = 0.96  # of the test rows lie nearer than what is far, where nobody says what is
NEARER = (0.0, 0.5, 0.75, 0.9)  # and the distances between are those of such shares


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
    relative_error: float
    coverage: float


class Limits(TypedDict):
    """What goes with a model wherever it is described.

    Without a place there is no line, and without neighbours there is no distance.
    """

    far_km: float | None
    across_line: AcrossLine | None
    by_distance: list[AtDistance]


def measure(
    model: ConformalRegressor,
    X: Matrix,
    y: Matrix,
    X_test: Matrix,
    y_test: Matrix,
    *,
    linear: Any,
    latitude: str | None,
    line: float | None = None,
    distances_km: Sequence[float] | None = None,
    far_km: float | None = None,
) -> Limits:
    """Return what a calibrated model cannot do, from the rows it was fitted on and from test rows.

    ``latitude`` names the column that ``line`` divides; ``linear`` is an unfitted model to compare with.
    """
    kilometres = model.nearest_training_km(X_test)
    distant: list[AtDistance] = []
    if kilometres is not None:
        far_km = far_km or float(f"{np.quantile(kilometres, FAR_SHARE):.2g}") or 1.0
        if distances_km is None:
            between = np.quantile(kilometres, NEARER).round(3)
            distances_km = np.unique([0.0, *between[between < far_km], far_km]).tolist()
        values, low, high = model.predict_interval(X_test)
        distant = by_distance(kilometres, y_test, values, (low <= y_test) & (y_test <= high), distances_km)
    across = None
    if latitude is not None and line is not None:
        across = across_line(model.estimator, X, y, X[:, model.columns.index(latitude)] > line, line, linear=linear)
    return {"far_km": None if kilometres is None else far_km, "across_line": across, "by_distance": distant}


def in_words(limits: Limits) -> str:
    """Return the limits as sentences for people."""
    text = "What it cannot do: say anything of places it does not know."
    if limits["across_line"] is None and limits["far_km"] is None:
        text = "What it cannot do: say anything of rows unlike those it was fitted on."
    if across := limits["across_line"]:
        text += (
            f" Trained north of {across['line_degrees_north']:g} degrees and asked about the south, its RMSE is "
            f"{across['south_from_north_rmse']:.2f}, a linear model's {across['south_from_north_linear_rmse']:.2f}; "
            f"the other way round {across['north_from_south_rmse']:.2f} and "
            f"{across['north_from_south_linear_rmse']:.2f}."
        )
    if limits["far_km"] is not None:
        far = [group for group in limits["by_distance"] if group["from_km"] >= limits["far_km"]]
        rows = sum(group["rows"] for group in far)
        error = sum(group["rows"] * group["relative_error"] for group in far) / max(rows, 1)
        text += (
            f" It warns where the nearest training place is more than {limits['far_km']:g} km away: its mean error "
            f"relative to the value was {error:.0%} for the {rows} test rows out there."
        )
    return text


def across_line(
    estimator: Any, X: Matrix, y: Matrix, north: npt.NDArray[np.bool_], line: float, *, linear: Any
) -> AcrossLine:
    """Return how an estimator, and a linear one for comparison, predict the side of a line they do not know.

    Rows of shape (n, columns) lie ``north`` of it or south. Four fits, each on part of the rows: about a second for
    the spatial candidate.
    """

    def error(model: Any, known: npt.NDArray[np.bool_]) -> float:
        fitted = clone(model).fit(X[known], y[known])
        return round(float(root_mean_squared_error(y[~known], fitted.predict(X[~known]))), 4)

    return {
        "line_degrees_north": line,
        "south_from_north_rmse": error(estimator, north),
        "south_from_north_linear_rmse": error(linear, north),
        "north_from_south_rmse": error(estimator, ~north),
        "north_from_south_linear_rmse": error(linear, ~north),
    }


def by_distance(
    kilometres: Matrix,
    actual: Matrix,
    predicted: Matrix,
    inside: npt.NDArray[np.bool_],
    distances_km: Sequence[float],
) -> list[AtDistance]:
    """Return the errors of rows that a model has not seen, grouped by how far its nearest training place is.

    A group begins at each of ``distances_km``. All others are of shape (n,); ``inside`` says whether the actual value
    lay inside the interval. The relative error is the mean of absolute error by actual value: where values far out
    are low, the RMSE alone hides how far off they are. Values near zero count as `LEAST_VALUE` of their deviation.
    """
    errors = actual - predicted
    relative = np.abs(errors) / np.maximum(np.abs(actual), LEAST_VALUE * actual.std() or 1.0)
    group = np.digitize(kilometres, distances_km) - 1
    return [
        {
            "from_km": start,
            "rows": int(rows.sum()),
            "rmse": round(float(np.sqrt(np.mean(errors[rows] ** 2))), 4),
            "relative_error": round(float(relative[rows].mean()), 4),
            "coverage": round(float(inside[rows].mean()), 4),
        }
        for number, start in enumerate(distances_km)
        if (rows := group == number).any()
    ]
