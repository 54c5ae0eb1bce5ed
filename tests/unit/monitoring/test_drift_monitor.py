"""What the loop does with the process in which a version in the shadow scores, whatever becomes of that."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from monitoring import drift_monitor
from monitoring.drift_monitor import Monitor
from tableloop.state.layout import Layout

ANSWER = {"says": "nothing to do", "start": None, "again_at": None, "ended": "", "shadow": True}


@pytest.fixture
def monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    layout = Layout(tmp_path)
    layout.run.mkdir()
    made = Monitor(layout, 0.0)
    monkeypatch.setattr(made, "_check", lambda: dict(ANSWER))
    return made


def scoring(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(drift_monitor, "SHADOW", (sys.executable, "-c", code))


def look_until_it_has_ended(monitor: Monitor) -> None:
    monitor.look()
    process = monitor._scoring
    assert process is not None
    process.wait(20)
    monitor.look()


def test_one_that_hangs_is_ended_and_nothing_waits_for_it(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring(monkeypatch, "import time; time.sleep(600)")
    began = time.monotonic()
    monitor.look()
    hangs = monitor._scoring
    assert hangs is not None
    monitor.look()
    assert monitor._scoring is hangs  # one at a time
    assert time.monotonic() - began < 10
    monkeypatch.setattr(drift_monitor, "LONGEST_SCORING", 0.0)
    monitor.look()
    assert hangs.poll() is not None


def test_one_that_crashes_is_said(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scoring(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    look_until_it_has_ended(monitor)
    assert "the version in the shadow was ended by SIGSEGV as it scored" in capsys.readouterr().out


def test_what_waited_for_the_verdict_goes_on_once_it_has_left(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = []

    def check() -> dict[str, Any]:
        checks.append(1)
        return ANSWER | {"shadow": len(checks) == 1}

    monkeypatch.setattr(monitor, "_check", check)
    scoring(monkeypatch, "raise SystemExit(4)")
    look_until_it_has_ended(monitor)
    assert len(checks) == 2  # though nothing was new
    monitor.look()
    assert len(checks) == 2


def test_the_end_of_the_loop_ends_it(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring(monkeypatch, "import time; time.sleep(600)")

    def end(_: float) -> None:
        raise SystemExit

    monkeypatch.setattr(monitor, "_wait", end)
    with pytest.raises(SystemExit):
        monitor.run()
    assert monitor._scoring is not None
    assert monitor._scoring.poll() is not None
