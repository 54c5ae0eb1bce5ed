"""How long an explanation takes, and how near its sample of rows comes: ``python -m bench.explain``, two minutes.

One thread, rows that differ. For California with the shipped model, exact; and for a made table of twenty columns
(`bench.made_table`), with orders of the inputs drawn. Without a server: the service adds a millisecond.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from bench.made_table import LEVELS, made
from pipeline.fitting import fit_candidate
from pipeline.stage_runner import load_params
from scenarios.market import split_rows
from tableloop.model.coding import Kinds
from tableloop.model.conformal import ConformalRegressor, as_matrix
from tableloop.model.onnx_export import compile_model
from tableloop.model.onnx_scorer import Scorer
from tableloop.model.row_features import RowFeatures
from tableloop.model.shapley import Player, background_rows, representative, shapley_values
from tableloop.table import load_table

Matrix = npt.NDArray[np.float64]

ROWS = 50
REFERENCE_ROWS = 2_000  # as many as a version keeps
NEARER_ROWS = 1_000  # of a background that stands for all
COMPARED = 5
MADE_ROWS = 20_000


@dataclass(frozen=True)
class Case:
    """A model, rows that it was fitted on, and rows that it was not."""

    name: str
    scorer: Scorer
    fitted: Matrix
    asked: Matrix
    players: list[Player]


def main() -> None:
    """Print a line for each table."""
    with threadpool_limits(1):
        for case in (california(), wide()):
            sys.stdout.write(f"{case.name}: {len(case.players)} inputs\n")
            for line in measured(case):
                sys.stdout.write(f"    {line}\n")
            sys.stdout.flush()


def measured(case: Case) -> list[str]:
    """Return what was measured, a sentence each."""

    def predict(rows: Matrix) -> Matrix:
        return case.scorer.predict(rows).values

    random = np.random.default_rng(0)
    reference = case.fitted[random.permutation(len(case.fitted))[:REFERENCE_ROWS]]
    values = predict(reference)
    count = background_rows(len(case.players))
    background = reference[representative(values, count)]
    wall, processor, added, errors = [], [], [], []
    for row in case.asked[:ROWS]:
        at, used = time.perf_counter(), time.process_time()
        found = shapley_values(predict, row, background, case.players)
        wall.append(time.perf_counter() - at)
        processor.append(time.process_time() - used)
        added.append(abs(found.base + found.values.sum() - found.prediction))
        if found.errors is not None:
            errors.append(found.errors.mean())
    spread = values.std()
    lines = [
        f"{1e3 * np.median(wall):.0f} ms a row, {1e3 * np.median(processor):.0f} ms of one core (medians of {ROWS} "
        f"different ones); they add up to {max(added):.0e}",
        f"average: {predict(background).mean():.4f} over {count} rows, {values.mean():.4f} over "
        f"{len(values):,}, {predict(case.fitted).mean():.4f} over all {len(case.fitted):,}; a prediction's standard "
        f"deviation is {spread:.3f}",
    ]
    if errors:
        lines.append(f"standard error of a contribution, by the draw: {np.mean(errors):.4f} on average")
    drawn = reference[random.permutation(len(reference))[:count]]
    many = reference[representative(values, NEARER_ROWS)]
    off: dict[str, list[Matrix]] = {"of these rows": [], "of rows drawn by chance": []}
    for row in case.asked[:COMPARED]:
        near = shapley_values(predict, row, many, case.players).values
        for rows, name in zip((background, drawn), off, strict=True):
            off[name].append(np.abs(shapley_values(predict, row, rows, case.players).values - near))
    said = ", ".join(f"{np.mean(differences):.4f} {name}" for name, differences in off.items())
    lines.append(f"a contribution differs from that against {NEARER_ROWS:,} rows by {said}")
    return lines


def california() -> Case:
    """Return the shipped model of the shipped table."""
    table, parts = load_table(), split_rows(load_table())
    model = fit_candidate("spatial", load_params()["train"], table, parts)
    fitted, asked = (as_matrix(parts[name], table.feature_names) for name in ("train", "test"))
    players: list[Player] = [input_.columns for input_ in table.inputs]
    return Case("California", Scorer(*compile_model(model, fitted[:5])), fitted, asked, players)


def wide() -> Case:
    """Return boosted trees on the made table."""
    frame = made(MADE_ROWS)
    names = [str(name) for name in frame if name != "value"]
    kinds: dict[str, dict[str, object]] = {
        name: {"type": "string", "categories": frame[name].value_counts().index.tolist()} for name in LEVELS
    }
    kinds |= {"member": {"type": "boolean"}, "weekend": {"type": "boolean"}}
    kinds |= {"day": {"type": "date"}, "opened": {"type": "datetime"}}
    model = _fitted(frame, names, kinds)
    rows = as_matrix(frame, names, kinds)
    players: list[Player] = [(column,) for column in range(len(names))]
    scorer = Scorer(*compile_model(model, rows[:5]))
    return Case("made table", scorer, rows[:-1_000], rows[-1_000:], players)


def _fitted(frame: pd.DataFrame, names: list[str], kinds: Kinds) -> ConformalRegressor:
    trees = make_pipeline(
        RowFeatures(names, {}, kinds=kinds), HistGradientBoostingRegressor(max_iter=300, random_state=0)
    )
    model = ConformalRegressor(trees, names, kinds=kinds)
    rows, values = as_matrix(frame, names, kinds), frame["value"].to_numpy(np.float64)
    model.fit(rows[:-4_000], values[:-4_000]).calibrate(rows[-4_000:-1_000], values[-4_000:-1_000])
    return model


if __name__ == "__main__":
    main()
