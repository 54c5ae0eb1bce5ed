from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from monitoring.health import Services
from monitoring.watchdog import CRASHES, KILLS, LOOP, Console, RunDirectory, Watchdog


@dataclass
class Bench:
    """A watchdog whose supervisord is a list of stops."""

    path: Path
    written: io.StringIO = field(default_factory=io.StringIO)
    stops: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        url = "http://127.0.0.1:1"
        services = Services(url, url, url, url, "Model", "Alias", test_mode=False)
        console = Console(self.written)
        self.watchdog = Watchdog(services, RunDirectory(self.path), console, lambda: self.stops.append("stop"))

    def says(self, program: str, text: str) -> None:
        self.watchdog.handle("PROCESS_LOG_STDOUT", {"processname": program}, text)

    def ends(self, program: str, expected: bool = False) -> None:
        fields = {"processname": program, "expected": str(int(expected))}
        self.watchdog.handle("PROCESS_STATE_EXITED", fields, "")

    def flaps(self, program: str, how: str) -> None:
        """End a program after a healthy moment; supervisord logs how before it tells."""
        log = self.path.parent / "logs" / "supervisord.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as file:
            file.write(f"2026-11-23 08:00:00,000 WARN exited: {program} ({how}; not expected)\n")
        self.watchdog._crashes[program] = 0  # as every healthy measurement does
        self.ends(program)

    def failed(self) -> str:
        file = self.path / "failed"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_lines_carry_the_program_and_are_never_torn(bench: Bench) -> None:
    bench.says("api", "one\ntw")
    bench.says("mlflow", "other\n")
    bench.says("api", "o\nlast")
    bench.ends("api", expected=True)
    assert bench.written.getvalue().splitlines() == [
        "api           | one",
        "mlflow        | other",
        "api           | two",
        "api           | last",
    ]


def test_a_failed_training_ends_the_appliance_with_its_last_line(bench: Bench) -> None:
    bench.says("bootstrap", "Running\ntraining failed in stage train: no rows\n")
    bench.ends("bootstrap")
    assert bench.failed() == "training failed in stage train: no rows\n"
    assert bench.stops == ["stop"]


def test_a_finished_training_leaves_its_mark(bench: Bench) -> None:
    bench.ends("bootstrap", expected=True)
    assert (bench.path / "registered").exists()
    assert bench.stops == []


def test_a_crash_loop_ends_the_appliance_once(bench: Bench) -> None:
    bench.says("mlflow", "address already in use\n")
    for _ in range(CRASHES - 1):
        bench.ends("mlflow")
    assert bench.stops == []
    bench.ends("mlflow")
    bench.ends("api")
    assert bench.failed() == f"mlflow ended {CRASHES} times in a row: address already in use\n"
    assert bench.stops == ["stop"]


def test_crashes_with_healthy_moments_between_them_end_the_appliance_too(bench: Bench) -> None:
    for _ in range(LOOP - 1):
        bench.flaps("api", "exit status 1")
        bench.flaps("mlflow", "terminated by SIGKILL")
    assert bench.stops == []
    bench.flaps("api", "terminated by SIGSEGV (core dumped)")
    assert bench.failed().startswith(f"api ended by itself {LOOP} times in 0 s")


def test_a_program_may_be_killed_more_often_than_it_may_crash_but_not_for_ever(bench: Bench) -> None:
    for _ in range(KILLS - 1):
        bench.flaps("api", "terminated by SIGKILL")
    assert bench.stops == []
    bench.flaps("api", "terminated by SIGTERM")
    assert bench.failed().startswith(f"api ended {KILLS} times in 0 s")


def test_crashes_long_ago_do_not_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("monitoring.watchdog.time.monotonic", lambda: clock)
    for _ in range(4 * KILLS):
        bench.flaps("api", "exit status 1")
        clock += 60
    assert bench.stops == []


def test_a_program_that_is_not_here_is_no_crash(bench: Bench) -> None:
    for _ in range(CRASHES):
        bench.ends("grafana", expected=True)
    assert bench.stops == []


def test_a_program_that_cannot_start_ends_the_appliance(bench: Bench) -> None:
    bench.watchdog.handle("PROCESS_STATE_FATAL", {"processname": "api"}, "")
    assert bench.failed() == "api does not start: it wrote nothing\n"


def test_stopping_is_no_failure_and_takes_the_ready_mark(bench: Bench) -> None:
    (bench.path / "ready").touch()
    bench.watchdog.handle("SUPERVISOR_STATE_CHANGE_STOPPING", {}, "")
    bench.ends("api")
    assert not (bench.path / "ready").exists()
    assert bench.failed() == ""
    assert bench.stops == []


def test_phases_come_in_the_order_in_which_they_ended(tmp_path: Path) -> None:
    (tmp_path / "phases").mkdir()
    for second, name in enumerate(("train", "register")):
        file = tmp_path / "phases" / name
        file.write_text(f"{second}.5\n")
        os.utime(file, (second, second))
    assert list(RunDirectory(tmp_path).phases().items()) == [("train", 0.5), ("register", 1.5)]


def test_crashes_of_a_program_without_an_address_are_forgotten_when_it_has_run_for_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr("monitoring.watchdog.time.monotonic", lambda: clock)
    running = {"processname": "drift-monitor", "pid": str(os.getpid())}
    for steady, crashes in ((61, 3 * CRASHES), (1, CRASHES - 2)):
        for _ in range(crashes):
            bench.watchdog.handle("PROCESS_STATE_RUNNING", running, "")
            clock += steady
            bench.ends("drift-monitor")
        assert bench.failed() == ""
    bench.ends("drift-monitor")
    assert bench.failed().startswith("drift-monitor ended 4 times in a row")
