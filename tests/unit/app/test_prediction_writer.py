"""The prediction log: groups, failures, and the way back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.prediction_writer import PredictionLog, PredictionLogError
from tableloop.state import prediction_rows
from tableloop.state.database import Store
from tableloop.state.prediction_rows import Row
from tableloop.state.sqlite_rows import SqliteWriter
from tests.unit.app.conftest import EXAMPLE


def row(number: int) -> Row:
    features = [float(number)] * len(EXAMPLE)
    return prediction_rows.row(f"id-{number}", "request", 1.5, "7", features, 2.0, 1.0, 3.0)


def ids(log: PredictionLog) -> list[str]:
    return [row["prediction_id"] for part in log.store.predictions_with_labels(None, None) for row in part]


@pytest.fixture
def log(place: Path | str) -> Iterator[PredictionLog]:
    log = PredictionLog(Store(place, timeout=2))
    log.start()
    yield log
    log.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions.db"


@pytest.fixture
def log_of_file(file: Path) -> Iterator[PredictionLog]:
    log = PredictionLog(Store(file, timeout=2))
    log.start()
    yield log
    log.stop()


def connection_of(log: PredictionLog) -> sqlite3.Connection:
    assert isinstance(log._writer, SqliteWriter)
    return log._writer.connection


def test_rows_are_there_when_write_returns(log: PredictionLog) -> None:
    async def write() -> None:
        for number in range(3):
            await log.write([row(number)])
            assert ids(log)[-1] == f"id-{number}"

    asyncio.run(write())


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000])
def test_concurrent_writes_of_any_size_are_all_kept_once(log: PredictionLog, size: int) -> None:
    async def write() -> None:
        await asyncio.gather(*[log.write([row(part * size + n) for n in range(size)]) for part in range(4)])

    asyncio.run(write())
    assert sorted(ids(log)) == sorted(f"id-{number}" for number in range(4 * size))


def test_what_is_queued_at_the_stop_is_written(log: PredictionLog) -> None:
    async def write() -> None:
        writes = [asyncio.create_task(log.write([row(number)])) for number in range(100)]
        await asyncio.sleep(0)
        log.stop()
        await asyncio.gather(*writes)

    asyncio.run(write())
    assert len(ids(log)) == 100


def test_a_group_is_all_or_nothing(log: PredictionLog) -> None:
    with pytest.raises(PredictionLogError, match=r"UNIQUE|unique constraint"):
        asyncio.run(log.write([row(number) for number in range(100)] + [row(5)]))
    assert ids(log) == []
    asyncio.run(log.write([row(1)]))
    assert ids(log) == ["id-1"]


def test_a_full_disk_is_told_with_the_remedy_and_recovered_from(log_of_file: PredictionLog) -> None:
    log = log_of_file
    asyncio.run(log.write([row(0)]))
    pages = connection_of(log).execute("PRAGMA page_count").fetchone()[0]
    connection_of(log).execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(PredictionLogError, match=r"predictions.db cannot be written .*full.*free space"):
        asyncio.run(log.write([row(number) for number in range(1, 1000)]))
    assert log.problem is not None
    asyncio.run(log.write([row(number) for number in range(1, 1000)]))  # a new connection knows no such limit
    assert log.problem is None
    assert len(ids(log)) == 1000


def test_a_locked_file_is_told_and_recovered_from(log_of_file: PredictionLog, file: Path) -> None:
    log = log_of_file
    asyncio.run(log.write([row(0)]))
    connection_of(log).execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(PredictionLogError, match=r"locked.*another program"):
        asyncio.run(log.write([row(1)]))
    other.execute("ROLLBACK")
    other.close()
    asyncio.run(log.write([row(2)]))
    assert ids(log) == ["id-0", "id-2"]


def test_a_file_that_is_no_database_is_told_and_moving_it_away_helps(file: Path) -> None:
    file.write_bytes(b"x" * 8192)
    log = PredictionLog(Store(file))
    log.start()
    with pytest.raises(PredictionLogError, match=r"not a database.*mv "):
        asyncio.run(log.write([row(0)]))
    file.rename(file.with_name("predictions.db.broken"))
    asyncio.run(log.write([row(1)]))
    log.stop()
    assert ids(log) == ["id-1"]


def test_a_deleted_file_is_made_anew(log_of_file: PredictionLog, file: Path) -> None:
    log = log_of_file
    asyncio.run(log.write([row(0)]))
    for part in file.parent.glob("predictions.db*"):
        part.unlink()
    asyncio.run(log.write([row(1)]))
    assert ids(log) == ["id-1"]
