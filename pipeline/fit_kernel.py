"""Fit the constants of the kriging kernel: ``python -m pipeline.fit_kernel``, some minutes, offline.

The constants are those that predict training rows best from their neighbours alone, each row left out of its own
estimate. Only rows of the train part of ``pipeline.preprocess.split`` take part, so neither the validation nor the
test part has a say. The result is written into params.yaml, as `train.kriging.kernel`.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.fitting import setting_of
from pipeline.preprocess import split
from pipeline.raw_rows import check
from pipeline.stage_runner import load_params, raw_data
from tableloop.model.conformal import as_matrix
from tableloop.model.kernel_search import START, Kernel, fit_kernel, leave_one_out_error
from tableloop.table import load_table

PARAMS = Path("params.yaml")


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
