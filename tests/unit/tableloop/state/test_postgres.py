"""What only PostgreSQL has: partitions, writers at once, plans by index, a lock of machines, a server that fails."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from app.prediction_writer import PredictionLog, PredictionLogError
from tableloop.state import postgres_connection, postgres_rows
from tableloop.state.database import Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.locks import BusyError, retraining_lock, retraining_lock_holder
from tableloop.state.postgres_rows import WEEK
from tableloop.state.prediction_rows import REST, Row, Sent, row
from tableloop.table import load_table
from tests.postgres import PASSWORD, Postgres
from tests.unit.tableloop.state.queries import queries_of_drift_and_retraining
from tests.waiting import wait_for

TABLE = load_table()
FEATURES = [0.5] * len(TABLE.feature_names)


def made(name: str, at: float) -> Row:
    return row(name, "r", at, "1", FEATURES, 2.0, 1.0, 3.0)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


def partitions(url: str) -> dict[str, int]:
    """Return how many rows each partition has."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tableoid::regclass::text, count(*) FROM predictions GROUP BY 1").fetchall()
        names = connection.execute("SELECT relid::text FROM pg_partition_tree('predictions') WHERE isleaf").fetchall()
    return {name: 0 for (name,) in names} | dict(rows)


def test_weeks_are_made_ahead_and_dropped_and_labelled_predictions_stay(url: str) -> None:
    now = time.time()
    week = now // WEEK * WEEK
    with closing(Store(url).writer()) as writer:
        assert isinstance(writer, postgres_rows.PostgresWriter)
        writer.insert([made("early", now)])  # before there is a partition
        assert partitions(url) == {REST: 1}
        assert not writer.tidy(None)
        this, following = (postgres_rows._name(start) for start in (week, week + WEEK))
        assert partitions(url) == {REST: 0, this: 1, following: 0}
        old = week - 9 * WEEK
        writer.make_partition(old)
        writer.insert([made(f"old-{n}", old + n) for n in range(10)])
        writer.insert([made("older", old - 1)])
        writer.insert_labels([Sent("old-7", 2.0)], "crm", TABLE)
        assert partitions(url)[postgres_rows._name(old)] == 10
        while writer.tidy(now - 8 * WEEK + 1):
            pass
        assert partitions(url) == {REST: 1, this: 1, following: 0}
    store = Store(url)
    assert [labelled.prediction_id for labelled in store.newest_labelled(9)] == ["old-7"]
    assert [found["prediction_id"] for found in store.labelled_rows("value")] == ["old-7"]
    assert store.count_predictions() == 2


def test_of_labels_that_many_services_send_at_once_the_first_one_stays(url: str) -> None:
    store = Store(url)
    with closing(store.writer()) as writer:
        writer.insert([made(f"p{n}", time.time()) for n in range(50)])

    def label(value: float) -> int:
        with closing(Store(url).writer()) as writer:
            outcomes = writer.insert_labels([Sent(f"p{n}", value) for n in range(50)], "crm", TABLE)
        return sum(outcome.stored for outcome in outcomes)

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(label, [1.5, 1.6, 1.7, 1.8])) == 50
    assert len(store.newest_labelled(100)) == 50


def test_services_that_start_at_once_migrate_once(url: str) -> None:
    stores = [Store(url) for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(Store.prepare, stores))
        writers = list(threads.map(Store.writer, stores))
        list(threads.map(lambda writer: writer.tidy(None), writers))
    for writer in writers:
        writer.close()
    assert len(partitions(url)) == 3
    with stores[0].reading() as connection:
        assert connection.exec_driver_sql("SELECT version FROM schema_version").fetchall() == [(2,)]


def test_the_queries_of_drift_and_retraining_read_by_index(url: str) -> None:
    store, now = Store(url), time.time()
    with closing(store.writer()) as writer:
        writer.tidy(None)
        for _ in range(2):
            rows = [made(f"{now}-{part}-{n}", now - n) for part in range(10) for n in range(5000)]
            now -= WEEK
            writer.insert(rows)
            writer.insert_labels([Sent(made[0], 2.0) for made in rows[:300]], "crm", TABLE)
            store.mark_labels({made[0]: "batch" for made in rows[:280]})
    queries = queries_of_drift_and_retraining(store)
    with postgres_connection.connect(url) as connection:  # before there are any statistics
        for sql, values in queries:
            plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {sql}".encode(), values))
            allowed = {"serving", "retrainings"}  # histories of a few rows
            whole = {line.split("Seq Scan on ")[1].split()[0] for line in plan.splitlines() if "Seq Scan" in line}
            assert whole <= allowed, plan
            assert "Index" in plan, plan


def test_a_text_with_a_zero_byte_is_stored_without_and_is_no_id(url: str) -> None:
    with closing(Store(url).writer()) as writer:
        assert isinstance(writer, postgres_rows.PostgresWriter)
        writer._texts = [4]
        assert writer._without_zeros(("p", "r", 1.0, "1", "a\0b", 2.0)) == ("p", "r", 1.0, "1", "a\ufffdb", 2.0)
        assert [found.labelled for found in writer.insert_labels([Sent("a\0", 2.0)], "crm", TABLE)] == [None]


def test_true_and_whole_numbers_are_stored_as_numbers(url: str) -> None:
    store = Store(url, ("a", "b", "c"))
    with closing(store.writer()) as writer:
        writer.insert([row("p", "r", 1.0, "1", [True, 7, None], 2.0, 1.0, 3.0)])
    (part,) = store.predictions_with_labels(None, None)
    assert [part[0][name] for name in ("a", "b", "c")] == [1.0, 7.0, None]


def test_no_error_has_the_password(url: str) -> None:
    for wrong in (url.replace("tableloop:", "nobody:"), url.replace("127.0.0.1", "127.0.0.1:1/x@y"), f"{url}?x=1"):
        with pytest.raises((StoreError, ValueError)) as raised:
            Store(wrong).retrainings(1)
        assert PASSWORD[:6] not in str(raised.value)
    assert PASSWORD[:6] not in Store(url).place


def test_one_retraining_at_a_time_on_all_machines(url: str, tmp_path: Path) -> None:
    here, there = Layout(tmp_path / "here"), Layout(tmp_path / "there")
    assert retraining_lock_holder(there, database_url=url) == ""
    with retraining_lock(here, "a backup", database_url=url):
        told = f"process {os.getpid()}, since 20"
        with (
            pytest.raises(BusyError, match=rf"a backup on .*{told}.* runs already"),
            retraining_lock(there, database_url=url),
        ):
            pass
        assert told in retraining_lock_holder(there, database_url=url)
    with retraining_lock(there, database_url=url):
        pass


def test_a_retraining_that_goes_on_without_its_parent_keeps_the_lock(url: str, tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; from pathlib import Path\n"
        "from tableloop.state.layout import Layout; from tableloop.state.locks import retraining_lock\n"
        "with retraining_lock(Layout(Path(sys.argv[1])), database_url=os.environ['DATABASE_URL']):\n"
        "    child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=-3, stderr=-3)\n"
        "    print(child.pid, flush=True)\n"
        "    os._exit(9)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there")],
        env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    child = int(ended.stdout)
    try:
        assert retraining_lock_holder(Layout(tmp_path / "here"), database_url=url)
    finally:
        os.kill(child, 9)
    wait_for("the lock", lambda: not retraining_lock_holder(Layout(tmp_path / "here"), database_url=url))


def test_the_drift_monitor_is_told_what_is_newest(url: str) -> None:
    store = Store(url)
    store.record_serving("Model", "1", "run", "serves")
    with closing(store.writer()) as writer:
        writer.insert([made("p", 1.0)])
    told = subprocess.run(
        [sys.executable, "-m", "tableloop.state.postgres_rows"],
        env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout == "[1, null, 1, null]\n"


# -- a server that fails -----------------------------------------------------------------------------------------


@pytest.fixture
def server(new_postgres: Callable[..., Postgres]) -> Iterator[Postgres]:
    server = new_postgres()
    yield server
    server.stop()


@contextmanager
def log_of(server: Postgres) -> Iterator[PredictionLog]:
    log = PredictionLog(Store(server.new_database(), timeout=2))
    log.start()
    try:
        yield log
    finally:
        log.stop()


async def write_for(log: PredictionLog, clients: int, until: Callable[[], bool]) -> tuple[set[str], int, float]:
    """Write rows one after the other; return the ids that were acknowledged, how many were not, the longest wait."""
    acknowledged: set[str] = set()
    refused = 0
    longest = 0.0

    async def client(number: int) -> None:
        nonlocal refused, longest
        count = 0
        while not until():
            count += 1
            name, began = f"{number}-{count}", time.monotonic()
            try:
                await log.write([made(name, time.time())])
                acknowledged.add(name)
            except PredictionLogError:
                refused += 1
                await asyncio.sleep(0.02)
            longest = max(longest, time.monotonic() - began)

    await asyncio.gather(*map(client, range(clients)))
    return acknowledged, refused, longest


def ids(log: PredictionLog) -> list[str]:
    return [found["prediction_id"] for part in log.store.predictions_with_labels(None, None) for found in part]


def test_nothing_acknowledged_is_lost_or_doubled_when_the_server_is_killed_twice(server: Postgres) -> None:
    with log_of(server) as log:
        ended: list[float] = []

        def play() -> None:
            for _ in range(2):
                time.sleep(1.0)
                server.kill()
                time.sleep(1.0)
                server.start()
            time.sleep(1.5)
            ended.append(time.monotonic())

        with ThreadPoolExecutor(1) as thread:
            playing = thread.submit(play)
            acknowledged, refused, longest = asyncio.run(write_for(log, 32, playing.done))
            playing.result()
        wait_for("the log", lambda: log.problem is None)
        stored = ids(log)
    assert len(stored) == len(set(stored))
    assert acknowledged <= set(stored)
    assert len(acknowledged) > 100
    assert refused
    assert longest < 4  # two seconds on a machine that does nothing else


def test_a_lock_that_is_lost_is_taken_again_or_ends_its_holder(server: Postgres, tmp_path: Path) -> None:
    url, here = server.new_database(), Layout(tmp_path / "here")
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from tableloop.state.layout import Layout; from tableloop.state.locks import retraining_lock\n"
        "with retraining_lock(Layout(Path(sys.argv[1])), database_url=os.environ['DATABASE_URL']):\n"
        "    time.sleep(60)"
    )
    there = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "there")], env=os.environ | {"DATABASE_URL": url}
    )
    try:
        wait_for("the lock", lambda: retraining_lock_holder(here, database_url=url))
        server.kill()
        server.start()
        wait_for("the lock again", lambda: retraining_lock_holder(here, database_url=url))
        os.kill(there.pid, signal.SIGSTOP)
        server.kill()
        server.start()
        with retraining_lock(here, database_url=url):
            os.kill(there.pid, signal.SIGCONT)
            assert there.wait(20) == -signal.SIGTERM
    finally:
        there.kill()
        there.wait()


def test_a_server_that_stands_still_is_given_up_and_comes_back_by_itself(server: Postgres) -> None:
    with log_of(server) as log:
        asyncio.run(log.write([made("before", time.time())]))
        server.freeze(on=True)
        try:
            began = time.monotonic()
            with pytest.raises(PredictionLogError, match=r"see that PostgreSQL runs"):
                asyncio.run(log.write([made("meanwhile", time.time())]))
            assert time.monotonic() - began < 4
        finally:
            server.freeze(on=False)
        wait_for("the log", lambda: log.problem is None)
        asyncio.run(log.write([made("after", time.time())]))
        assert {"before", "after"} <= set(ids(log))


def test_a_read_of_a_server_that_stands_still_in_the_middle_ends(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "ASK_SECONDS", 0.5)
    url = server.new_database()
    store = Store(url)
    store.prepare()

    def read() -> None:
        with store.reading() as connection:
            connection.exec_driver_sql("SELECT 1")
            reading.set()
            frozen.wait()
            connection.exec_driver_sql("SELECT count(*) FROM predictions")

    reading, frozen = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as thread, retraining_lock(Layout(tmp_path), database_url=url):
        ended = thread.submit(read)
        reading.wait()
        server.freeze(on=True)
        try:
            began = time.monotonic()
            frozen.set()
            with pytest.raises(StoreError, match="has not answered for too long"):
                ended.result(timeout=20)
            assert time.monotonic() - began < 6  # half a second, and two for a new connection
            for question in (
                store.drift_report,
                lambda: retraining_lock_holder(Layout(tmp_path / "x"), database_url=url),
            ):
                with pytest.raises(StoreError):
                    question()
        finally:
            server.freeze(on=False)
        wait_for("the store", lambda: store.retrainings(1) == [])


def test_a_query_may_last_longer_than_a_silent_server_is_waited_for(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "ASK_SECONDS", 0.2)
    with Store(url).reading() as connection:
        assert connection.exec_driver_sql("SELECT 7 FROM pg_sleep(1)").scalar() == 7


def test_a_server_that_was_restarted_while_nobody_asked_costs_no_request(server: Postgres) -> None:
    with log_of(server) as log:
        asyncio.run(log.write([made("before", time.time())]))
        server.kill()
        server.start()
        asyncio.run(log.write([made("after", time.time())]))
        assert ids(log) == ["before", "after"]
