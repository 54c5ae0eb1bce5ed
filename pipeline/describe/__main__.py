"""Make a table of a file: ``python -m pipeline.describe FILE --target COLUMN``, the command behind ``make table``.

It writes a directory with `table.yaml`, the data in one plain form, and `params.yaml`, and prints what it found and
what a person should look at.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.describe.contract import contract
from pipeline.describe.description import DATES, Column, Description, describe
from pipeline.describe.parameters import parameters
from pipeline.describe.raw_file import FileError, read_raw
from tableloop.table import FILE, load_table

TABLES = Path("tables")
MOST_CSV_ROWS = 200_000  # of more, CSV is slow to read
MOST_SHOWN = 4  # levels of a column


def make_table(
    file: Path,
    target: str,
    *,
    name: str = "",
    directory: Path | None = None,
    replace: bool = False,
    **choices: Any,
) -> tuple[Path, Description]:
    """Write the directory of a table, and return it with what was found; ``choices`` are those of `describe`.

    Raises
    ------
    FileError
        No table can be made of the file, or there is such a directory.
    """
    name = slug(name or re.sub(r"\..*", "", file.name))
    directory = directory or TABLES / name
    if directory.exists() and not replace:
        raise FileError(f"{directory} exists: name another one with NAME=…, or replace it with FORCE=1")
    found = describe(read_raw(file, target), target, **choices)
    kind = "csv" if found.rows <= MOST_CSV_ROWS else "parquet"
    new = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    (new / "raw").mkdir(parents=True)
    _write_rows(found, new / "raw" / f"{name}.{kind}")
    (new / FILE).write_text(contract(found, name, f"{name}.{kind}", file.name), encoding="utf-8")
    (new / "params.yaml").write_text(parameters(found, name), encoding="utf-8")
    load_table.cache_clear()
    load_table(new)  # what is written is a table, or this is our fault
    if directory.exists():
        shutil.rmtree(directory)
    new.rename(directory)
    return directory, found


def slug(text: str) -> str:
    """Return a name for a table: small letters, digits and hyphens."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return name or "table"


def _write_rows(found: Description, file: Path) -> None:
    """Write the rows in one form: the names of the table, decimal points, ISO dates, nothing for what is missing."""
    frame = pd.DataFrame({column.name: _written(column) for column in found.fields})
    if file.suffix == ".csv":
        frame.to_csv(file, index=False, lineterminator="\n")
    else:
        frame.to_parquet(file, index=False)


def _written(column: Column) -> Any:
    if column.type in DATES:
        form = "%Y-%m-%dT%H:%M:%S" if column.type == "datetime" else "%Y-%m-%d"
        return column.data.dt.strftime(form).astype("str")
    if column.type == "boolean":
        return column.data.map({True: "true", False: "false"}).astype("str")
    return column.data


def report(found: Description, file: str, directory: Path) -> str:
    """Return what a person reads of it."""
    rows = [("column", "type", "missing", "values")]
    for column in found.fields:
        title = f"{column.title} → {column.name}" if column.title != column.name else column.title
        role = " (target)" if column is found.target else " (place)" if column.name in (found.place or ()) else ""
        rows.append((title + role, column.type, f"{column.missing:,}" if column.missing else "-", _summary(column)))
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = [f"{file}: {found.rows:,} rows, {found.written}", ""]
    lines += [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    ]
    if found.left_out:
        lines += ["", "Left out:"]
        lines += [f"  {column.title or 'without a name'}: {column.left_out}" for column in found.left_out]
    notes = [*found.findings, *(f"{column.title}: {note}" for column in found.fields for note in column.notes)]
    if notes:
        lines += ["", "Look at:", *(f"  {note}" for note in notes)]
    if found.analysis.features:
        lines += ["", f"Features that help, now in params.yaml: {', '.join(found.analysis.features)}"]
    lines += [
        "",
        f"Written: {directory}/ with {FILE}, the data and params.yaml. Read {directory}/{FILE}, then start it with",
        f"  TABLE={directory} make up",
    ]
    return "\n".join([*lines, ""])


def _summary(column: Column) -> str:
    if column.type == "string":
        shown = ", ".join(column.levels[:MOST_SHOWN]) + (", …" if len(column.levels) > MOST_SHOWN else "")
        return f"{len(column.levels)} levels: {shown}"
    if column.type == "boolean":
        return f"{column.data.mean():.0%} true"
    low, high = column.data.min(), column.data.max()
    if column.type in DATES:
        form = "%Y-%m-%d %H:%M" if column.type == "datetime" else "%Y-%m-%d"
        return f"{low.strftime(form)} to {high.strftime(form)}"
    unit = f" {column.values.unit}" if column.values.unit else ""
    return f"{float(low):g} to {float(high):g}{unit}, {column.data.nunique():,} different"


def main() -> None:
    """Make the table that the arguments describe."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.describe", description="Make a table of a file.")
    parser.add_argument("file", help="CSV or Parquet")
    parser.add_argument("--target", required=True, help="the column to predict, as the file calls it")
    parser.add_argument("--name", default="", help="of the table; that of the file by default")
    parser.add_argument("--out", type=Path, help="the directory; tables/NAME by default")
    parser.add_argument("--keep", nargs="*", default=[], help="columns to keep that would be left out")
    parser.add_argument("--drop", nargs="*", default=[], help="columns to leave out")
    parser.add_argument("--categories", nargs="*", default=[], help="columns whose numbers stand for levels")
    parser.add_argument("--replace", action="store_true", help="an existing directory")
    given = parser.parse_args()
    if not (given.file and given.target):
        sys.exit("say which file and which of its columns to predict: make table FILE=mine.csv TARGET=price")
    try:
        directory, found = make_table(
            Path(given.file),
            given.target,
            name=given.name,
            directory=given.out,
            replace=given.replace,
            keep=given.keep,
            drop=given.drop,
            categories=given.categories,
        )
    except FileError as error:
        sys.exit(str(error))
    sys.stdout.write(report(found, given.file, directory))


if __name__ == "__main__":
    main()
