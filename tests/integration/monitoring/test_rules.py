"""The rules of Prometheus, and what the dashboards make of some situations, judged by promtool."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.dashboards import DASHBOARDS
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
    assert set(annotations) == {"summary", "description", "action", "runbook"}
    tests = yaml.safe_load(RULES_TEST.read_text())["tests"]
    fires = [
        bool(check.get("exp_alerts"))
        for test in tests
        for check in test.get("alert_rule_test", [])
        if check["alertname"] == rule["alert"]
    ]
    assert set(fires) == {True, False}


# Series that Prometheus has, and what each query of the panel then answers.
SERVICE_DOWN = 'ALERTS{alertname="ServiceDown", alertstate="firing", severity="critical", service="mlflow"}'
NO_PREDICTIONS = 'ALERTS{alertname="NoPredictions", alertstate="firing", severity="warning"}'
PENDING = 'ALERTS{alertname="PredictionsSlow", alertstate="pending", severity="warning"}'
FEATURE = 'feature_drifted{feature="MedInc"}'
SERVICE_DOWN_SHOWN = {'{alertname="ServiceDown", service="mlflow"}': 2}
Samples = dict[str, int]
SITUATIONS: list[tuple[str, str, Samples, list[Samples]]] = [
    ("overview", "Alerts that fire", {PENDING: 1}, [{}, {'{alertstate="firing"}': 0}]),
    (
        "overview",
        "Alerts that fire",
        {SERVICE_DOWN: 1, NO_PREDICTIONS: 1, PENDING: 1},
        [SERVICE_DOWN_SHOWN | {'{alertname="NoPredictions"}': 1}, {}],
    ),
    ("overview", "Alerts over time", {SERVICE_DOWN: 1}, [SERVICE_DOWN_SHOWN]),
    ("overview", "Model that serves", {}, [{}, {"{}": 1}]),
    ("drift", "Verdict", {}, [{}]),
    ("drift", "Verdict", {"drift_detected": 0}, [{"{}": -1}]),  # too few predictions: no feature is judged
    ("drift", "Verdict", {"drift_detected": 0, FEATURE: 0}, [{"{}": 0}]),
    ("drift", "Verdict", {"drift_detected": 1, FEATURE: 1}, [{"{}": 1}]),
    ("drift", "Drifted features", {"drift_detected": 0}, [{}, {"{}": -1}]),
    ("drift", "Drifted features", {FEATURE: 1}, [{'{feature="MedInc"}': 1}, {}]),
]


@pytest.mark.parametrize(("dashboard", "title", "given", "shown"), SITUATIONS)
def test_a_panel_shows_of_a_situation(
    tmp_path: Path, dashboard: str, title: str, given: Samples, shown: list[Samples]
) -> None:
    panels = DASHBOARDS[dashboard]["panels"]
    (targets,) = (panel["targets"] for panel in panels if panel["title"] == title)
    expected = [
        {
            "expr": target["expr"].replace("$__rate_interval", "8s"),
            "eval_time": "10s",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for target, samples in zip(targets, shown, strict=True)
    ]
    series = [{"series": one, "values": f"{value}x5"} for one, value in given.items()]
    test = {"interval": "2s", "input_series": series, "promql_expr_test": expected}
    file = tmp_path / "situation.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "2s", "tests": [test]}))
    assert "SUCCESS" in promtool("test", "rules", str(file))
