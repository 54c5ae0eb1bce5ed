"""Second stage: every candidate fitted, calibrated, scored and written to disk. Nothing goes to MLflow here.

This process reads, hands out the work and writes; `pipeline.fitting` is what the processes compute that
`pipeline.workers` finds. None of their tasks waits for another.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pandas as pd
from loguru import logger

from pipeline.fitting import (
    Fitted,
    Params,
    Parts,
    at_present,
    completed,
    files_of,
    fit_and_score,
    limits_of,
    refit_winner,
)
from pipeline.large_table import LargeTable, names_of
from pipeline.parts import read_part, read_parts
from pipeline.stage_runner import REPORTS, StageError, best_of, load_params, run_stage
from pipeline.workers import run_on, shared, workers
from tableloop.evaluation.scores import gate_scores, scores
from tableloop.settings import RegistrySettings
from tableloop.table import Table, load_table

T = TypeVar("T")


def fit_all(
    pool: Executor,
    params: Params,
    table: Table,
    parts: Parts,
    labelled: pd.DataFrame,
    *,
    without: Collection[str] = (),
) -> dict[str, Fitted]:
    """Return the candidates of `names_of`, but for those that are fitted elsewhere."""
    names, fitting = [name for name in names_of(params, labelled) if name not in without], parts
    if len(labelled):
        renewed = _result("price index", pool.submit(at_present, params, table, parts, labelled))
        fitting = {**parts, **renewed}
    rows = shared(pool, fitting)
    fits = {name: pool.submit(fit_and_score, name, params, table, rows) for name in names}
    fitted = {}
    for name, fit in fits.items():
        fitted[name] = _result(f"candidate {name}", fit)
        logger.info(
            "{:<24} {:6.2f} s   custom_rmse {:.4f}", name, fitted[name].seconds, fitted[name].metrics["custom_rmse"]
        )
    return fitted


def summary(fitted: Mapping[str, Fitted]) -> str:
    """Return the candidates as lines of text, the best first."""
    columns = ("custom_rmse", "custom_r2_score", "test_rmse", "test_r2", "test_mae")
    lines = [f"{'candidate':<24}" + "".join(f"{column:>17}" for column in columns) + f"{'seconds':>10}"]
    for name, candidate in sorted(fitted.items(), key=lambda item: item[1].metrics["custom_rmse"]):
        values = "".join(f"{candidate.metrics[column]:>17.4f}" for column in columns)
        lines.append(f"{name:<24}{values}{candidate.seconds:>10.2f}")
    return "\n".join(lines)


def main() -> None:
    """Read the parts, write the models, their metrics, plots and timings."""
    params, table = load_params()["train"], load_table()
    parts = read_parts(params)
    feedback = read_part("feedback")
    labelled = feedback[feedback["part"].isin(["train", "validation"])]
    gate = feedback[feedback["part"] == "gate"]
    # One task a process, each with one thread: the numbers are those of one core, in the time of all.
    scheduler = RegistrySettings().dask_scheduler
    with workers(scheduler) as pool:
        params = _result("kernel", pool.submit(completed, params, table, parts["train"]))
        large = LargeTable(params, table, parts, labelled, scheduler)
        fitted = fit_all(pool, params, table, parts, labelled, without=large.on_cluster)
        if large.is_sampled:
            fitted |= {name: large.fit(name) for name in large.on_cluster}
            fitted = large.scored(pool, {name: fitted[name] for name in names_of(params, labelled)})
        winner = best_of({name: candidate.metrics for name, candidate in fitted.items()})
        test = shared(pool, parts["test"])
        files = {
            name: pool.submit(files_of, name, candidate.model, test, table, params)
            for name, candidate in fitted.items()
            if name != winner
        }
        fitted[winner] = _refitted(pool, fitted[winner], winner, large)
        files[winner] = pool.submit(files_of, winner, fitted[winner].model, test, table, params)
        limits = pool.submit(limits_of, fitted[winner].model, params, table, parts)
        for name, made in files.items():
            _write(_result(f"candidate {name}", made))
        measured = _result(f"limits of {winner}", limits)
    if len(gate):
        for candidate in fitted.values():
            candidate.metrics.update(gate_scores(candidate.model, gate, table.target_name))
    timings = {
        name: {
            "started_at": round(candidate.started_at, 3),
            "train_seconds": round(candidate.seconds, 3),
            "fitted_rows": large.fitted_rows(name, final=name == winner),
        }
        for name, candidate in fitted.items()
    }
    metrics = {name: candidate.metrics for name, candidate in fitted.items()}
    for report, content in (("limits", measured), ("metrics", metrics), ("timings", timings)):
        (REPORTS / f"{report}.json").write_text(json.dumps(content, indent=2) + "\n")
    logger.info("all candidates\n{}", summary(fitted))


def _refitted(pool: Executor, fitted: Fitted, name: str, large: LargeTable) -> Fitted:
    """Return the winner fitted again. What it says of the validation rows stays: the new model has seen them."""
    params, table, parts = large.params, large.table, large.parts
    start = time.perf_counter()
    try:
        if name in large.on_cluster:
            model = large.refit(name)
        else:
            model = refit_winner(name, params, table, parts, large.labelled, run=run_on(pool))
    except BrokenExecutor:
        raise _killed(f"candidate {name}") from None
    seconds = time.perf_counter() - start
    logger.info("{:<24} {:6.2f} s   on train and validation rows", name, seconds)
    if large.is_sampled:
        anew = large.score(pool, {name: model})[name]
    else:
        anew = scores(model, parts["validation"], parts["test"], table.target_name)
    of_test = {metric: value for metric, value in anew.items() if metric.startswith("test_")}
    return replace(fitted, model=model, metrics=fitted.metrics | of_test, seconds=fitted.seconds + seconds)


def _write(files: dict[Path, bytes]) -> None:
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _result(what: str, future: Future[T]) -> T:
    try:
        return future.result()
    except BrokenExecutor:
        raise _killed(what) from None


def _killed(what: str) -> StageError:
    return StageError(f"{what}: its process was killed, perhaps for want of memory")


if __name__ == "__main__":
    run_stage(main)
