"""A running appliance: what answers, what comes back, what it costs, and when it gives up."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable

import psutil  # type: ignore[import-untyped]
import pytest

from monitoring.health import UnwellError, ask, check_all
from tableloop.table import load_table
from tests.integration.conftest import Appliance, wait_until

FEATURES = load_table().features

ROW = {column.name: column.example for column in FEATURES}
COMMANDS = {
    "mlflow": ("appliance.mlflow_server",),
    "api": ("app.main",),
    "prometheus": ("prometheus", "--config.file"),
    "watchdog": ("monitoring.watchdog",),
}


def healthy(appliance: Appliance) -> bool:
    return all(check.up for check in check_all(appliance.services).values()) and appliance.is_ready()


def test_every_address_answers(running: Appliance) -> None:
    services = running.services
    for path in (services.api + "/", services.api + "/docs", services.mlflow + "/", services.prometheus + "/graph"):
        with urllib.request.urlopen(path, timeout=5) as response:
            assert response.status == 200, path
    assert ask(services.api, "/predict", body=ROW)["predicted_median_house_value"] > 0
    report = json.loads((running.state / "run" / "health.json").read_text())
    states = {name: service["state"] for name, service in report["services"].items()}
    assert states["api"] == states["mlflow"] == states["prometheus"] == "up"
    assert set(states) == {"api", "mlflow", "prometheus", "grafana"}


@pytest.mark.parametrize(("name", "status"), [("mlflow", 200), ("registry.internal", 200), ("evil.example.com", 403)])
def test_mlflow_answers_under_private_names_only(running: Appliance, name: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.ports["MLFLOW_PORT"], timeout=10)
    connection.request("GET", "/version", headers={"Host": f"{name}:{running.ports['MLFLOW_PORT']}"})
    assert connection.getresponse().status == status
    connection.close()


def test_status_shows_services_model_drift_and_training_within_a_second(running: Appliance) -> None:
    wait_until(lambda: healthy(running), 20, "health")
    before = _seconds_of_a_core()
    result = running.make("status")
    assert result.returncode == 0, result.stdout
    verdict, _, header, *lines = result.stdout.splitlines()
    after = _seconds_of_a_core()
    assert verdict == "healthy"
    assert header.split() == ["service", "state", "pid", "uptime", "memory", "address"]
    api = next(line for line in lines if line.startswith("api ")).split()
    program = running.program("app.main")
    assert program
    assert (api[1], api[2], api[-1]) == ("up", str(program.pid), f"http://localhost:{running.ports['API_PORT']}")
    assert {"mlflow", "prometheus", "grafana", "drift-monitor", "watchdog"} <= {
        line.partition(" ")[0] for line in lines
    }
    facts = dict(line.split(maxsplit=1) for line in lines if line)
    assert facts["model"].startswith("version 1, spatial; test RMSE 0.3")
    assert "; last look " in facts["drift"]
    assert "by the first start: promoted version 1" in facts["trained"]
    # A second, or where a processor is slow, three times what it takes to load the two largest things it needs.
    subprocess.run([sys.executable, "-c", "import tableloop.settings, tableloop.state.database"], check=True)
    assert after - before < max(1.0, 3 * (_seconds_of_a_core() - after))


def _seconds_of_a_core() -> float:
    """Return the processor time of the commands so far. Other load on the machine does not change it."""
    times = os.times()
    return times.children_user + times.children_system


def test_idle_memory_is_below_900_mb(running: Appliance, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        " ".join(process.cmdline())[:60]: process.memory_full_info().pss / 1e6 for process in running.processes()
    }
    with capsys.disabled():
        sys.stdout.write(
            f"\nidle: {sum(sizes.values()):.0f} MB { ({name: round(size) for name, size in sizes.items()}) }\n"
        )
    assert sum(sizes.values()) < 900


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_killed_program_comes_back(running: Appliance, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    wait_until(lambda: healthy(running), 20, "health before the kill")
    victim = running.program(*COMMANDS[name])
    assert victim is not None
    victim.kill()
    wait_until(lambda: not psutil.pid_exists(victim.pid), 5, "its end")
    if name == "mlflow":
        assert ask(running.services.api, "/predict", body=ROW)["model_version"] == "1"
    seconds = wait_until(
        lambda: (program := running.program(*COMMANDS[name])) and program.pid != victim.pid and healthy(running),
        30,  # 15 s are promised on two free cores
        f"{name} to be back",
    )
    with capsys.disabled():
        sys.stdout.write(f"\n{name} killed: back after {seconds:.1f} s\n")


def test_a_frozen_service_takes_the_ready_mark_away_until_it_answers(running: Appliance) -> None:
    wait_until(lambda: healthy(running), 20, "health")
    frozen = running.program(*COMMANDS["prometheus"])
    assert frozen is not None
    frozen.suspend()
    try:
        wait_until(lambda: not running.is_ready(), 20, "the end of the ready mark")
        status = running.make("status")
        assert status.returncode != 0
        assert status.stdout.startswith("degraded: prometheus is down\n")
        assert "prometheus: no answer in 3 s\n" in status.stdout
        assert "status] Error 1" in status.stderr
    finally:
        frozen.resume()
    wait_until(lambda: healthy(running), 15, "health")
    assert "prometheus is down: no answer" in running.console()
    assert "prometheus is back after" in running.console()


def test_the_service_answers_during_a_retraining(running: Appliance) -> None:
    wait_until(lambda: healthy(running), 20, "health")
    wrong: list[str] = []
    answered = 0
    done = threading.Event()

    def keep_asking() -> None:
        nonlocal answered
        while not done.is_set():
            try:
                ask(running.services.api, "/predict", body=ROW)
                answered += 1
            except UnwellError as problem:
                wrong.append(str(problem))
            time.sleep(0.05)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    result = running.make("retrain")
    done.set()
    asking.join()
    assert result.returncode == 0, result.stdout + result.stderr
    assert wrong == []
    assert answered > 20


def test_retraining_needs_no_running_appliance(
    new_appliance: Callable[..., Appliance], first_start: tuple[Appliance, str]
) -> None:
    appliance = new_appliance(state_of=first_start[0])
    result = appliance.make("retrain")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "unchanged" in result.stdout
    assert appliance.processes() == []


def test_retraining_without_the_registry_of_a_running_appliance_is_refused_in_one_line(
    new_appliance: Callable[..., Appliance],
) -> None:
    result = new_appliance(MLFLOW_TRACKING_URI="http://127.0.0.1:9").make("retrain")
    assert result.returncode != 0
    assert len(result.stdout.splitlines()) == 1
    assert "make status" in result.stdout


def test_a_crash_loop_ends_everything_non_zero_with_one_line(
    new_appliance: Callable[..., Appliance], first_start: tuple[Appliance, str]
) -> None:
    appliance = new_appliance(state_of=first_start[0])
    process = appliance.entrypoint()
    assert process.stdout is not None
    stop_killing = threading.Event()

    def kill_on_sight() -> None:
        while not stop_killing.wait(0.2):
            victim = appliance.program(*COMMANDS["mlflow"])
            if victim is not None:
                try:
                    victim.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue

    killer = threading.Thread(target=kill_on_sight)
    killer.start()
    started = time.monotonic()
    output, _ = process.communicate(timeout=60)
    stop_killing.set()
    killer.join()
    assert time.monotonic() - started < 60
    assert process.returncode != 0
    # Which of the two comes first depends on how far a start gets before it is seen.
    last = output.splitlines()[-1]
    assert last.startswith(("mlflow does not start: ", "mlflow ended 9 times in ")), output
    wait_until(lambda: not appliance.processes(), 3, "the end of all processes")


def test_killing_supervisord_leaves_no_program_behind(running: Appliance) -> None:
    supervisord = running.program("supervisord", "--nodaemon")
    assert supervisord is not None
    supervisord.kill()
    wait_until(lambda: not running.processes(), 10, "the end of all processes")
    assert running.console().splitlines()[-1] == "supervisord was killed"
