"""The family lightgbm on a Dask cluster: trees of more rows than one memory holds.

The rows go to the workers batch by batch and stay there as float32 features; LightGBM's own Dask estimator grows the
trees. Rounding to float32 keeps the order of values, and a threshold lies between two of the rounded ones, so a row
goes the same way before and after; only values that differ by less than one part in ten million become the same.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from loguru import logger

from pipeline.code_identity import identity
from pipeline.stage_runner import StageError
from tableloop.model.coding import Matrix
from tableloop.model.light_boosting import LightBoosting, import_lightgbm
from tableloop.model.row_features import RowFeatures

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as Task

Batches = Iterator[tuple[Matrix, Matrix]]

ATTEMPTS: Final = 3  # LightGBM cannot go on without a worker that was killed: it begins again with the others
AHEAD: Final = 2  # batches on their way for each worker
SECONDS: Final = 10.0  # that the scheduler is waited for
SKLEARN_NAMES: Final = {
    "num_iterations": "n_estimators",
    "min_data_in_leaf": "min_child_samples",
    "min_sum_hessian_in_leaf": "min_child_weight",
    "bagging_fraction": "subsample",
    "bagging_freq": "subsample_freq",
    "feature_fraction": "colsample_bytree",
    "lambda_l1": "reg_alpha",
    "lambda_l2": "reg_lambda",
    "min_gain_to_split": "min_split_gain",
    "seed": "random_state",
}


def fit_on_cluster(
    features: RowFeatures, boosting: LightBoosting, batches: Callable[[], Batches], scheduler: str
) -> npt.NDArray[np.float64]:
    """Fit the trees to the features of all rows, and return the smallest and the largest target.

    Parameters
    ----------
    features
        Fitted.
    batches
        Returns the coded rows (n, columns) with their targets (n,), each time from the first one on.

    Raises
    ------
    StageError
        There is no scheduler, or no worker with our code; or workers were lost again and again.
    """
    from distributed import Client, KilledWorker  # noqa: PLC0415 - the default start has no use for it

    lost = (KilledWorker, CancelledError, OSError, import_lightgbm().basic.LightGBMError)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with Client(scheduler, timeout=SECONDS, set_as_default=False) as client, client.as_current():
                booster, ends = _fitted(client, features, boosting, batches())
        except lost as error:
            logger.warning("LightGBM on the cluster, attempt {} of {}: {}", attempt, ATTEMPTS, error)
            failure = error
        else:
            boosting.take(booster, len(features.get_feature_names_out()))
            return ends
    raise StageError(f"DASK_SCHEDULER={scheduler}: LightGBM could not be trained: {failure}") from failure


def _fitted(
    client: Client, features: RowFeatures, boosting: LightBoosting, batches: Batches
) -> tuple[Any, npt.NDArray[np.float64]]:
    """Return LightGBM's booster, and the smallest and the largest target."""
    import dask  # noqa: PLC0415 - as above
    import dask.array as da  # noqa: PLC0415

    lightgbm = import_lightgbm()
    parts, ends = _sent(client, features, batches)
    logger.info("LightGBM trains on {:,} rows on the cluster", sum(rows for rows, _, _ in parts))
    columns = len(features.get_feature_names_out())
    # Tasks that are done already: nothing is computed again for another view of the same rows.
    X = da.concatenate([da.from_delayed(dask.delayed(x), (rows, columns), np.float32) for rows, x, _ in parts])
    y = da.concatenate([da.from_delayed(dask.delayed(y), (rows,), np.float64) for rows, _, y in parts])
    params = {SKLEARN_NAMES.get(name, name): value for name, value in boosting.lightgbm_params.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parameter n_jobs will be ignored")  # each worker uses its threads
        model = lightgbm.DaskLGBMRegressor(client=client, **params)
        model.fit(X, y, categorical_feature=list(boosting.categorical) or "auto")
    return model.booster_, ends


def _sent(
    client: Client, features: RowFeatures, batches: Batches
) -> tuple[list[tuple[int, Task[Any], Task[Any]]], npt.NDArray[np.float64]]:
    """Return the batches on the workers, as (rows, features, targets), and the smallest and the largest target."""
    from distributed import wait  # noqa: PLC0415 - as above

    workers = _workers(client)
    parts: list[tuple[int, Task[Any], Task[Any]]] = []
    ends = np.array([np.inf, -np.inf])
    for number, (X, y) in enumerate(batches):
        here = {"workers": [workers[number % len(workers)]], "pure": False}
        (rows,) = client.scatter([(X, y)], workers=here["workers"], hash=False)
        made = client.submit(_made, features, rows, **here)
        parts.append((len(y), *(client.submit(operator.getitem, made, place, **here) for place in (0, 1))))
        ends = np.array([min(ends[0], y.min()), max(ends[1], y.max())])
        if number >= AHEAD * len(workers):
            wait(parts[number - AHEAD * len(workers)][1])
    wait([task for _, *tasks in parts for task in tasks])
    return parts, ends


def _made(features: RowFeatures, rows: tuple[Matrix, Matrix]) -> tuple[npt.NDArray[np.float32], Matrix]:
    X, y = rows
    return features.transform(X).astype(np.float32), y


def _workers(client: Client) -> list[str]:
    """Return the addresses of the workers that have our code, packages and number of threads."""
    ours = set(identity())
    found = client.scheduler_info(n_workers=-1)["workers"]
    workers = sorted(address for address, worker in found.items() if ours <= worker["resources"].keys())
    if not workers:
        raise StageError("no worker of the Dask cluster has the code of this process")
    return workers
