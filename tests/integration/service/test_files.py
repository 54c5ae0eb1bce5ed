"""Files through a real server: memory, kills, and answers that are cut off."""

from __future__ import annotations

import http.client
import io
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest

from tests.integration.service.conftest import EXAMPLE, Service, StartService
from tests.waiting import wait_for

CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
MIB = 1024**2


def rows(count: int) -> pd.DataFrame:
    table = pd.DataFrame({name: np.full(count, value) for name, value in EXAMPLE.items()})
    table["MedInc"] = np.random.default_rng(0).uniform(0, 15, count)
    return table


@contextmanager
def answer_to(
    service: Service, body: bytes, media_type: str, accept: str | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Send a file, and yield its answer to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    headers = {"Content-Type": media_type, "Accept": accept or media_type}
    with closing(connection):
        connection.request("POST", "/predict/batch", body, headers)
        with closing(connection.getresponse()) as answer:
            yield answer


def read(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while part := answer.read1(65536):
        yield part


def test_a_large_parquet_file_takes_little_memory(start_service: StartService) -> None:
    service = start_service(PREDICTION_LOG="off")
    table, file = rows(400_000), io.BytesIO()
    table.to_parquet(file, row_group_size=len(table))
    process = psutil.Process(service.process.pid)
    with answer_to(service, table[:10].to_csv(index=False).encode(), CSV, PARQUET) as first:
        assert len(pd.read_parquet(io.BytesIO(first.read()))) == 10
    before = peak = process.memory_info().rss
    received = io.BytesIO()
    with answer_to(service, file.getvalue(), PARQUET) as answer:
        assert answer.status == 200
        for part in read(answer):
            received.write(part)
            peak = max(peak, process.memory_info().rss)
    result = pd.read_parquet(received)
    np.testing.assert_allclose(result["predicted_median_house_value"], table["MedInc"])
    assert result["prediction_id"].is_unique
    # the file has 25 MB, its answer 60, and a list of a million such rows would take a gigabyte
    assert (peak - before) / MIB < 150
    assert list((service.state_dir / "spool").iterdir()) == []


def test_rows_answered_before_a_sigkill_are_in_the_log(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "state")
    received = b""
    with (
        answer_to(service, rows(200_000).to_csv(index=False).encode(), CSV) as answer,
        suppress(http.client.IncompleteRead, ConnectionError),
    ):
        for part in read(answer):
            received += part
            if len(received) > 2 * MIB and service.process.poll() is None:
                service.process.send_signal(signal.SIGKILL)
                service.process.wait()
    whole = received[: received.rindex(b"\n") + 1]
    answered = pd.read_csv(io.BytesIO(whole))["prediction_id"]
    assert 4096 <= len(answered) < 200_000
    logged = {row["prediction_id"] for row in service.log_rows("SELECT prediction_id FROM predictions")}
    assert set(answered) <= logged
    assert list((service.state_dir / "spool").iterdir()) == []
    assert start_service(tmp_path / "state").predict().status_code == 200


def test_an_answer_that_fails_in_the_middle_is_seen_to_be_cut_off(start_service: StartService) -> None:
    service = start_service()
    with answer_to(service, rows(300_000).to_csv(index=False).encode(), CSV) as answer:
        assert answer.status == 200
        answer.read(1000)
        for file in service.state_dir.glob("predictions.db*"):
            file.unlink()
        (service.state_dir / "predictions.db").mkdir()  # no file can be made there any more
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
    wait_for("the line about it", lambda: "is incomplete: it ends after" in service.output())
    assert service.get("/health").status_code == 200


def test_single_rows_are_answered_while_a_file_is_predicted(start_service: StartService) -> None:
    service = start_service()
    body = rows(150_000).to_csv(index=False).encode()
    done = threading.Event()

    def send() -> None:
        with answer_to(service, body, CSV) as answer:
            answer.read()
        done.set()

    sender = threading.Thread(target=send)
    sender.start()
    answered = 0
    while not done.is_set():
        assert service.predict().status_code == 200
        answered += 1
    sender.join()
    assert answered > 20
    assert len(service.log_rows("SELECT id FROM predictions")) == 150_000 + answered
