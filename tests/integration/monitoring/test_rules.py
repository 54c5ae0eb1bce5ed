"""The rules of Prometheus, judged by promtool."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.integration.monitoring.conftest import Started

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
RULES_TEST = Path(__file__).with_name("rules_test.yml")


def promtool(*arguments: str, directory: Path = PROMETHEUS) -> str:
    path = os.environ["PATH"] + os.pathsep + str(ROOT / ".runtime" / "prometheus")
    binary = shutil.which("promtool", path=path)
    assert binary, "no promtool on PATH or in .runtime/prometheus: make setup"
    result = subprocess.run(
        [binary, *arguments], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("variables", [{}, {"API_HOST": "api"}], ids=["alone", "with copies of the service"])
def test_prometheus_accepts_its_configuration_and_loads_the_rules(
    start_program: Callable[..., Started], variables: dict[str, str]
) -> None:
    prometheus = start_program("prometheus", **variables)
    (file,) = (argument for argument in prometheus.arguments if argument.startswith("--config.file="))
    answer = promtool("check", "config", file.partition("=")[2], directory=Path(prometheus.directory))
    assert "1 rule files found" in answer


def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(RULES_TEST))


def alerts() -> list[dict[str, object]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_says_what_to_do_and_has_both_kinds_of_tests(rule: dict[str, object]) -> None:
    annotations = rule["annotations"]
    assert isinstance(annotations, dict)
    assert set(annotations) == {"summary", "description", "action"}
    tests = yaml.safe_load(RULES_TEST.read_text())["tests"]
    fires = [
        bool(check.get("exp_alerts"))
        for test in tests
        for check in test.get("alert_rule_test", [])
        if check["alertname"] == rule["alert"]
    ]
    assert set(fires) == {True, False}
