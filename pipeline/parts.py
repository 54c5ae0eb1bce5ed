"""The parts of the raw data that preprocess writes, Parquet files of row groups; none has to fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stage_runner import PROCESSED

RAW_PARTS = ("train", "validation", "test")
BATCH_ROWS = 50_000
MEMORY_ROWS = 1_000_000  # of a part: where nobody says how many a process holds


def part_file(name: str, directory: Path = PROCESSED) -> Path:
    """Return the file of a part."""
    return directory / f"{name}.parquet"


def count_rows(name: str) -> int:
    """Return how many rows a part has."""
    return int(pq.read_metadata(part_file(name)).num_rows)


def read_part(name: str, most: int | None = None) -> pd.DataFrame:
    """Return at most so many rows of a part, the same ones each time, in their order; the others are not kept."""
    total = count_rows(name)
    if most is None or total <= most:
        return pd.read_parquet(part_file(name))
    chosen = drawn(total, most)
    frames, done = [], 0
    for frame in read_batches(name):
        inside = chosen[(done <= chosen) & (chosen < done + len(frame))]
        frames.append(frame.iloc[inside - done])
        done += len(frame)
    return pd.concat(frames, ignore_index=True)


def read_parts(train: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Return the raw parts, of each at most `memory_rows` of the section `train` of params.yaml."""
    return {name: read_part(name, train.get("memory_rows", MEMORY_ROWS)) for name in RAW_PARTS}


def read_batches(name: str, directory: Path = PROCESSED) -> Iterator[pd.DataFrame]:
    """Yield a part in batches of at most `BATCH_ROWS` rows."""
    with pq.ParquetFile(part_file(name, directory), pre_buffer=False) as reader:
        for batch in reader.iter_batches(BATCH_ROWS, use_threads=False):
            yield pa.Table.from_batches([batch]).to_pandas()


def drawn(total: int, most: int) -> npt.NDArray[np.int64]:
    """Return the numbers of ``most`` of so many rows, drawn by lot, in their order."""
    return np.sort(np.random.default_rng(0).permutation(total)[:most])


class PartWriter:
    """Writes a part batch by batch, under another name until `finish`.

    Attributes
    ----------
    rows
        How many have been written.
    labelled
        The keys of the rows that some labels are about, by the number of the row in the part.
    """

    def __init__(self, name: str, target: str) -> None:
        self.rows = 0
        self.labelled = pd.Series(dtype=np.float64)
        self._name, self._target = name, target
        self._partial = PROCESSED / f".{name}.part"
        self._total = 0.0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._partial.unlink(missing_ok=True)

    @property
    def mean(self) -> float:
        """The mean of their target."""
        return self._total / self.rows

    def add(self, rows: pd.DataFrame, labelled: pd.Series[float] | None = None) -> None:
        """Add rows; of those that labels are about, ``labelled`` has the keys by their number among these rows."""
        if rows.empty:
            return
        if labelled is not None and len(labelled):
            self.labelled = pd.concat([self.labelled, labelled.set_axis(labelled.index + self.rows)])
        table = pa.Table.from_pandas(rows, preserve_index=False)
        if self._writer is None:
            # As pandas does it: a table that is one batch gives the same bytes.
            self._writer = pq.ParquetWriter(self._partial, table.schema, compression="snappy")
        self._writer.write_table(table)
        self.rows += len(rows)
        self._total += float(rows[self._target].mean()) * len(rows)

    def leave_out(self, numbers: npt.NDArray[np.int64]) -> None:
        """Write what is there anew, without the rows of these numbers."""
        self._close()
        former = self._partial.rename(self._partial.with_suffix(".former"))
        done, self.rows, self._total, self._writer = 0, 0, 0.0, None
        try:
            with pq.ParquetFile(former) as reader:
                for group in range(reader.num_row_groups):
                    rows = reader.read_row_group(group).to_pandas()
                    stays = ~np.isin(np.arange(done, done + len(rows)), numbers)
                    done += len(rows)
                    self.add(rows[stays].reset_index(drop=True))
        finally:
            former.unlink()

    def finish(self) -> None:
        """Give the part its name."""
        self._close()
        self._partial.replace(part_file(self._name))

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
