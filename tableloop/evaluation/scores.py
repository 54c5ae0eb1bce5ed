"""How good a fitted candidate is: scores and intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from tableloop.model.conformal import ConformalRegressor

Vector = npt.NDArray[np.float64]


def scores(model: ConformalRegressor, validation: pd.DataFrame, test: pd.DataFrame, target: str) -> dict[str, float]:
    """Return the metrics of a calibrated model.

    ``custom_*`` are of the validation rows and choose the candidate; ``test_*`` are of the test rows. RMSE, MAE and
    the mean width of the intervals are in the unit of the column ``target``.
    """
    chosen_by = model.predict(validation)
    predicted, low, high = model.predict_interval(test)
    actual = _values(test, target)
    values = {
        "custom_rmse": root_mean_squared_error(_values(validation, target), chosen_by),
        "custom_r2_score": r2_score(_values(validation, target), chosen_by),
        "test_rmse": root_mean_squared_error(actual, predicted),
        "test_r2": r2_score(actual, predicted),
        "test_mae": mean_absolute_error(actual, predicted),
        "test_interval_coverage": np.mean((low <= actual) & (actual <= high)),
        "test_interval_width": np.mean(high - low),
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def gate_scores(model: ConformalRegressor, gate: pd.DataFrame, target: str) -> dict[str, float]:
    """Return the metrics of labelled rows that were held out: what the model knows of the present."""
    predicted, low, high = model.predict_interval(gate)
    actual = _values(gate, target)
    values = {
        "gate_rmse": root_mean_squared_error(actual, predicted),
        "gate_interval_coverage": np.mean((low <= actual) & (actual <= high)),
        "gate_interval_width": np.mean(high - low),
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def _values(part: pd.DataFrame, target: str) -> Vector:
    return part[target].to_numpy(np.float64)
