"""Write predictions with their labels into a file: ``python -m pipeline.export FILE``, ``make export FILE=...``.

The name of the file says whether it is Parquet or CSV; ``-`` is CSV on stdout, ``s3://…`` is in object storage. It is
read in parts, each as of one moment, so it takes 200 MB whatever the number of rows, and keeps nobody from writing.
Exit codes: 0 done, 1 it cannot be written, 2 the time or the file's name cannot be read.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import csv, parquet

from tableloop.moments import moment
from tableloop.object_storage import SCHEME, ObjectStorage
from tableloop.settings import RegistrySettings
from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.table import load_table

FORMATS = (".parquet", ".csv")


def schema(store: Store) -> pa.Schema:
    """Return the columns of the file, with their types."""
    time = pa.timestamp("us", tz="UTC")
    columns = load_table().features
    types = {column.name: pa.string() for column in columns if column.is_text}
    types |= {column.name: pa.bool_() for column in columns if column.type == "boolean"}
    return pa.schema(
        [
            pa.field("prediction_id", pa.string()),
            pa.field("request_id", pa.string()),
            pa.field("requested_at", time),
            pa.field("model_version", pa.string()),
            *(pa.field(name, types.get(name, pa.float64())) for name in store.feature_names),
            *(pa.field(name, pa.float64()) for name in ("prediction", "low", "high")),
            pa.field("shadow_version", pa.string()),
            *(pa.field(name, pa.float64()) for name in ("shadow_prediction", "shadow_low", "shadow_high")),
            pa.field("actual_value", pa.float64()),
            pa.field("labelled_at", time),
            pa.field("sender", pa.string()),
            pa.field("revoked", pa.bool_()),
        ]
    )


def export(store: Store, file: BinaryIO, form: str, since: float | None, until: float | None) -> int:
    """Write the predictions asked for in ``[since, until)`` (unix seconds), the oldest first; return their number."""
    columns = schema(store)
    rows = 0
    kind = parquet.ParquetWriter if form == ".parquet" else csv.CSVWriter
    with kind(file, columns) as writer:
        for part in store.predictions_with_labels(since, until):
            writer.write_table(_table(part, columns))
            rows += len(part)
    return rows


def _table(rows: list[dict[str, Any]], columns: pa.Schema) -> pa.Table:
    arrays = []
    for column in columns:
        values: list[Any] = [row[column.name] for row in rows]
        if pa.types.is_boolean(column.type):
            values = [None if value is None else bool(value) for value in values]
        if pa.types.is_timestamp(column.type):
            values = [None if value is None else round(value * 1e6) for value in values]
        arrays.append(pa.array(values, column.type))
    return pa.table(arrays, schema=columns)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes its name when it is whole; what fails leaves nothing behind."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("xb") as file:
            yield file
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def _uploaded(address: str, directory: Path) -> Iterator[BinaryIO]:
    """Yield a file in a directory that goes to object storage when it is whole."""
    folder, name = ObjectStorage.holding(address)
    folder.check()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=directory) as scratch:
        path = Path(scratch) / name
        with path.open("xb") as file:
            yield file
        folder.upload(path, name)


def main() -> int:
    """Export once, and return the exit code."""
    parser = argparse.ArgumentParser(description="Write predictions with their labels into a file.")
    parser.add_argument("--from", dest="since", type=moment, help="asked for at this time or later")
    parser.add_argument("--to", dest="until", type=moment, help="asked for before this time")
    parser.add_argument("file", help="a name or s3://… that ends with .parquet or .csv, or - for CSV on stdout")
    arguments = parser.parse_args()
    form = ".csv" if arguments.file == "-" else Path(arguments.file).suffix.lower()
    if form not in FORMATS:
        sys.stderr.write(
            f"nothing exported: FILE={arguments.file} ends with neither .parquet nor .csv, and is not -\n"
        )
        return 2
    settings = RegistrySettings()
    store = Store.of(settings)
    is_remote = arguments.file.startswith(SCHEME)
    try:
        if arguments.file == "-":
            rows = export(store, sys.stdout.buffer, form, arguments.since, arguments.until)
        else:
            run = Layout(settings.state_dir).run  # which a start empties
            with _uploaded(arguments.file, run) if is_remote else _whole(Path(arguments.file)) as file:
                rows = export(store, file, form, arguments.since, arguments.until)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        return 1
    except (StoreError, OSError) as error:
        sys.stderr.write(f"nothing exported: {error}\n")
        return 1
    where = "" if arguments.file == "-" else f" to {arguments.file}"
    sys.stderr.write(f"{rows:,} predictions exported{where}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
