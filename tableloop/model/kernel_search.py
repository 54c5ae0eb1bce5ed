"""Find the constants of the kriging kernel that predict training rows best from their neighbours alone.

Each row is left out of its own estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from tableloop.model.candidates import Setting, kriging
from tableloop.model.coding import Matrix
from tableloop.model.kriging import KERNEL

EVALUATIONS = 500
# Where the search begins: a tenth of a degree, a tenth of the variance, some standard deviations.
START = {"place_share": 0.3, "place_length": 0.1, "noise": 0.1, "place": 2.0}
START_LENGTH = 6.0  # of every input
# Of a search that a training makes by itself, half a minute: rows that are known, and those whose error counts.
KNOWN, ASKED = 20_000, 2_000
MOST_INPUTS = 8

Kernel = Mapping[str, Any]  # `train.kriging.kernel` of params.yaml


def with_kernel(setting: Setting, X: Matrix, y: Matrix) -> Setting:
    """Return the setting with a kernel found by a short search, if it has a place and no whole kernel yet.

    Rows are of shape (n, columns), targets of shape (n,); a sample of them takes part.
    """
    kernel = setting.kriging.get("kernel") or {}
    if setting.place is None or (
        kernel.keys() >= {*KERNEL, "inputs"} and all("length" in term for term in kernel["inputs"].values())
    ):
        return setting
    known = np.random.default_rng(0).permutation(len(X))[:KNOWN]
    inputs = kernel.get("inputs") or kernel_inputs(X[known], y[known], setting)
    started = replace(setting, kriging={**setting.kriging, "kernel": {"inputs": inputs}})
    return replace(
        setting, kriging={**setting.kriging, "kernel": fit_kernel(X[known], y[known], started, asked=ASKED)}
    )


def kernel_inputs(X: Matrix, y: Matrix, setting: Setting) -> dict[str, dict[str, Any]]:
    """Return terms of the plain numbers that go with the target most, clipped to where nearly all rows are.

    Of a long tail the logarithm is taken: it would move a few rows away from all others.
    """
    terms = {}
    for name, values in zip(setting.columns, X.T, strict=True):
        present = np.isfinite(values)
        if name in setting.kinds or name in (setting.place or ()) or present.sum() < 2:
            continue
        low, middle, high = np.quantile(values[present], [0.005, 0.5, 0.995]).tolist()
        if low == high:
            continue
        term: dict[str, Any] = {"clip": [low, high]}
        if low >= 0 and high - middle > 3 * (middle - low):
            term |= {"plus": 0.0 if low > 0 else (middle or high) / 10, "log": True}
        terms[name] = abs(np.corrcoef(_ranks(values[present]), _ranks(y[present]))[0, 1]), term
    best = sorted(terms, key=lambda name: -terms[name][0])[:MOST_INPUTS]
    return {name: term for name, (_, term) in terms.items() if name in best}


def fit_kernel(
    X: Matrix, y: Matrix, setting: Setting, evaluations: int = EVALUATIONS, asked: int | None = None
) -> dict[str, Any]:
    """Return the setting's kernel with the numbers that give the smallest leave-one-out error of the first rows.

    The search is local and without chance: the same rows and libraries give the same constants. It ends where no step
    gains a part in 100,000, since a better fit to these rows is no better on others, or after so many evaluations.
    """
    start = starting_kernel(setting.kriging["kernel"])

    def error(point: Matrix) -> float:
        return leave_one_out_error(_kernel(point, start), X, y, setting, asked)

    # Steps of 3 % for the slopes: with smaller ones, the places that enter or leave the kriging are all they see.
    options = {"eps": 0.03, "ftol": 1e-5, "maxfun": evaluations}
    found = minimize(error, _free(start), method="L-BFGS-B", options=options)
    kernel = _kernel(found.x, start)
    inputs = {name: {**term, "length": round(term["length"], 4)} for name, term in kernel["inputs"].items()}
    return {name: round(kernel[name], 4) for name in START} | {"inputs": inputs}


def starting_kernel(kernel: Kernel) -> dict[str, Any]:
    """Return a kernel of the same inputs with the numbers from which the search begins."""
    return START | {"inputs": {name: {**term, "length": START_LENGTH} for name, term in kernel["inputs"].items()}}


def leave_one_out_error(kernel: Kernel, X: Matrix, y: Matrix, setting: Setting, asked: int | None = None) -> float:
    """Return the RMSE of the kriging estimates of the first rows of (n, columns), each made from all other rows."""
    changed = replace(setting, kriging={**setting.kriging, "kernel": kernel})
    estimate = kriging(changed).fit(X, y).left_out(X, np.arange(len(X))[:asked])[:, -1]
    return float(np.sqrt(np.mean((estimate - y[:asked]) ** 2)))


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


def _ranks(values: Matrix) -> Matrix:
    return np.argsort(np.argsort(values)).astype(np.float64)
