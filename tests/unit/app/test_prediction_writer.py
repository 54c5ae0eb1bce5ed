"""The prediction log: groups, failures, and the way back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.prediction_writer import PredictionLog, PredictionLogError
from tableloop.state import prediction_rows
from tableloop.state.prediction_rows import Row
from tests.unit.app.conftest import EXAMPLE


def row(number: int) -> Row:
    features = [float(number)] * len(EXAMPLE)
    return prediction_rows.row(f"id-{number}", "request", 1.5, "7", features, 2.0, 1.0, 3.0)


def ids(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [name for (name,) in connection.execute("SELECT prediction_id FROM predictions ORDER BY id")]
    finally:
        connection.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    log = PredictionLog(tmp_path / "predictions.db")
    log.start()
    yield log
    log.stop()


def test_rows_are_there_when_write_returns(log: PredictionLog) -> None:
    async def write() -> None:
        for number in range(3):
            await log.write([row(number)])
            assert ids(log.path)[-1] == f"id-{number}"

    asyncio.run(write())


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000])
def test_concurrent_writes_of_any_size_are_all_kept_once(log: PredictionLog, size: int) -> None:
    async def write() -> None:
        await asyncio.gather(*[log.write([row(part * size + n) for n in range(size)]) for part in range(4)])

    asyncio.run(write())
    assert sorted(ids(log.path)) == sorted(f"id-{number}" for number in range(4 * size))


def test_what_is_queued_at_the_stop_is_written(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "predictions.db")
    log.start()

    async def write() -> None:
        writes = [asyncio.create_task(log.write([row(number)])) for number in range(100)]
        await asyncio.sleep(0)
        log.stop()
        await asyncio.gather(*writes)

    asyncio.run(write())
    assert len(ids(log.path)) == 100


def test_a_group_is_all_or_nothing(log: PredictionLog) -> None:
    with pytest.raises(PredictionLogError, match="UNIQUE"):
        asyncio.run(log.write([row(number) for number in range(100)] + [row(5)]))
    assert ids(log.path) == []
    asyncio.run(log.write([row(1)]))
    assert ids(log.path) == ["id-1"]


def test_a_full_disk_is_told_with_the_remedy_and_recovered_from(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    log = PredictionLog(path)
    log.start()
    asyncio.run(log.write([row(0)]))
    assert log._connection is not None
    pages = log._connection.execute("PRAGMA page_count").fetchone()[0]
    log._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(PredictionLogError, match=r"predictions.db cannot be written .*full.*free space"):
        asyncio.run(log.write([row(number) for number in range(1, 1000)]))
    assert log.problem is not None
    asyncio.run(log.write([row(number) for number in range(1, 1000)]))  # a new connection knows no such limit
    assert log.problem is None
    log.stop()
    assert len(ids(path)) == 1000


def test_a_locked_file_is_told_and_recovered_from(log: PredictionLog) -> None:
    asyncio.run(log.write([row(0)]))
    assert log._connection is not None
    log._connection.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(log.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(PredictionLogError, match=r"locked.*another program"):
        asyncio.run(log.write([row(1)]))
    other.execute("ROLLBACK")
    other.close()
    asyncio.run(log.write([row(2)]))
    assert ids(log.path) == ["id-0", "id-2"]


def test_a_file_that_is_no_database_is_told_and_moving_it_away_helps(tmp_path: Path) -> None:
    path = tmp_path / "predictions.db"
    path.write_bytes(b"x" * 8192)
    log = PredictionLog(path)
    log.start()
    with pytest.raises(PredictionLogError, match=r"not a database.*mv "):
        asyncio.run(log.write([row(0)]))
    path.rename(tmp_path / "predictions.db.broken")
    asyncio.run(log.write([row(1)]))
    log.stop()
    assert ids(path) == ["id-1"]


def test_a_deleted_file_is_made_anew(log: PredictionLog) -> None:
    asyncio.run(log.write([row(0)]))
    for part in log.path.parent.glob("predictions.db*"):
        part.unlink()
    asyncio.run(log.write([row(1)]))
    assert ids(log.path) == ["id-1"]
