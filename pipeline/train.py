"""Second stage: every candidate fitted, calibrated, scored and written to disk. Nothing goes to MLflow here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from loguru import logger
from skops import io as skops_io

from pipeline.stage_runner import MODELS, PROCESSED, REPORTS, StageError, best_of, load_params, run_stage
from tableloop.evaluation.extrapolation import Limits, measure
from tableloop.evaluation.plots import write_plots
from tableloop.evaluation.scores import gate_scores, scores
from tableloop.model.candidates import Setting, build, kriging
from tableloop.model.coding import Matrix
from tableloop.model.conformal import ConformalRegressor
from tableloop.model.kernel_search import with_kernel
from tableloop.model.price_index import PriceIndex
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import Table, load_table

T = TypeVar("T")
BOOSTING = "hist_gradient_boosting"  # takes every table: estimates older values where no neighbours can
Params = Mapping[str, Any]  # the section `train` of params.yaml
Parts = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Fitted:
    """A candidate with its metrics, when its fit began (unix seconds) and how many seconds it took."""

    model: ConformalRegressor
    metrics: dict[str, float]
    started_at: float
    seconds: float


def setting_of(params: Params, table: Table) -> Setting:
    """Return what all candidates share."""
    place = (table.place.latitude, table.place.longitude) if table.place else None
    gaps = not all(column.required for column in table.features)
    return Setting(table.feature_names, place, params.get("kriging") or {}, params["seed"], table.kinds, gaps)


def completed(params: Params, table: Table, rows: pd.DataFrame) -> dict[str, Any]:
    """Return the parameters with what they leave to the data: the kernel and where the price index begins.

    An index is of ratios, and of differences where a value is zero or less and no lowest one is named.
    """
    X, y = _rows(rows, table)
    index = params.get("price_index")
    if index is not None:
        index = {"lowest_value": float(y.min()) if y.min() > 0 else None, **index}
    return {**params, "kriging": with_kernel(setting_of(params, table), X, y).kriging, "price_index": index}


def new_model(name: str, params: Params, table: Table) -> ConformalRegressor:
    """Return an unfitted candidate of params.yaml with its intervals."""
    estimator = build(name, params["candidates"][name] or {}, setting_of(params, table))
    names = list(table.feature_names)
    return ConformalRegressor(estimator, names, params["coverage"], params.get("least_error"), table.kinds)


def new_index(params: Params, table: Table) -> PriceIndex | None:
    """Return the unfitted index that carries older values to newer prices; None where the parameters have none."""
    index = params.get("price_index")
    if not index:
        return None
    setting = setting_of(params, table)
    if table.place:
        return PriceIndex(kriging(setting), **index)
    return PriceIndex(build(BOOSTING, params["candidates"].get(BOOSTING) or {}, setting), **index)


def fit_candidate(name: str, params: Params, table: Table, parts: Parts) -> ConformalRegressor:
    """Return the candidate fitted on the train rows, its intervals calibrated on the validation rows.

    Raises
    ------
    StageError
        Naming the candidate, whatever went wrong in it.
    """
    try:
        model = new_model(name, params, table)
        model.fit(*_rows(_some(parts["train"], _most(name, params)), table))
        return model.calibrate(*_rows(_some(parts["validation"], _most(name, params)), table))
    except Exception as error:
        raise StageError(f"candidate {name}: {type(error).__name__}: {error}") from error


def refit_winner(name: str, params: Params, table: Table, parts: Parts, labelled: pd.DataFrame) -> ConformalRegressor:
    """Return the candidate that won, fitted again on all rows that are not for testing.

    The choice is made, so the validation rows are worth more as training rows. Its intervals come from the same rows,
    each seen by models that did not know it. ``labelled`` rows come after the raw ones, and an index carries these to
    their prices.

    `train.most_rows` bounds the rows of the intervals here, a candidate's own those of all that it is fitted on.
    """
    rows = _some(_not_for_testing(parts), (params["candidates"][name] or {}).get("most_rows"))
    try:
        model = new_model(name, params, table)
        most = params.get("most_rows")
        if labelled.empty:
            return model.fit_calibrated(*_rows(rows, table), most_rows=most)
        rows = pd.concat([rows.assign(batch=0), labelled], ignore_index=True)
        index = new_index(params, table)
        return model.fit_calibrated(*_rows(rows, table), index=index, batch=rows["batch"], most_rows=most)
    except Exception as error:
        raise StageError(f"candidate {name}: {type(error).__name__}: {error}") from error


def at_present(params: Params, table: Table, parts: Parts, labelled: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the train and validation rows in prices of the newest labels, those among them.

    The index is learnt from train rows only, so that the validation rows stay what they are for.
    """
    together = {
        name: pd.concat([parts[name].assign(batch=0), labelled[labelled["part"] == name]], ignore_index=True)
        for name in ("train", "validation")
    }
    if index := new_index(params, table):
        index.fit(*_rows(together["train"], table), together["train"]["batch"].to_numpy(np.int64))
        for rows in together.values():
            rows[table.target_name] = index.renew(*_rows(rows, table), rows["batch"].to_numpy(np.int64))
    return together


def fit_all(pool: Executor, params: Params, table: Table, parts: Parts, labelled: pd.DataFrame) -> dict[str, Fitted]:
    """Return the candidates; with labels only those that are meant for them."""
    names, fitting = list(params["candidates"]), parts
    if len(labelled):
        names = [name for name in params.get("with_labels", ()) if name in names] or names
        fitting = {**parts, **at_present(params, table, parts, labelled)}
    fits = {name: pool.submit(_timed_fit, name, params, table, fitting) for name in names}
    fitted = {}
    for name, fit in fits.items():
        fitted[name] = _result(name, fit)
        logger.info(
            "{:<24} {:6.2f} s   custom_rmse {:.4f}", name, fitted[name].seconds, fitted[name].metrics["custom_rmse"]
        )
    return fitted


def limits_of(model: ConformalRegressor, params: Params, table: Table, parts: Parts) -> Limits:
    """Return what the winner cannot do."""
    return measure(
        model,
        *_rows(_not_for_testing(parts), table),
        *_rows(parts["test"], table),
        linear=build("linear", {}, setting_of(params, table)),
        latitude=table.place.latitude if table.place else None,
        **(params.get("limits") or {}),
    )


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
    parts = {part: pd.read_parquet(PROCESSED / f"{part}.parquet") for part in ("train", "validation", "test")}
    feedback = pd.read_parquet(PROCESSED / "feedback.parquet")
    labelled = feedback[feedback["part"].isin(["train", "validation"])]
    gate = feedback[feedback["part"] == "gate"]
    params = completed(params, table, parts["train"])
    MODELS.mkdir(exist_ok=True)
    REPORTS.mkdir(exist_ok=True)
    # One candidate a process, each with one thread: the numbers are those of one core, in the time of all.
    with ProcessPoolExecutor() as pool:
        fitted = fit_all(pool, params, table, parts, labelled)
        winner = best_of({name: candidate.metrics for name, candidate in fitted.items()})
        writing = {
            name: pool.submit(_write, name, candidate.model, parts["test"], table, params)
            for name, candidate in fitted.items()
            if name != winner
        }
        fitted[winner] = _refitted(fitted[winner], winner, params, table, parts=parts, labelled=labelled)
        writing[winner] = pool.submit(_write, winner, fitted[winner].model, parts["test"], table, params)
        limits = limits_of(fitted[winner].model, params, table, parts)
        for name, written in writing.items():
            _result(name, written)
    if len(gate):
        for candidate in fitted.values():
            candidate.metrics.update(gate_scores(candidate.model, gate, table.target_name))
    timings = {
        name: {"started_at": round(candidate.started_at, 3), "train_seconds": round(candidate.seconds, 3)}
        for name, candidate in fitted.items()
    }
    metrics = {name: candidate.metrics for name, candidate in fitted.items()}
    for report, content in (("limits", limits), ("metrics", metrics), ("timings", timings)):
        (REPORTS / f"{report}.json").write_text(json.dumps(content, indent=2) + "\n")
    logger.info("all candidates\n{}", summary(fitted))


def _timed_fit(name: str, params: Params, table: Table, parts: Parts) -> Fitted:
    started_at, start = time.time(), time.perf_counter()
    model = fit_candidate(name, params, table, parts)
    seconds = time.perf_counter() - start
    return Fitted(model, scores(model, parts["validation"], parts["test"], table.target_name), started_at, seconds)


def _refitted(
    fitted: Fitted, name: str, params: Params, table: Table, *, parts: Parts, labelled: pd.DataFrame
) -> Fitted:
    """Return the winner fitted again. What it says of the validation rows stays: the new model has seen them."""
    start = time.perf_counter()
    model = refit_winner(name, params, table, parts, labelled)
    seconds = time.perf_counter() - start
    logger.info("{:<24} {:6.2f} s   on train and validation rows", name, seconds)
    anew = scores(model, parts["validation"], parts["test"], table.target_name)
    of_test = {metric: value for metric, value in anew.items() if metric.startswith("test_")}
    return replace(fitted, model=model, metrics=fitted.metrics | of_test, seconds=fitted.seconds + seconds)


def _result(name: str, future: Future[T]) -> T:
    try:
        return future.result()
    except BrokenProcessPool:
        raise StageError(f"candidate {name}: its process was killed, perhaps for want of memory") from None


def _write(name: str, model: ConformalRegressor, test: pd.DataFrame, table: Table, params: Params) -> None:
    _save(name, model)
    write_plots(
        REPORTS / "plots" / name,
        model,
        test,
        table,
        importance_rows=params["importance_rows"],
        repeats=params["importance_repeats"],
        seed=params["seed"],
    )


def _not_for_testing(parts: Parts) -> pd.DataFrame:
    return pd.concat([parts["train"], parts["validation"]], ignore_index=True)


def _most(name: str, params: Params) -> int | None:
    """Return how many rows a candidate is compared on at most."""
    bounds = (params.get("most_rows"), (params["candidates"][name] or {}).get("most_rows"))
    return min((bound for bound in bounds if bound is not None), default=None)


def _some(rows: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """Return at most so many of the rows, the same ones each time, in their order."""
    if most is None or len(rows) <= most:
        return rows
    return rows.iloc[np.sort(np.random.default_rng(0).permutation(len(rows))[:most])].reset_index(drop=True)


def _rows(part: pd.DataFrame, table: Table) -> tuple[Matrix, Matrix]:
    return table.coding.frame(part), part[table.target_name].to_numpy(np.float64)


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
