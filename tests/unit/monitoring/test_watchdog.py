from __future__ import annotations

import io
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from monitoring.health import Services, given_up
from monitoring.watchdog import ENDS, ENDS_SECONDS, HELPERS, Console, Watchdog, read_phases
from tableloop.state.layout import Layout


@dataclass
class Bench:
    """A watchdog that adds to a list instead of stopping supervisord."""

    layout: Layout
    written: io.StringIO = field(default_factory=io.StringIO)
    stops: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        url = "http://127.0.0.1:1"
        services = Services(url, url, url, url, "Model", "Alias", False, self.layout.admin_password)
        self.layout.run.mkdir()
        self.layout.run_lock.touch()
        console = Console(self.written)
        self.watchdog = Watchdog(services, self.layout, console, lambda: self.stops.append("stop"), self.stops.append)

    def says(self, program: str, text: str) -> None:
        self.watchdog.handle("PROCESS_LOG_STDOUT", {"processname": program}, text)

    def ends(self, program: str, expected: bool = False) -> None:
        fields = {"processname": program, "expected": str(int(expected))}
        self.watchdog.handle("PROCESS_STATE_EXITED", fields, "")

    def failed(self) -> str:
        file = self.layout.failed
        return file.read_text() if file.exists() else ""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Layout(tmp_path))


def test_lines_carry_the_program_and_are_never_torn(bench: Bench) -> None:
    bench.says("api", "one\ntw")
    bench.says("mlflow", "other\n")
    bench.says("api", "o\nlast")
    bench.watchdog.handle("PROCESS_STATE_FATAL", {"processname": "api"}, "")
    assert bench.written.getvalue().splitlines()[:4] == [
        "api           | one",
        "mlflow        | other",
        "api           | two",
        "api           | last",
    ]


def test_the_address_of_a_webhook_is_not_shown(bench: Bench) -> None:
    bench.says("alertmanager", 'err="Post \\"http://127.0.0.1:1/hooks/T0KEN\\": connection refused"\n')
    assert "T0KEN" not in bench.written.getvalue()
    assert "http://127.0.0.1:1/…" in bench.written.getvalue()


def test_a_failed_training_ends_the_appliance_with_its_last_line(bench: Bench) -> None:
    bench.says("bootstrap", "Running\ntraining failed in stage train: no rows\n")
    bench.ends("bootstrap")
    assert bench.failed() == "training failed in stage train: no rows\n"
    assert bench.stops == ["stop"]


def test_a_finished_training_leaves_its_mark(bench: Bench) -> None:
    bench.ends("bootstrap", expected=True)
    assert bench.layout.registered.exists()
    assert bench.stops == []


def test_a_program_that_ends_again_and_again_ends_the_appliance_once(bench: Bench) -> None:
    bench.says("mlflow", "address already in use\n")
    for _ in range(ENDS - 1):
        bench.ends("mlflow")
        bench.ends("api")
    assert bench.stops == []
    assert "mlflow ended and is started again\n" in bench.written.getvalue()
    bench.ends("mlflow")
    bench.ends("api")
    assert bench.failed() == f"mlflow ended {ENDS} times in 0 s: address already in use\n"
    assert bench.stops == ["stop"]


def test_an_end_with_exit_code_0_counts_too(bench: Bench) -> None:
    for _ in range(ENDS):
        bench.ends("mlflow", expected=True)
    assert bench.stops == ["stop"]


@pytest.mark.parametrize("helper", sorted(HELPERS))
def test_a_helper_that_ends_again_and_again_is_stopped_alone(bench: Bench, helper: str) -> None:
    bench.layout.ready.touch()
    bench.says(helper, "no such file\n")
    for _ in range(ENDS):
        bench.ends(helper)
    assert bench.stops == [helper]
    assert bench.failed() == ""
    assert not bench.layout.ready.exists()
    assert given_up(bench.layout) == {helper: f"ended {ENDS} times in 0 s: no such file"}
    assert f"{helper} ended {ENDS} times in 0 s: no such file; the service goes on" in bench.written.getvalue()
    # Until somebody starts it again.
    bench.watchdog.handle("PROCESS_STATE_RUNNING", {"processname": helper, "pid": "1"}, "")
    assert given_up(bench.layout) == {}


def test_a_helper_that_does_not_start_ends_nothing(bench: Bench) -> None:
    bench.says("grafana", "no such file\n")
    bench.watchdog.handle("PROCESS_STATE_FATAL", {"processname": "grafana"}, "")
    assert bench.stops == []
    assert given_up(bench.layout) == {"grafana": "does not start: no such file"}


def test_a_program_may_be_killed_now_and_then_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("monitoring.watchdog.time.monotonic", lambda: clock)
    for _ in range(4 * ENDS):
        bench.ends("api")
        clock += ENDS_SECONDS / (ENDS - 1) + 1
    assert bench.stops == []


def test_a_failed_start_is_told_and_tried_again(bench: Bench) -> None:
    bench.says("api", "no such thing")
    bench.watchdog.handle("PROCESS_STATE_BACKOFF", {"processname": "api", "tries": "1"}, "")
    assert bench.written.getvalue().splitlines() == [
        "api           | no such thing",
        "appliance     | api ended within a second of its start and is started again",
    ]
    assert bench.stops == []


def test_a_program_that_cannot_start_ends_the_appliance(bench: Bench) -> None:
    bench.watchdog.handle("PROCESS_STATE_FATAL", {"processname": "api"}, "")
    assert bench.failed() == "api does not start: it wrote nothing\n"


def test_stopping_is_no_failure_and_takes_the_ready_mark(bench: Bench) -> None:
    bench.layout.ready.touch()
    bench.watchdog.handle("SUPERVISOR_STATE_CHANGE_STOPPING", {}, "")
    bench.ends("api")
    assert not bench.layout.ready.exists()
    assert bench.failed() == ""
    assert bench.stops == []


def test_phases_come_in_the_order_in_which_they_ended(tmp_path: Path) -> None:
    for second, name in enumerate(("train", "register")):
        file = tmp_path / name
        file.write_text(f"{second}.5\n")
        os.utime(file, (second, second))
    assert list(read_phases(tmp_path).items()) == [("train", 0.5), ("register", 1.5)]


def test_a_console_that_was_removed_is_opened_anew(tmp_path: Path) -> None:
    file = tmp_path / "appliance.log"
    console = Console(sys.stderr, file)
    console.write("api", "before\n")
    file.unlink()
    console.write("api", "after\n")
    file.rename(tmp_path / "appliance.log.1")  # as logrotate does
    console.write("api", "later\n")
    assert file.read_text() == "api           | later\n"
    assert (tmp_path / "appliance.log.1").read_text() == "api           | after\n"
    shutil.rmtree(tmp_path)
    console.write("api", "nowhere\n")


@pytest.mark.parametrize("again", [False, True])
def test_an_appliance_whose_state_was_removed_ends(bench: Bench, again: bool) -> None:
    shutil.rmtree(bench.layout.root)
    if again:  # another appliance has begun there
        bench.layout.run.mkdir(parents=True)
        bench.layout.run_lock.touch()
    bench.watchdog.watch(0.0)
    assert bench.stops == ["stop"]
    assert "was removed" in bench.written.getvalue()
    assert not bench.layout.failed.exists()
