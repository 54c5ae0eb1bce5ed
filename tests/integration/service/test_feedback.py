"""Labels sent to a real process are kept when it is killed, and stored once when several clients send them."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.integration.service.conftest import EXAMPLE, Load, StartService, store_at
from tests.waiting import wait_for


def test_a_201_is_in_the_log_after_sigkill_and_a_restart_goes_on(
    start_service: StartService, tmp_path: Path, place: Path | str
) -> None:
    service = start_service(tmp_path / "state", **store_at(place))
    ids = [item["prediction_id"] for item in service.client.post("/predict/batch", json=[EXAMPLE] * 2000).json()]
    stored: list[str] = []

    def label() -> None:
        with httpx.Client(base_url=str(service.client.base_url), headers=service.client.headers) as client:
            for name in ids:
                try:
                    answer = client.post("/feedback", json={"prediction_id": name, "actual_value": 2.5})
                except httpx.TransportError:
                    return
                assert answer.status_code == 201
                stored.append(name)

    thread = threading.Thread(target=label)
    with Load(service.port, threads=2):
        thread.start()
        wait_for("some labels", lambda: len(stored) > 200)
        service.process.send_signal(signal.SIGKILL)
        thread.join()
    kept = {row["prediction_id"] for row in service.log_rows("SELECT prediction_id FROM feedback")}
    assert set(stored) <= kept
    assert len(kept) <= len(stored) + 1

    again = start_service(tmp_path / "state", **store_at(place))
    assert again.client.post("/feedback", json={"prediction_id": stored[0], "actual_value": 1.0}).status_code == 409
    assert f'live_labels{{model_version="dummy"}} {min(500, len(kept))}.0' in again.get("/metrics").text
    rest = [{"prediction_id": name, "actual_value": 2.5} for name in ids]
    report = again.client.post("/feedback", json=rest).json()
    assert (report["stored"], report["refused"]) == (len(ids) - len(kept), len(kept))
    assert again.log_rows("SELECT count(*) AS labels FROM feedback WHERE batch IS NULL")[0]["labels"] == len(ids)


def test_of_labels_sent_together_one_is_stored(start_service: StartService, place: Path | str) -> None:
    service = start_service(**store_at(place))
    ids = [item["prediction_id"] for item in service.client.post("/predict/batch", json=[EXAMPLE] * 50).json()]

    def label(value: int) -> list[int]:
        with httpx.Client(base_url=str(service.client.base_url), headers=service.client.headers) as client:
            labels = [{"prediction_id": name, "actual_value": float(value)} for name in ids]
            return [client.post("/feedback", json=body).status_code for body in labels]

    with ThreadPoolExecutor(4) as pool:
        codes = [code for codes in pool.map(label, range(4)) for code in codes]
    assert (codes.count(201), codes.count(409)) == (50, 150)
    assert service.log_rows("SELECT count(*) AS labels FROM feedback")[0]["labels"] == 50
