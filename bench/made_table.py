"""Make a large table to try the appliance with: ``python -m bench.made_table ROWS OUT``, OUT a .csv or a .parquet.

Twenty columns: twelve numbers, of which two miss values, three categories of 6, 40 and 1,000 levels, two booleans, a
date and a moment, and an integer. The target "value" depends on most of them, and a fifth of its variance is noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

LEVELS = {"kind": 6, "region": 40, "shop": 1000}


def made(rows: int, seed: int = 0) -> pd.DataFrame:
    """Return the table."""
    random = np.random.default_rng(seed)
    numbers = {f"x{number}": random.normal(size=rows) for number in range(1, 12)}
    numbers["price"] = random.lognormal(3.0, 0.6, rows)
    codes = {
        name: np.minimum(random.exponential(levels / 4, rows), levels - 1).astype(int)
        for name, levels in LEVELS.items()
    }
    day, hour = random.integers(0, 1000, rows), random.integers(0, 24 * 1000, rows)
    flags = {"member": random.random(rows) < 0.3, "weekend": day % 7 > 4}
    count = random.poisson(3, rows)
    value = (
        3 * numbers["x1"]
        + 2 * numbers["x2"] * (numbers["x3"] > 0)
        + np.abs(numbers["x4"]) * numbers["x5"]
        + 2 * np.log(numbers["price"])
        + sum(random.normal(0, 1.5, levels)[codes[name]] for name, levels in LEVELS.items())
        + 2 * np.sin(hour % 24 / 24 * 2 * np.pi)
        + 1.5 * flags["weekend"] * flags["member"]
        + 0.3 * count
        + day / 500
    )
    frame = pd.DataFrame(
        {
            **numbers,
            **{
                name: np.array([f"{name} {number}" for number in range(LEVELS[name])])[code]
                for name, code in codes.items()
            },
            **flags,
            "day": pd.Timestamp("2021-01-01") + pd.to_timedelta(day, "D"),
            "opened": pd.Timestamp("2022-03-01") + pd.to_timedelta(hour, "h"),
            "count": count,
            "value": (value + random.normal(0, 0.5 * value.std(), rows)).round(4),
        }
    )
    for name in ("x5", "x6"):
        frame.loc[random.random(rows) < 0.05, name] = np.nan
    return frame.astype(dict.fromkeys(LEVELS, "str"))


def main() -> None:
    """Write the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("rows", type=int, metavar="ROWS")
    arguments.add_argument("out", type=Path, metavar="OUT")
    given = arguments.parse_args()
    frame = made(given.rows)
    if given.out.suffix == ".parquet":
        frame.to_parquet(given.out, index=False)
    else:
        frame.to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
