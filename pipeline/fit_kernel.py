"""Fit the constants of the kriging kernel: ``python -m pipeline.fit_kernel``, some minutes, offline.

The constants are those that predict training rows best from their neighbours alone, each row left out of its own
estimate. Only rows of the train part of ``pipeline.preprocess.split`` take part, so neither the validation nor the
test part has a say. The result is written into params.yaml, where the spatial candidate reads it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize

from pipeline.preprocess import check, split
from pipeline.stage_runner import RAW_DATA, load_params
from tableloop.model.spatial import KERNEL_NAMES, SpatialFeatures
from tableloop.table import FEATURE_NAMES, TARGET

Matrix = npt.NDArray[np.float64]

PARAMS = Path("params.yaml")
EVALUATIONS = 500
# Round numbers: a tenth of a degree, a tenth of the variance, some standard deviations.
START = {
    "place_share": 0.3, "place_length": 0.1, "noise": 0.1, "place": 2.0,
    **dict.fromkeys(FEATURE_NAMES[:6], 6.0),
}  # fmt: skip


def fit_kernel(X: Matrix, y: Matrix, evaluations: int = EVALUATIONS) -> dict[str, float]:
    """Return the constants with the smallest leave-one-out error of the kriging estimate.

    The search is local and without chance: the same rows and libraries give the same constants. It ends where no step
    gains a part in 100,000, since a better fit to these rows is no better on others, or after so many evaluations.
    """

    def error(point: Matrix) -> float:
        return leave_one_out_error(_constants(point), X, y)

    start = np.array([_to_free(name, START[name]) for name in KERNEL_NAMES])
    # Steps of 3 % for the slopes: with smaller ones, the places that enter or leave the kriging are all they see.
    options = {"eps": 0.03, "ftol": 1e-5, "maxfun": evaluations}
    found = minimize(error, start, method="L-BFGS-B", options=options)
    return {name: round(value, 4) for name, value in _constants(found.x).items()}


def leave_one_out_error(kernel: Mapping[str, float], X: Matrix, y: Matrix) -> float:
    """Return the RMSE of the kriging estimates of rows of shape (n, 8), each made from the other rows."""
    estimate = SpatialFeatures(kernel).fit_transform(X, y)[:, -1]
    return float(np.sqrt(np.mean((estimate - y) ** 2)))


def written(params: str, kernel: Mapping[str, float]) -> str:
    """Return the text of params.yaml with new constants; comments and everything else stay."""
    for name, value in kernel.items():
        params, count = re.subn(rf"(?m)^(        {name}: ).*$", rf"\g<1>{value:g}", params)
        if count != 1:
            raise ValueError(
                f"params.yaml must hold one line '        {name}: …' in the kernel of the spatial candidate"
            )
    return params


def _to_free(name: str, value: float) -> float:
    """Return a constant as a number without bounds: a share by its log odds, all others by their logarithm."""
    return float(np.log(value / (1 - value)) if name == "place_share" else np.log(value))


def _constants(point: Matrix) -> dict[str, float]:
    values = dict(zip(KERNEL_NAMES, np.exp(point).tolist(), strict=True))
    values["place_share"] /= 1 + values["place_share"]
    return values


def main() -> None:
    """Read the raw data and params.yaml, write the constants into params.yaml."""
    params = load_params()
    fractions = params["preprocess"]
    rows = split(check(pd.read_csv(RAW_DATA)), fractions["test_fraction"], fractions["validation_fraction"])["train"]
    X, y = rows[list(FEATURE_NAMES)].to_numpy(np.float64), rows[TARGET.name].to_numpy(np.float64)
    before = leave_one_out_error(params["train"]["candidates"]["spatial"]["kernel"], X, y)
    start = time.perf_counter()
    kernel = fit_kernel(X, y)
    PARAMS.write_text(written(PARAMS.read_text(), kernel))
    sys.stdout.write(
        f"leave-one-out error of {len(y):,} training rows: {before:.4f} with the old constants, "
        f"{leave_one_out_error(kernel, X, y):.4f} with the new ({time.perf_counter() - start:.0f} s)\n"
    )


if __name__ == "__main__":
    main()
