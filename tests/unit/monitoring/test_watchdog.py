from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from monitoring.health import Services
from monitoring.watchdog import ENDS, ENDS_SECONDS, Console, RunDirectory, Watchdog


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
    bench.watchdog.handle("PROCESS_STATE_FATAL", {"processname": "api"}, "")
    assert bench.written.getvalue().splitlines()[:4] == [
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
        bench.ends("prometheus", expected=True)
    assert bench.stops == ["stop"]


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
