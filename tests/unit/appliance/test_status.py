"""What `make status` shows for different states."""

from __future__ import annotations

import re
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from appliance.status import STOPPED, _ago, _duration, show
from tableloop.settings import Settings
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.prediction_rows import Sent, row
from tableloop.table import load_table


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


def shown(settings: Settings, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines about the shadow, without their name and how long it lasts."""
    show(settings)
    lines = capsys.readouterr().out.splitlines()
    first = next((place for place, line in enumerate(lines) if line.startswith("shadow ")), len(lines))
    return [re.sub(r"since .*?:", "since then:", line[9:]) for line in lines[first : first + 2]]


def test_a_version_in_the_shadow_is_shown_with_what_labels_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: Path | str
) -> None:
    settings = Settings(
        state_dir=tmp_path, promote="ask", database_url=SecretStr(place if isinstance(place, str) else "")
    )
    store, table = Store.of(settings), load_table()
    store.record_serving(settings.model_name, "4", "run 4", "serves")
    assert shown(settings, capsys) == []
    shadow = shadows.begin(store, settings.model_name, "5", "run 5")
    waits = "it waits for make promote VERSION=5 or make reject VERSION=5"
    assert shown(settings, capsys) == ["version 5 since then: 0 predictions scored, no labels of them yet", waits]
    first, *others = table.example.values()
    with closing(store.writer()) as writer:
        writer.insert([row(f"p{n}", "r", 1.0, "4", [float(first) + n, *others], 2.0, 1.0, 3.0) for n in range(120)])
        newest = store.newest_predictions(200)[::-1]
        values = [shadows.Value(made.id, 2.25, 1.0, 3.0) for made in newest]
        shadows.add_values(store, shadow, values, newest[-1].id)
        writer.insert_labels([Sent(f"p{n}", 2.5) for n in range(45)], "administrator", table)
    judged = "version 5 since then: 120 predictions scored, 45 labels judge it, RMSE 0.250 against 0.500 of version 4"
    assert shown(settings, capsys) == [judged, waits]
    shadows.note_problem(store, shadow, 1, "no such file")  # or it is about to score
    assert shown(settings, capsys) == [judged, waits]
    shadows.note_problem(store, shadow, 2, "no such file")
    settings = settings.model_copy(update={"promote": "shadow", "shadow_days": 2.0})
    latest = datetime.fromtimestamp(shadow.began_at, UTC) + timedelta(days=2)
    assert shown(settings, capsys) == [
        f"{judged}, it cannot score: no such file",
        f"it stays until labels have judged it, at most until {latest:%Y-%m-%d %H:%M} UTC",
    ]
    shadows.end(store, settings.model_name, "rejected", "worse")
    assert shown(settings, capsys) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (59.9, "59 s"), (61, "1 m 1 s"), (7_325, "2 h 2 m"), (200_000, "2 d 7 h")],
)
def test_a_duration_has_the_two_units_that_matter(seconds: float, words: str) -> None:
    assert _duration(seconds) == words


def test_a_time_that_cannot_be_read_is_said_to_be_unknown() -> None:
    assert _ago("2020-01-01T00:00:10+00:00", 1_577_836_815.0) == "5 s ago"
    assert _ago(None, time.time()) == "at an unknown time"
