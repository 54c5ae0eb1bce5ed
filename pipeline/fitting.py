"""What is computed in a training, each a function of its arguments alone: any process of any machine may run it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from skops import io as skops_io

from pipeline.stage_runner import MODELS, REPORTS, StageError
from tableloop.evaluation.extrapolation import Limits, measure
from tableloop.evaluation.plots import draw_plots
from tableloop.evaluation.scores import scores
from tableloop.model.candidates import Setting, build, kriging
from tableloop.model.coding import Matrix
from tableloop.model.conformal import ConformalRegressor, Run
from tableloop.model.kernel_search import with_kernel
from tableloop.model.price_index import PriceIndex
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import Table

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


def fit_and_score(name: str, params: Params, table: Table, parts: Parts) -> Fitted:
    """Return the fitted candidate with its scores of the validation and test rows."""
    started_at, start = time.time(), time.perf_counter()
    model = fit_candidate(name, params, table, parts)
    seconds = time.perf_counter() - start
    return Fitted(model, scores(model, parts["validation"], parts["test"], table.target_name), started_at, seconds)


def refit_winner(
    name: str, params: Params, table: Table, parts: Parts, labelled: pd.DataFrame, *, run: Run = map
) -> ConformalRegressor:
    """Return the candidate that won, fitted again on all rows that are not for testing.

    The choice is made, so the validation rows are worth more as training rows. Its intervals come from the same rows,
    each seen by models that did not know it. ``labelled`` rows come after the raw ones, and an index carries these to
    their prices.

    `train.most_rows` bounds the rows of the intervals here, a candidate's own those of all that it is fitted on.
    ``run`` is that of `ConformalRegressor.fit_calibrated`.

    Raises
    ------
    StageError
        As `fit_candidate`.
    """
    rows = _some(_not_for_testing(parts), (params["candidates"][name] or {}).get("most_rows"))
    try:
        model = new_model(name, params, table)
        most = params.get("most_rows")
        if labelled.empty:
            return model.fit_calibrated(*_rows(rows, table), most_rows=most, run=run)
        rows = pd.concat([rows.assign(batch=0), labelled], ignore_index=True)
        index = new_index(params, table)
        return model.fit_calibrated(*_rows(rows, table), index=index, batch=rows["batch"], most_rows=most, run=run)
    except (StageError, BrokenExecutor):
        raise
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


def files_of(
    name: str, model: ConformalRegressor, test: pd.DataFrame, table: Table, params: Params
) -> dict[Path, bytes]:
    """Return the files of a candidate, by their paths in the workspace: the model and its plots of the test rows.

    Raises
    ------
    StageError
        The model holds a type that nobody has looked at.
    """
    dumped = skops_io.dumps(model)
    unknown = set(skops_io.get_untrusted_types(data=dumped)) - set(TRUSTED_TYPES)
    if unknown:
        missing = ", ".join(sorted(unknown))
        raise StageError(f"candidate {name}: types missing in tableloop/model/trusted_types.py: {missing}")
    plots = draw_plots(
        model,
        test,
        table,
        importance_rows=params["importance_rows"],
        repeats=params["importance_repeats"],
        seed=params["seed"],
    )
    drawn = {REPORTS / "plots" / name / file: content for file, content in plots.items()}
    return {MODELS / f"{name}.skops": dumped, **drawn}


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
