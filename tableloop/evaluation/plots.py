"""The plots that show where a candidate errs."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.inspection import permutation_importance

from tableloop.model.conformal import ConformalRegressor
from tableloop.table import Table

Vector = npt.NDArray[np.float64]


def draw_plots(
    model: ConformalRegressor,
    test: pd.DataFrame,
    table: Table,
    *,
    importance_rows: int,
    repeats: int,
    seed: int,
) -> dict[str, bytes]:
    """Return residuals.png, predicted_against_actual.png and permutation_importance.png of the test rows."""
    actual, predicted = test[table.target_name].to_numpy(np.float64), model.predict(test)
    names, unit = table.feature_names, table.target.unit
    sample = test.head(importance_rows)
    importance = permutation_importance(
        model,
        table.coding.frame(sample),
        actual[: len(sample)],
        scoring="neg_root_mean_squared_error",
        n_repeats=repeats,
        random_state=seed,
    )
    plots: dict[str, Callable[[Axes], None]] = {
        "residuals": lambda axes: _residuals(axes, actual, predicted, unit),
        "predicted_against_actual": lambda axes: _predicted_against_actual(axes, actual, predicted, unit),
        "permutation_importance": lambda axes: _importance(
            axes, names, importance.importances_mean, importance.importances_std
        ),
    }
    files = {}
    for name, draw in plots.items():
        # No pyplot: it keeps every figure and the chosen backend in the state of the process.
        figure = Figure(figsize=(6, 4.5), layout="tight")
        draw(figure.add_subplot())
        FigureCanvasAgg(figure)
        content = io.BytesIO()
        figure.savefig(content, format="png")
        files[f"{name}.png"] = content.getvalue()
    return files


def _residuals(axes: Axes, actual: Vector, predicted: Vector, unit: str) -> None:
    axes.hexbin(predicted, actual - predicted, gridsize=60, mincnt=1, bins="log", cmap="viridis")
    axes.axhline(0, color="black", linewidth=1)
    axes.set(xlabel=f"predicted ({unit})", ylabel="actual - predicted", title="Residuals of the test rows")


def _predicted_against_actual(axes: Axes, actual: Vector, predicted: Vector, unit: str) -> None:
    axes.hexbin(actual, predicted, gridsize=60, mincnt=1, bins="log", cmap="viridis")
    axes.axline((actual.min(), actual.min()), slope=1, color="black", linewidth=1)
    axes.set(xlabel=f"actual ({unit})", ylabel="predicted", title="Predicted against actual, test rows")


def _importance(axes: Axes, names: Sequence[str], mean: Vector, deviation: Vector) -> None:
    order = np.argsort(mean)
    axes.barh([names[i] for i in order], mean[order], xerr=deviation[order])
    axes.set(xlabel="rise of the RMSE when the column is shuffled", title="Permutation importance, test rows")
