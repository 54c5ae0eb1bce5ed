"""What Grafana is started with. Grafana itself cannot be had everywhere: these read what it would read."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.monitoring.conftest import Started

StartProgram = Callable[..., Started]


@pytest.fixture
def grafana(start_program: StartProgram) -> Started:
    return start_program("grafana")


def provisioning(grafana: Started, kind: str) -> dict[str, Any]:
    """Return a provisioning file with the variables of its environment filled in, as Grafana does."""
    (file,) = (Path(grafana.environment["GF_PATHS_PROVISIONING"]) / kind).glob("*.yml")
    # Grafana replaces in each value after parsing; an unknown variable would be empty there and fails here.
    content = yaml.safe_load(file.read_text())

    def expand(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: expand(item) for key, item in value.items()}
        if isinstance(value, list):
            return [expand(item) for item in value]
        return string.Template(value).substitute(grafana.environment) if isinstance(value, str) else value

    result: dict[str, Any] = expand(content)
    assert result["apiVersion"] == 1
    return result


def test_everyone_may_look_and_nobody_change(grafana: Started) -> None:
    assert grafana.environment["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert grafana.environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    (provider,) = provisioning(grafana, "dashboards")["providers"]
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False
    assert provider["disableDeletion"] is True


def test_a_visitor_sees_the_overview_first_and_finds_the_others(grafana: Started) -> None:
    home = Path(grafana.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert json.loads(home.read_text())["uid"] == "overview"
    (provider,) = provisioning(grafana, "dashboards")["providers"]
    files = {file.stem for file in Path(provider["options"]["path"]).glob("*.json")}
    assert files == {"overview", "service", "model", "drift", "appliance"}


def test_the_dashboards_ask_the_data_source_that_is_provisioned(grafana: Started) -> None:
    (source,) = provisioning(grafana, "datasources")["datasources"]
    assert source["url"] == f"http://127.0.0.1:{grafana.environment['PROMETHEUS_PORT']}"
    assert source["isDefault"] is True
    text = "".join(
        file.read_text()
        for file in Path(grafana.environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]).parent.glob("*.json")
    )
    named = text.count('"type": "prometheus"')
    assert named == text.count(f'"uid": "{source["uid"]}"') > 50


def test_the_password_of_the_file_is_in_no_argument_and_no_log(grafana: Started) -> None:
    assert grafana.environment["GF_SECURITY_ADMIN_PASSWORD"] == "from-the-file"
    assert "from-the-file" not in " ".join(grafana.arguments) + grafana.console


def test_a_password_of_the_environment_counts(start_program: StartProgram) -> None:
    started = start_program("grafana", GF_SECURITY_ADMIN_PASSWORD="given 100%")
    assert started.environment["GF_SECURITY_ADMIN_PASSWORD"] == "given 100%"
    assert "given" not in " ".join(started.arguments) + started.console
