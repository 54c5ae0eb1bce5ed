"""How fast the compiled scorer is beside scikit-learn: ``python -m bench.scorer``.

One thread, values and intervals, and rows that differ from call to call: one row repeated is answered from the
processor's caches, and flatters every engine by half. Each figure is the median call, so that a call during which
another program had the core does not count for more than one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from pipeline.fitting import fit_candidate
from pipeline.stage_runner import load_params
from scenarios.market import split_rows
from tableloop.model.conformal import as_matrix
from tableloop.model.onnx_export import compile_model
from tableloop.model.onnx_scorer import Scorer
from tableloop.table import load_table

Matrix = npt.NDArray[np.float64]

PASSES = 7
ROWS = 10_000


def rows_a_second(call: Callable[[Matrix], object], batches: Sequence[Matrix]) -> float:
    """Return how many rows a second ``call`` answers, by the median of some passes over batches of one size."""
    seconds = []
    for batch in [*batches] * PASSES:
        start = time.perf_counter()
        call(batch)
        seconds.append(time.perf_counter() - start)
    return len(batches[0]) / float(np.median(seconds))


def varied(X: Matrix, rows: int) -> Matrix:
    """Return so many different rows: those of X again and again, each moved by some metres and dollars."""
    chosen = X[np.arange(rows) % len(X)]
    moved: Matrix = chosen * (1 + np.random.default_rng(0).uniform(-1e-4, 1e-4, chosen.shape))
    return moved


def main() -> None:
    """Train the shipped spatial model, compile it, and print the speeds of both."""
    params, table = load_params(), load_table()
    names, parts = table.feature_names, split_rows(table)
    with threadpool_limits(1):
        model = fit_candidate("spatial", params["train"], table, parts)
        start = time.perf_counter()
        arrays, trees = compile_model(model, as_matrix(parts["train"], names)[:5])
        scorer = Scorer(arrays, trees)
        seconds = time.perf_counter() - start
        test = as_matrix(parts["test"], names)
        difference = scorer.difference(test, np.stack(model.predict_interval(test), axis=1))
        sys.stdout.write(
            f"compiled in {seconds:.2f} s to {len(trees) / 1000:.0f} kB; on {len(test):,} test rows at most "
            f"{difference:.1e} from scikit-learn\n\n"
        )
        rows = varied(test, ROWS)
        sys.stdout.write(f"{'':<22}{'scikit-learn':>26}{'scorer':>26}\n")
        for size in (1, 16, 100, ROWS):
            batches = [rows[start : start + size] for start in range(0, min(ROWS, 1000 * size), size)]
            slow = rows_a_second(model.predict_interval, batches[: max(1, 200 // size)])
            fast = rows_a_second(scorer.predict, batches)
            shown = "".join(f"{1e6 / speed:10.1f} µs a row{speed:9,.0f}/s" for speed in (slow, fast))
            sys.stdout.write(f"{size:>7,} rows together {shown}\n")


if __name__ == "__main__":
    main()
