"""The settings that Grafana starts with. Grafana is not available everywhere, so these tests read its files."""

from __future__ import annotations

import json
import os
import string
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tableloop.credentials import read_password, write_secret
from tableloop.state.layout import Layout
from tests.integration.conftest import link_checkout
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


@pytest.mark.parametrize("kind", ["plugins", "alerting"])
def test_what_is_not_provisioned_is_no_error_in_the_log(grafana: Started, kind: str) -> None:
    assert provisioning(grafana, kind) == {"apiVersion": 1}
    (file,) = (Path(grafana.environment["GF_PATHS_PROVISIONING"]) / kind).iterdir()
    assert file.suffix == ".yml"


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


def test_a_later_password_is_told_to_grafana_once_and_on_no_command_line(
    tmp_path: Path,
) -> None:
    told = tmp_path / "told"
    script = f'[ "$1" = cli ] || exit 0\n{{ echo "$@"; cat; }} >>{told}'
    root, state = link_checkout(tmp_path / "checkout", grafana=script), tmp_path / "state"
    for directory in ("run", "grafana"):
        (state / directory).mkdir(parents=True)
    for password, database in (("first", False), ("first", True), ("second", True), ("second", True)):
        write_secret(Layout(state).admin_password, password)
        if database:
            (state / "grafana" / "grafana.db").touch()
        variables = os.environ | {"STATE_DIR": str(state), "TEST_MODE": "1"}
        subprocess.run([root / "entrypoint.sh", "grafana"], env=variables, check=True, timeout=30)
    command, password = told.read_text().splitlines()
    assert command.endswith("admin reset-admin-password --password-from-stdin")
    assert password == "second"


def test_the_password_is_named_by_its_file_and_is_nowhere_itself(grafana: Started) -> None:
    file = Layout(Path(grafana.environment["STATE_DIR"])).admin_password
    assert grafana.environment["GF_SECURITY_ADMIN_PASSWORD"] == f"$__file{{{file}}}"
    assert read_password(file) == "from-the-file"
    told = " ".join([*grafana.arguments, *grafana.environment.values(), grafana.console])
    assert "from-the-file" not in told
