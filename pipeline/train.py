"""Second stage: every candidate fitted, calibrated, scored and written to disk. Nothing goes to MLflow here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from loguru import logger
from skops import io as skops_io

from pipeline.stage_runner import MODELS, PROCESSED, REPORTS, StageError, best_of, load_params, run_stage
from tableloop.evaluation.extrapolation import measure
from tableloop.evaluation.plots import write_plots
from tableloop.evaluation.scores import gate_scores, scores, target
from tableloop.model.candidates import build
from tableloop.model.conformal import ConformalRegressor, Matrix, as_matrix
from tableloop.model.price_index import PriceIndex
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import FEATURE_NAMES, TARGET

T = TypeVar("T")


def fit_candidate(
    name: str, params: dict[str, Any], parts: Mapping[str, pd.DataFrame], *, seed: int, coverage: float
) -> ConformalRegressor:
    """Return the candidate fitted on the train rows, its intervals calibrated on the validation rows.

    Raises
    ------
    StageError
        Naming the candidate, whatever went wrong in it.
    """
    try:
        model = ConformalRegressor(build(name, params, seed), coverage)
        model.fit(parts["train"][list(FEATURE_NAMES)], target(parts["train"]))
        return model.calibrate(parts["validation"][list(FEATURE_NAMES)], target(parts["validation"]))
    except Exception as error:
        raise StageError(f"candidate {name}: {type(error).__name__}: {error}") from error


def refit_winner(
    name: str,
    params: dict[str, Any],
    parts: Mapping[str, pd.DataFrame],
    *,
    seed: int,
    coverage: float,
    labelled: pd.DataFrame | None = None,
    index: PriceIndex | None = None,
) -> ConformalRegressor:
    """Return the candidate that won, fitted again on all rows that are not for testing.

    The choice is made, so the validation rows are worth more as training rows. Its intervals come from the same rows,
    each seen by models that did not know it. ``labelled`` rows come after those of the census, and the index carries
    these to their prices.
    """
    rows = pd.concat([parts["train"], parts["validation"]], ignore_index=True)
    try:
        model = ConformalRegressor(build(name, params, seed), coverage)
        if labelled is None or labelled.empty:
            return model.fit_calibrated(rows[list(FEATURE_NAMES)], target(rows))
        rows = pd.concat([rows.assign(batch=0), labelled], ignore_index=True)
        return model.fit_calibrated(rows[list(FEATURE_NAMES)], target(rows), index=index, batch=rows["batch"])
    except Exception as error:
        raise StageError(f"candidate {name}: {type(error).__name__}: {error}") from error


def at_present(
    parts: Mapping[str, pd.DataFrame], labelled: pd.DataFrame, index: PriceIndex
) -> dict[str, pd.DataFrame]:
    """Return the train and validation rows in prices of the newest labels, those among them.

    The index is learnt from train rows only, so that the validation rows stay what they are for.
    """
    together = {
        name: pd.concat([parts[name].assign(batch=0), labelled[labelled["part"] == name]], ignore_index=True)
        for name in ("train", "validation")
    }
    train = together["train"]
    index.fit(as_matrix(train), target(train), train["batch"].to_numpy(np.int64))
    for rows in together.values():
        rows[TARGET.name] = index.renew(as_matrix(rows), target(rows), rows["batch"].to_numpy(np.int64))
    return together


def table(metrics: dict[str, dict[str, float]], seconds: dict[str, float]) -> str:
    """Return the candidates as lines of text, the best first."""
    columns = ("custom_rmse", "custom_r2_score", "test_rmse", "test_r2", "test_mae")
    lines = [f"{'candidate':<24}" + "".join(f"{column:>17}" for column in columns) + f"{'seconds':>10}"]
    for name in sorted(metrics, key=lambda name: metrics[name]["custom_rmse"]):
        values = "".join(f"{metrics[name][column]:>17.4f}" for column in columns)
        lines.append(f"{name:<24}{values}{seconds[name]:>10.2f}")
    return "\n".join(lines)


def main() -> None:
    """Read the parts, write the models, their metrics, plots and timings."""
    params = load_params()["train"]
    parts = {part: pd.read_parquet(PROCESSED / f"{part}.parquet") for part in ("train", "validation", "test")}
    feedback = pd.read_parquet(PROCESSED / "feedback.parquet")
    labelled = feedback[feedback["part"].isin(["train", "validation"])]
    gate = feedback[feedback["part"] == "gate"]
    candidates: dict[str, Any] = params["candidates"]
    index = PriceIndex(candidates.get("spatial", {}).get("kernel"), **params["price_index"])
    fitting = parts
    if len(labelled):
        candidates = {name: candidates[name] for name in params["with_labels"] if name in candidates} or candidates
        fitting = at_present(parts, labelled, index)
    MODELS.mkdir(exist_ok=True)
    REPORTS.mkdir(exist_ok=True)
    metrics: dict[str, dict[str, float]] = {}
    timings: dict[str, dict[str, float]] = {}
    models: dict[str, ConformalRegressor] = {}
    # One candidate a process, each with one thread: the numbers are those of one core, in the time of all.
    with ProcessPoolExecutor() as pool:
        fits = {
            name: pool.submit(
                _timed_fit, name, candidate or {}, fitting, seed=params["seed"], coverage=params["coverage"]
            )
            for name, candidate in candidates.items()
        }
        for name, fit in fits.items():
            models[name], started_at, seconds = _result(name, fit)
            metrics[name] = scores(models[name], fitting["validation"], parts["test"])
            timings[name] = {"started_at": round(started_at, 3), "train_seconds": round(seconds, 3)}
            logger.info("{:<24} {:6.2f} s   custom_rmse {:.4f}", name, seconds, metrics[name]["custom_rmse"])

        winner, start = best_of(metrics), time.perf_counter()
        written = {
            name: pool.submit(_write, name, model, parts["test"], params)
            for name, model in models.items()
            if name != winner
        }
        models[winner] = refit_winner(
            winner,
            candidates[winner] or {},
            parts,
            seed=params["seed"],
            coverage=params["coverage"],
            labelled=labelled,
            index=index,
        )
        seconds = time.perf_counter() - start
        written[winner] = pool.submit(_write, winner, models[winner], parts["test"], params)
        timings[winner]["train_seconds"] = round(timings[winner]["train_seconds"] + seconds, 3)
        # What it says of the validation rows stays: the refitted model has seen them.
        refitted = scores(models[winner], fitting["validation"], parts["test"])
        metrics[winner] |= {name: value for name, value in refitted.items() if name.startswith("test_")}
        logger.info("{:<24} {:6.2f} s   on train and validation rows", winner, seconds)
        if len(gate):
            for name, model in models.items():
                metrics[name] |= gate_scores(model, gate)

        fitted = pd.concat([parts["train"], parts["validation"]], ignore_index=True)
        limits = measure(models[winner], *_rows(fitted), *_rows(parts["test"]))
        (REPORTS / "limits.json").write_text(json.dumps(limits, indent=2) + "\n")
        for name, writing in written.items():
            _result(name, writing)
    (REPORTS / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (REPORTS / "timings.json").write_text(json.dumps(timings, indent=2) + "\n")
    logger.info(
        "all candidates\n{}",
        table(metrics, {name: timing["train_seconds"] for name, timing in timings.items()}),
    )


def _timed_fit(
    name: str, params: dict[str, Any], parts: Mapping[str, pd.DataFrame], *, seed: int, coverage: float
) -> tuple[ConformalRegressor, float, float]:
    """Return the fitted candidate, when its fit began (unix seconds) and how many seconds it took."""
    started_at, start = time.time(), time.perf_counter()
    model = fit_candidate(name, params, parts, seed=seed, coverage=coverage)
    return model, started_at, time.perf_counter() - start


def _result(name: str, future: Future[T]) -> T:
    try:
        return future.result()
    except BrokenProcessPool:
        raise StageError(f"candidate {name}: its process was killed, perhaps for want of memory") from None


def _write(name: str, model: ConformalRegressor, test: pd.DataFrame, params: dict[str, Any]) -> None:
    _save(name, model)
    write_plots(
        REPORTS / "plots" / name,
        model,
        test,
        importance_rows=params["importance_rows"],
        repeats=params["importance_repeats"],
        seed=params["seed"],
    )


def _rows(part: pd.DataFrame) -> tuple[Matrix, Matrix]:
    return as_matrix(part), target(part)


def _save(name: str, model: ConformalRegressor) -> None:
    """Write the model, unless it holds a type that nobody has looked at."""
    dumped = skops_io.dumps(model)
    unknown = set(skops_io.get_untrusted_types(data=dumped)) - set(TRUSTED_TYPES)
    if unknown:
        missing = ", ".join(sorted(unknown))
        raise StageError(f"candidate {name}: types missing in tableloop/model/trusted_types.py: {missing}")
    (MODELS / f"{name}.skops").write_bytes(dumped)


if __name__ == "__main__":
    run_stage(main)
