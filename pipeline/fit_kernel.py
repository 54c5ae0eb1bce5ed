"""Fit the constants of the kriging kernel: ``python -m pipeline.fit_kernel``, some minutes, offline.

The constants are those that predict training rows best from their neighbours alone, each row left out of its own
estimate. Only rows of the train part of ``pipeline.preprocess.split`` take part, so neither the validation nor the
test part has a say. The result is written into params.yaml, as `train.kriging.kernel`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize

from pipeline.preprocess import check, split
from pipeline.stage_runner import load_params, raw_data
from pipeline.train import setting_of
from tableloop.model.candidates import Setting, kriging
from tableloop.model.conformal import as_matrix
from tableloop.table import load_table

Matrix = npt.NDArray[np.float64]

PARAMS = Path("params.yaml")
EVALUATIONS = 500
# Where the search begins: a tenth of a degree, a tenth of the variance, some standard deviations.
START = {"place_share": 0.3, "place_length": 0.1, "noise": 0.1, "place": 2.0}
START_LENGTH = 6.0  # of every input

Kernel = Mapping[str, Any]  # `train.kriging.kernel` of params.yaml


def fit_kernel(X: Matrix, y: Matrix, setting: Setting, evaluations: int = EVALUATIONS) -> dict[str, Any]:
    """Return the setting's kernel with the numbers that give the smallest leave-one-out error.

    The search is local and without chance: the same rows and libraries give the same constants. It ends where no step
    gains a part in 100,000, since a better fit to these rows is no better on others, or after so many evaluations.
    """
    start = starting_kernel(setting.kriging["kernel"])

    def error(point: Matrix) -> float:
        return leave_one_out_error(_kernel(point, start), X, y, setting)

    # Steps of 3 % for the slopes: with smaller ones, the places that enter or leave the kriging are all they see.
    options = {"eps": 0.03, "ftol": 1e-5, "maxfun": evaluations}
    found = minimize(error, _free(start), method="L-BFGS-B", options=options)
    kernel = _kernel(found.x, start)
    inputs = {name: {**term, "length": round(term["length"], 4)} for name, term in kernel["inputs"].items()}
    return {name: round(kernel[name], 4) for name in START} | {"inputs": inputs}


def starting_kernel(kernel: Kernel) -> dict[str, Any]:
    """Return a kernel of the same inputs with the numbers from which the search begins."""
    return START | {"inputs": {name: {**term, "length": START_LENGTH} for name, term in kernel["inputs"].items()}}


def leave_one_out_error(kernel: Kernel, X: Matrix, y: Matrix, setting: Setting) -> float:
    """Return the RMSE of the kriging estimates of rows of shape (n, columns), each made from the other rows."""
    changed = replace(setting, kriging={**setting.kriging, "kernel": kernel})
    estimate = kriging(changed).fit_transform(X, y)[:, -1]
    return float(np.sqrt(np.mean((estimate - y) ** 2)))


def written(params: str, kernel: Kernel) -> str:
    """Return the text of params.yaml with new constants; comments and everything else stay."""
    lines = [(rf"      {name}: ", kernel[name]) for name in START]
    lines += [(rf"        {name}: \{{.*?length: ", term["length"]) for name, term in kernel["inputs"].items()]
    before, block, rest = params.partition("\n    kernel: ")
    for line, value in lines:
        rest, count = re.subn(rf"(?m)^({line})[0-9.e+-]+", rf"\g<1>{value:g}", rest, count=1)
        if count != 1:
            raise ValueError(f"params.yaml must hold a line like '{line}…' in train.kriging.kernel")
    return before + block + rest


def _free(kernel: Kernel) -> Matrix:
    """Return the constants as numbers without bounds: the share by its log odds, all others by their logarithm."""
    share = kernel["place_share"] / (1 - kernel["place_share"])
    others = [kernel[name] for name in START if name != "place_share"]
    return np.log([share, *others, *(term["length"] for term in kernel["inputs"].values())])


def _kernel(point: Matrix, like: Kernel) -> dict[str, Any]:
    """Return the kernel of such numbers, with the inputs of another."""
    odds, *numbers = np.exp(point).tolist()
    constants = {"place_share": odds / (1 + odds)} | dict(zip([*START][1:], numbers, strict=False))
    lengths = zip(like["inputs"].items(), numbers[len(START) - 1 :], strict=True)
    return constants | {"inputs": {name: {**term, "length": length} for (name, term), length in lengths}}


def main() -> None:
    """Read the raw data and params.yaml, write the constants into params.yaml."""
    params, table = load_params(), load_table()
    setting = setting_of(params["train"], table)
    fractions = params["preprocess"]
    checked = check(pd.read_csv(raw_data(table)), table)
    parts = split(checked, table.feature_names, fractions["test_fraction"], fractions["validation_fraction"])
    rows = parts["train"]
    X, y = as_matrix(rows, table.feature_names), rows[table.target_name].to_numpy(np.float64)
    before = leave_one_out_error(setting.kriging["kernel"], X, y, setting)
    start = time.perf_counter()
    kernel = fit_kernel(X, y, setting)
    PARAMS.write_text(written(PARAMS.read_text(), kernel))
    sys.stdout.write(
        f"leave-one-out error of {len(y):,} training rows: {before:.4f} with the old constants, "
        f"{leave_one_out_error(kernel, X, y, setting):.4f} with the new ({time.perf_counter() - start:.0f} s)\n"
    )


if __name__ == "__main__":
    main()
