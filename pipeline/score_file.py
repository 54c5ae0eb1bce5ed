"""Score one file of this machine's disk: its rows with their predictions into another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import BinaryIO

import numpy as np

from pipeline.scored_version import Predict
from tableloop.files import Kind, TableError, TableReader, TableWriter, check_table
from tableloop.table import Table

KINDS: dict[str, Kind] = {".csv": "csv", ".parquet": "parquet"}


def kind_of(name: str) -> Kind:
    """Return what a file holds, by its suffix.

    Raises
    ------
    TableError
        It is neither of the two.
    """
    try:
        return KINDS[PurePath(name).suffix.lower()]
    except KeyError:
        raise TableError.of(f"{name}: the name must end in {' or '.join(KINDS)}") from None


def score_file(
    source: BinaryIO,
    sink: BinaryIO,
    kinds: tuple[Kind, Kind],
    table: Table,
    predict: Predict,
    *,
    version: str,
    seed: str,
    facts: Mapping[str, str],
    on_progress: Callable[[int, int], object] = lambda done, rows: None,
) -> int:
    """Write the rows of ``source`` with the columns that `/predict/batch` appends, and return how many there are.

    The whole file is checked first. ``kinds`` are those of both files, ``seed`` is what the ids of the predictions
    depend on, ``facts`` go into the footer of a Parquet file, and ``on_progress`` is told after each batch how many
    rows are done, and how many there are.

    Raises
    ------
    TableError
        The file is no table of valid rows.
    ArithmeticError
        A prediction is not a finite number.
    """
    rows = check_table(source, kinds[0], table, kinds[1], any_length=True)
    reader = TableReader(source, kinds[0], table, any_length=True)
    writer = TableWriter(sink, reader.schema, kinds[1], table.answer, facts=facts)
    done = 0
    for batch, features, _ in reader.batches():
        answers = predict(features)
        if not np.isfinite(answers[:3]).all():
            raise ArithmeticError(f"version {version} predicts values that are not finite")
        writer.write(batch, answers, version, prediction_ids(seed, done, batch.num_rows))
        done += batch.num_rows
        on_progress(done, rows)
    writer.close()
    return rows


def prediction_ids(seed: str, start: int, count: int) -> list[str]:
    """Return the ids of the predictions of some rows: UUIDs of version 8 (RFC 9562, section 5.8).

    Equal seeds give equal ids, so that a file which two workers have scored, because one was believed dead, is the
    same whichever of them wrote it last. 74 bits are of the seed's sha256, 48 are the number of the row.
    """
    digits = hashlib.sha256(seed.encode()).hexdigest()
    head = f"{digits[:8]}-{digits[8:12]}-8{digits[12:15]}-{'89ab'[int(digits[15], 16) % 4]}{digits[16:19]}-"
    return [f"{head}{row:012x}" for row in range(start, start + count)]
