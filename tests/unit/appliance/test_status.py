"""What `make status` shows for different states."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from appliance.status import STOPPED, _ago, _duration, show
from tableloop.settings import Settings
from tableloop.state.database import Store


def test_an_empty_state_is_stopped_and_has_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(Settings(state_dir=tmp_path / "none")) == STOPPED
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stopped: make up starts it"
    assert lines[2:5] == ["model    none yet", "drift    no check yet", "trained  never"]


def test_what_the_store_holds_is_shown_of_a_stopped_appliance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: Path | str
) -> None:
    (tmp_path / "champion").mkdir()
    (tmp_path / "champion" / "current.json").write_text('{"version": "7", "registered_at": null}')
    settings = Settings(state_dir=tmp_path, database_url=SecretStr(place if isinstance(place, str) else ""))
    store = Store.of(settings)
    report = {"status": "drift", "summary": "MedInc up", "monitor": {"waits_for": ["57 more labels"]}}
    store.add_drift_report(report, {})
    store.end_retraining(store.begin_retraining("drift", "", "the drift monitor"), "rejected", "8", "worse", {})
    store.begin_retraining("user", "", "somebody")
    assert show(settings) == STOPPED
    printed = capsys.readouterr().out
    assert "model    version 7; kept as the service's local copy\n" in printed
    assert "drift    drift: MedInc up; last look at an unknown time\n" in printed
    assert "         before it retrains it waits for 57 more labels\n" in printed
    assert " ago by the drift monitor: rejected version 8; worse\n" in printed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (59.9, "59 s"), (61, "1 m 1 s"), (7_325, "2 h 2 m"), (200_000, "2 d 7 h")],
)
def test_a_duration_has_the_two_units_that_matter(seconds: float, words: str) -> None:
    assert _duration(seconds) == words


def test_a_time_that_cannot_be_read_is_said_to_be_unknown() -> None:
    assert _ago("2020-01-01T00:00:10+00:00", 1_577_836_815.0) == "5 s ago"
    assert _ago(None, time.time()) == "at an unknown time"
