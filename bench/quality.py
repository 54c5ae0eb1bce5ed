"""How good the shipped models are, beside what is published: ``python -m bench.quality [SEED …]``.

Every candidate of params.yaml is fitted under the protocol of the published results: the raw rows, split by
``train_test_split(test_size=0.2, random_state=seed)``, on one thread. Then the intervals, and what the spatial model
cannot do.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from pipeline.fitting import new_model, setting_of
from pipeline.stage_runner import load_params, raw_data
from tableloop.evaluation.extrapolation import across_line, by_distance
from tableloop.model.candidates import Setting, build
from tableloop.model.conformal import as_matrix
from tableloop.model.kernel_search import fit_kernel
from tableloop.table import Table, load_table

Matrix = npt.NDArray[np.float64]

SEEDS = (42, 0, 1, 2)
PUBLISHED = (
    ("FT-Transformer", 0.459),
    ("XGBoost", 0.433),
    ("CatBoost", 0.429),
    ("TabR", 0.403),
    ("TabR, ensemble", 0.391),
    ("TabPFN v2, finetuned", 0.3822),
    ("TabPFN v2, finetuned, ensemble", 0.3789),
)
COMPARABLE = """\
What makes them comparable: the same table, the same unit, and for seed 0 the very same 4,128 test rows.
What does not: they hold 16 % of the rows out of training to tune and stop by, and train on 64 %; ours need no such
part and train on the whole 80 %. They are general methods on the eight raw features; ours has features made for this
table. The parameters of ours were chosen while the test rows of seeds 42, 0, 1 and 2 could be seen, so these four
flatter it: other seeds are the fairer question (python -m bench.quality 20 21 22 23 24 25 26 27).
The ten constants of the kernel are fitted on the train rows of our own split, and some of those are test rows here.
--refit-kernel fits them anew on each seed's own training rows, two minutes each: 0.3785 instead of 0.3787 for seeds 0
and 1, so the shipped constants gain nothing by it."""


def candidates(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the parameters of every candidate of params.yaml, and of the spatial one's other budgets."""
    shipped = {name: values or {} for name, values in params["candidates"].items()}
    spatial = shipped["spatial"]
    return shipped | {
        f"spatial, {budget}": {**spatial, "budget": budget}
        for budget in spatial["budgets"]
        if budget != spatial["budget"]
    }


def measure(estimator: Any, parts: list[Matrix]) -> tuple[float, float, float]:
    """Return RMSE on the test rows, seconds of one core to fit, and test rows predicted in a second."""
    X, X_test, y, y_test = parts
    start = time.process_time()
    estimator.fit(X, y)
    fitted = time.process_time()
    values = estimator.predict(X_test)
    end = time.process_time()
    return float(root_mean_squared_error(y_test, values)), fitted - start, len(X_test) / (end - fitted)


def quality_table(params: dict[str, Any], setting: Setting, splits: dict[int, list[Matrix]]) -> Iterable[str]:
    """Yield the lines of the table of all candidates, as they are measured."""
    yield (
        f"{'RMSE by seed':<26}" + "".join(f"{seed:>8}" for seed in splits) + f"{'mean':>9}{'fit s':>8}{'rows/s':>10}"
    )
    for name, values in candidates(params).items():
        measured = [measure(build(name.partition(",")[0], values, setting), parts) for parts in splits.values()]
        errors, seconds, speed = np.array(measured).T
        by_seed = "".join(f"{error:8.4f}" for error in errors)
        yield f"{name:<26}{by_seed}{errors.mean():9.4f}{seconds.mean():8.2f}{speed.mean():10,.0f}"


def refitted_lines(params: dict[str, Any], setting: Setting, splits: dict[int, list[Matrix]]) -> Iterable[str]:
    """Yield the spatial model's errors with the kernel of params.yaml, and of each seed's own training rows."""
    shipped = params["candidates"]["spatial"]
    own_errors = []
    for seed, parts in splits.items():
        kriging = {**setting.kriging, "kernel": fit_kernel(parts[0], parts[2], setting)}
        settings = (setting, replace(setting, kriging=kriging))
        errors = [measure(build("spatial", shipped, chosen), parts)[0] for chosen in settings]
        own_errors.append(errors)
        yield f"  seed {seed}: {errors[0]:.4f} as shipped, {errors[1]:.4f} refitted"
    mean = np.mean(own_errors, axis=0)
    yield f"  mean: {mean[0]:.4f} as shipped, {mean[1]:.4f} refitted"


def interval_lines(params: dict[str, Any], table: Table, splits: dict[int, list[Matrix]]) -> Iterable[str]:
    """Yield coverage and width of the spatial model's intervals, by quarter of the prediction and by distance."""
    far: list[Matrix] = []
    yield f"{'seed':>6}{'coverage':>10}{'width':>8}   by quarter of the prediction, cheap to dear; at the cap"
    for seed, (X, X_test, y, y_test) in splits.items():
        model = new_model("spatial", params, table)
        values, low, high = model.fit_calibrated(X, y).predict_interval(X_test)
        inside = (low <= y_test) & (y_test <= high)
        quarters = np.array_split(np.argsort(values), 4)
        by_quarter = "".join(f"{inside[rows].mean():7.3f}" for rows in quarters)
        yield (
            f"{seed:>6}{inside.mean():10.3f}{(high - low).mean():8.3f}{by_quarter}"
            f"{inside[y_test == y_test.max()].mean():9.3f}"
        )
        kilometres = model.nearest_training_km(X_test)
        assert kilometres is not None
        far.append(np.stack([kilometres, y_test, values, inside]))
    yield ""
    yield "by distance to the nearest training place, all seeds:"
    kilometres, actual, predicted, inside = np.concatenate(far, axis=1)
    for group in by_distance(kilometres, actual, predicted, inside.astype(bool), params["limits"]["distances_km"]):
        yield (
            f"  from {group['from_km']:4.1f} km: {group['rows']:6} rows, RMSE {group['rmse']:.3f}, "
            f"relative error {group['relative_error']:.3f}, coverage {group['coverage']:.3f}"
        )


def limit_lines(params: dict[str, Any], table: Table, X: Matrix, y: Matrix) -> Iterable[str]:
    """Yield what the spatial model cannot do: errors across a line."""
    assert table.place is not None
    line = params["limits"]["line"]
    estimator, linear = (new_model(name, params, table).estimator for name in ("spatial", "linear"))
    across = across_line(
        estimator, X, y, X[:, table.feature_names.index(table.place.latitude)] > line, line, linear=linear
    )
    yield (
        f"trained north of {across['line_degrees_north']:g} degrees and tested south: RMSE "
        f"{across['south_from_north_rmse']:.2f}, a linear model {across['south_from_north_linear_rmse']:.2f}"
    )
    yield (
        f"trained south and tested north: RMSE {across['north_from_south_rmse']:.2f}, "
        f"a linear model {across['north_from_south_linear_rmse']:.2f}"
    )


def main() -> None:
    """Measure and print; the numbers go to standard output as they come."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("seeds", nargs="*", type=int, default=SEEDS, metavar="SEED")
    arguments.add_argument("--refit-kernel", action="store_true", help="also fit the kernel for each seed")
    asked = arguments.parse_args()
    params = load_params()["train"]
    table = load_table()
    setting = setting_of(params, table)
    rows = pd.read_csv(raw_data(table))
    X, y = as_matrix(rows, table.feature_names), rows[table.target_name].to_numpy(np.float64)
    splits = {seed: train_test_split(X, y, test_size=0.2, random_state=seed) for seed in asked.seeds}
    with threadpool_limits(1):
        _print(
            "The shipped models, 16,512 rows to train on and 4,128 to test, one core:",
            quality_table(params, setting, splits),
        )
        published = [f"{name:<34}{error:8.4f}" for name, error in PUBLISHED]
        _print("Published for seed 0 (RMSE):", [*published, "", COMPARABLE])
        if asked.refit_kernel:
            _print("The spatial model, its kernel of each seed's own rows:", refitted_lines(params, setting, splits))
        _print("90 % intervals of the spatial model:", interval_lines(params, table, splits))
        _print("What the spatial model cannot do:", limit_lines(params, table, X, y))


def _print(title: str, lines: Iterable[str]) -> None:
    sys.stdout.write(f"{title}\n\n")
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
