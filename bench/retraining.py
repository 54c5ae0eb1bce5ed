"""What to do with old rows when the market has changed: ``python -m bench.retraining``, a minute or two of one core.

The market is that of the table's story: some values rise by a factor. Some test rows come back with their new
values as labels, the rest ask what was learnt. Each line is a way to train the shipped spatial model on the old rows
and those labels; the last line of each block is what `pipeline.train` does. The last block is a market that has not
changed, where the old rows are as good as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import root_mean_squared_error
from threadpoolctl import threadpool_limits

from pipeline.fitting import new_index, new_model
from pipeline.stage_runner import load_params
from scenarios.market import Market, split_rows
from tableloop.model.conformal import as_matrix
from tableloop.model.spatial import OffsetRegressor, SpatialFeatures
from tableloop.table import Table, load_table

Matrix = npt.NDArray[np.float64]

LABELS = (200, 500, 1000)
ASKED_FROM = 1500  # the rows from here on ask
WEIGHTS = (1.0, 0.3, 0.1, 0.03)


def weighted(
    X: Matrix, y: Matrix, batch: npt.NDArray[np.int64], old: float, table: Table
) -> Callable[[Matrix], Matrix]:
    """Return the predictions of the spatial model whose trees weigh old rows so much; neighbours stay as they are."""
    model = new_model("spatial", load_params()["train"], table).estimator
    spatial, regress = model.named_steps["spatial"], model.named_steps["regress"]
    assert isinstance(spatial, SpatialFeatures)
    assert isinstance(regress, OffsetRegressor)
    features = spatial.fit_transform(X, y)
    regressor = regress.regressor
    regressor.fit(features, y - regress.offset(features), sample_weight=np.where(batch == 0, old, 1.0))

    def predict(rows: Matrix) -> Matrix:
        asked = spatial.transform(rows)
        return np.asarray(regressor.predict(asked) + regress.offset(asked))

    return predict


def compare(market: Market, old: pd.DataFrame, values: Matrix, labels: int, table: Table) -> list[str]:
    """Return the lines of one block: the error of each way on rows whose labels nobody has."""
    X_old, y_old = as_matrix(old, table.feature_names), old[table.target_name].to_numpy(np.float64)
    X, y = np.concatenate([X_old, market.features[:labels]]), np.concatenate([y_old, values[:labels]])
    batch = np.repeat([0, 1], [len(y_old), labels])
    asked, actual = market.features[ASKED_FROM:], values[ASKED_FROM:]
    lines = []
    for weight in WEIGHTS:
        error = root_mean_squared_error(actual, weighted(X, y, batch, weight, table)(asked))
        lines.append(f"old rows weigh {weight:<4}            {error:.3f}")
    newest = batch == 1
    error = root_mean_squared_error(actual, weighted(X[newest], y[newest], batch[newest], 1.0, table)(asked))
    lines.append(f"labels only                    {error:.3f}")
    params = load_params()["train"]
    model = new_model("spatial", params, table)
    model.fit_calibrated(X, y, index=new_index(params, table), batch=batch)
    predicted, low, high = model.predict_interval(asked)
    coverage = np.mean((low <= actual) & (actual <= high))
    error = root_mean_squared_error(actual, predicted)
    lines.append(f"old values carried by an index {error:.3f}   intervals hold {coverage:.1%} and are "
                 f"{np.mean(high - low):.2f} wide")  # fmt: skip
    return lines


def main() -> None:
    """Print a block for each number of labels, then one of a market that has not changed."""
    table = load_table()
    parts = split_rows(table)
    old, market = pd.concat([parts["train"], parts["validation"]]), Market(parts["test"], table)
    with threadpool_limits(1):
        for title, values, labels in (
            *((f"a changed market, {labels} labels", market.changed, labels) for labels in LABELS),
            ("nothing has changed, 500 labels", market.values, 500),
        ):
            sys.stdout.write(f"{title}: RMSE\n")
            for line in compare(market, old, values, labels, table):
                sys.stdout.write(f"  {line}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
