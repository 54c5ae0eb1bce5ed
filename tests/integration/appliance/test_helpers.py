"""A program without which the service predicts all the same takes nothing else down."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from monitoring.watchdog import HELPER_SECONDS
from tests.integration.conftest import Appliance, link_checkout, wait_until
from tests.unit.app.conftest import EXAMPLE


def test_a_grafana_that_cannot_run_is_said_to_be_down_and_the_service_goes_on(
    new_appliance: Callable[..., Appliance], first_start: tuple[Appliance, str], tmp_path: Path
) -> None:
    root = link_checkout(tmp_path / "checkout", grafana="echo no such file >&2; exit 1")
    appliance = new_appliance(state_of=first_start[0], root=root)
    said = appliance.start()
    assert re.search(r"ready in .* Grafana down$", said, re.MULTILINE)
    assert said.count("; the service goes on without it") <= 1
    wait_until(lambda: "the service goes on without it" in appliance.console(), 60, "the end of trying")
    lines = [line for line in appliance.console().splitlines() if "goes on without it" in line]
    assert len(lines) == 1
    assert "no such file" in lines[0]
    assert appliance.services.ask_api("/predict", EXAMPLE)["model_version"] == "1"
    status = appliance.make("status")
    assert status.stdout.startswith("degraded: grafana is down\n")
    assert "no such file" in status.stdout
    seen = appliance.services.ask_api("/health")["services"]["grafana"]
    assert seen["state"] == "down"
    assert "no such file" in seen["detail"]
    assert not appliance.is_ready()


def test_the_ready_line_waits_a_stated_time_for_a_prometheus_that_says_nothing(
    new_appliance: Callable[..., Appliance], first_start: tuple[Appliance, str], tmp_path: Path
) -> None:
    root = link_checkout(tmp_path / "checkout", prometheus="exec sleep 600")
    appliance = new_appliance(state_of=first_start[0], root=root)
    said = appliance.start()
    found = re.search(r"ready in ([\d.]+) s .* Prometheus down", said)
    assert found, said
    assert HELPER_SECONDS < float(found[1]) < HELPER_SECONDS + 40
    assert appliance.make("status").stdout.startswith("degraded: prometheus is down\n")
