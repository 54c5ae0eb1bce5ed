"""Measure the models beside others' defaults: ``make bench-tables``, some minutes a table.

The test RMSE of the winner of each table, trained as the pipeline trains it, beside that of CatBoost and LightGBM
with their defaults. All are fitted on the train and validation rows of the same split; the two others are given the
parts of dates, and categories as such.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from sklearn.metrics import root_mean_squared_error
from threadpoolctl import threadpool_limits

from pipeline.fitting import completed, refit_winner
from pipeline.preprocess import split
from pipeline.raw_rows import check, read_raw
from pipeline.stage_runner import best_of
from pipeline.train import fit_all
from tableloop.model.coding import Matrix
from tableloop.model.design import Design
from tableloop.table import SHIPPED, Table, load_table

ROOT = SHIPPED.parent
OTHERS = ("CatBoost", "LightGBM")


def measured(directory: Path) -> Iterator[tuple[str, float, float]]:
    """Yield the name of a model, its test RMSE and its seconds: ours, named by the winner, then the others."""
    table = load_table(directory)
    own = directory / "params.yaml"
    params = yaml.safe_load((own if own.exists() else ROOT / "params.yaml").read_text())
    fractions = params["preprocess"]
    rows = check(read_raw(directory / table.path, table), table)
    parts = split(rows, table.feature_names, fractions["test_fraction"], fractions["validation_fraction"])
    actual = parts["test"][table.target_name].to_numpy(np.float64)
    start = time.perf_counter()
    nothing = parts["train"].head(0).assign(part="")
    train = completed(params["train"], table, parts["train"])
    with ProcessPoolExecutor() as pool:
        fitted = fit_all(pool, train, table, parts, nothing)
    winner = best_of({name: candidate.metrics for name, candidate in fitted.items()})
    model = refit_winner(winner, train, table, parts, nothing)
    yield winner, root_mean_squared_error(actual, model.predict(parts["test"])), time.perf_counter() - start
    known = pd.concat([parts["train"], parts["validation"]])
    for name in OTHERS:
        start = time.perf_counter()
        predicted = _predicted(name, table, known, parts["test"])
        yield name, root_mean_squared_error(actual, predicted), time.perf_counter() - start


def _predicted(name: str, table: Table, known: pd.DataFrame, asked: pd.DataFrame) -> Matrix:
    """Return what a model of others says of rows."""
    specification = {
        "columns": table.feature_names,
        "place": None,
        "kinds": table.kinds,
        "terms": {},
        "codes": 1 << 20,
    }
    design = Design(specification, {})
    fitted_on, rows = (
        pd.DataFrame(design(table.coding.frame(part)), columns=design.names) for part in (known, asked)
    )
    categories = [design.names[number] for number in design.codes]
    for part in (fitted_on, rows):
        part[categories] = part[categories].fillna(-1).astype(int)
    target = known[table.target_name].to_numpy(np.float64)
    model: Any
    if name == "CatBoost":
        from catboost import CatBoostRegressor  # noqa: PLC0415 - not needed for anything else

        model = CatBoostRegressor(verbose=False, allow_writing_files=False, random_seed=0, cat_features=categories)
    else:
        from lightgbm import LGBMRegressor  # noqa: PLC0415 - as above

        for part in (fitted_on, rows):
            for category in categories:
                levels = range(-1, len(table.kinds[category]["categories"]))
                part[category] = pd.Categorical(part[category], categories=levels)
        model = LGBMRegressor(verbose=-1, random_state=0)
    return np.asarray(model.fit(fitted_on, target).predict(rows), dtype=np.float64)


def main() -> None:
    """Measure and print a line for each model of each table, and the ratio to the better of the others."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = [SHIPPED, *sorted(path.parent for path in (ROOT / "tables").glob("*/table.yaml"))]
    arguments.add_argument("tables", nargs="*", type=Path, default=shipped, metavar="DIRECTORY")
    sys.stdout.write(f"{'table':<24}{'model':<28}{'test RMSE':>14}{'seconds':>10}{'ratio':>8}\n")
    for directory in arguments.parse_args().tables:
        with threadpool_limits(1):
            results = [*measured(directory)]
        best = min(error for name, error, _ in results if name in OTHERS)
        for name, error, seconds in results:
            sys.stdout.write(
                f"{directory.resolve().name:<24}{name:<28}{error:>14.6g}{seconds:>10.1f}{error / best:>8.3f}\n"
            )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
