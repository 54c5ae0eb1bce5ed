"""Whoever may look at the machine's processes and logs looks for the administrator's password."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from appliance.status import is_running
from tableloop.credentials import basic, read_password
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tests.integration.conftest import Appliance, wait_until

PASSWORD = 'it\'s 50% "secret" $HOME'


def test_the_password_is_in_no_process_and_no_log_and_holds(new_appliance: Callable[..., Appliance]) -> None:
    appliance = new_appliance(ADMIN_PASSWORD=PASSWORD, TEST_MODE="1")
    started = appliance.entrypoint()
    try:
        wait_until(appliance.is_ready, 60, "the ready line")
        assert read_password(Layout(appliance.state).admin_password) == PASSWORD
        assert is_running(appliance.state)  # it still holds the lock of its state
        found = appliance.processes()
        assert len(found) >= 4
        for process in found:
            told = " ".join([*process.cmdline(), *process.environ().values()])
            assert PASSWORD not in told
        for file in Layout(appliance.state).logs.iterdir():
            assert PASSWORD not in file.read_text(errors="replace")
        with httpx.Client(base_url=appliance.services.api, headers={"Authorization": basic(PASSWORD)}) as client:
            made = client.post("/predict", json=load_table().example).json()["prediction_id"]
            label = {"prediction_id": made, "actual_value": 2.0}
            assert client.post("/feedback", json=label).status_code == 201
    finally:
        started.terminate()
        output, _ = started.communicate(timeout=20)
    assert started.returncode == 0, output
    assert PASSWORD not in output
    assert json.dumps(PASSWORD) not in output
    assert str(Layout(appliance.state).admin_password) in output


def test_what_the_appliance_keeps_is_its_users_alone(new_appliance: Callable[..., Appliance]) -> None:
    appliance = new_appliance(TEST_MODE="1")
    started = appliance.entrypoint()
    try:
        wait_until(appliance.is_ready, 60, "the ready line")
        time.sleep(1)
        open_to_others = [
            path
            for path in Layout(appliance.state).root.rglob("*")
            if not path.is_symlink() and stat.S_IMODE(_mode(path)) & 0o077
        ]
        assert open_to_others == []
    finally:
        started.terminate()
        started.communicate(timeout=20)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:  # it was there a moment ago
        return 0
