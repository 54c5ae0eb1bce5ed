from __future__ import annotations

import contextlib
import fcntl
import resource
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance import prepare
from appliance.status import is_running
from tableloop.credentials import read_password
from tableloop.settings import Settings
from tableloop.state.layout import Layout

FreePort = Callable[[], int]


def settings_with(free_port: FreePort, **changes: object) -> Settings:
    ports = {name: free_port() for name in ("api_port", "mlflow_port", "prometheus_port", "grafana_port")}
    return Settings.model_validate(ports | changes)


def database_of(path: Path, revision: str) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    return path


def test_free_ports_are_accepted(free_port: FreePort) -> None:
    prepare.check_ports(settings_with(free_port))


def test_a_busy_port_names_the_variable_to_change(free_port: FreePort) -> None:
    settings = settings_with(free_port)
    with socket.socket() as other:
        other.bind(("127.0.0.1", settings.prometheus_port))
        other.listen()
        with pytest.raises(
            prepare.RefusedError, match=f"PROMETHEUS_PORT={settings.prometheus_port} .*already in use"
        ):
            prepare.check_ports(settings)


def test_one_port_for_two_services_is_refused(free_port: FreePort) -> None:
    port = free_port()
    with pytest.raises(prepare.RefusedError, match=f"MLFLOW_PORT={port} is the same port as API_PORT"):
        prepare.check_ports(settings_with(free_port, api_port=port, mlflow_port=port))


def test_an_address_of_another_machine_is_no_busy_port(free_port: FreePort) -> None:
    with pytest.raises(prepare.RefusedError, match="cannot assign requested address"):
        prepare.check_ports(settings_with(free_port, bind_address="192.0.2.1"))


def test_an_address_of_another_machine_names_its_variable(free_port: FreePort) -> None:
    with pytest.raises(prepare.RefusedError, match=r"^BIND_ADDRESS=192\.0\.2\.1: .*0\.0\.0\.0"):
        prepare.check_ports(settings_with(free_port, bind_address="192.0.2.1"))


@pytest.mark.parametrize(
    ("limit", "allowed", "said"),
    [
        (resource.RLIMIT_NOFILE, 512, r"open files \(ulimit -n\) is 512, and at least 1024"),
        (resource.RLIMIT_FSIZE, 1_000_000, r"bytes of a file \(ulimit -f\) is 1000000"),
    ],
)
def test_a_limit_that_is_too_low_is_refused_with_its_name(
    limit: int, allowed: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {limit: (allowed, allowed)}
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits.get(which, (1024, resource.RLIM_INFINITY)))
    with pytest.raises(prepare.RefusedError, match=said):
        prepare.check_limits()


def test_a_registry_that_was_left_over_in_the_shell_is_refused_with_the_variable(
    free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "REGISTRY_SECONDS", 0.1)
    settings = settings_with(free_port, mlflow_tracking_uri="http://me:secret@127.0.0.1:9")
    with pytest.raises(
        prepare.RefusedError, match=r"^MLFLOW_TRACKING_URI=http://127\.0\.0\.1:9: no .*unset"
    ) as refused:
        prepare.check_registry(settings)
    assert "secret" not in str(refused.value)
    prepare.check_registry(settings_with(free_port))  # the own one starts with the appliance


def test_a_registry_that_is_down_keeps_no_trained_appliance_from_starting(
    free_port: FreePort, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "REGISTRY_SECONDS", 0.1)
    settings = settings_with(free_port, mlflow_tracking_uri="http://127.0.0.1:9", state_dir=tmp_path)
    (tmp_path / "champion").mkdir()
    (tmp_path / "champion" / "current.json").touch()
    prepare.check_registry(settings)
    assert "MLFLOW_TRACKING_URI=http://127.0.0.1:9: no server answers there" in capsys.readouterr().out


def test_a_state_directory_below_a_file_is_refused_with_uid_path_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(prepare.RefusedError, match=r"STATE_DIR=.*/file/state: uid \d+ cannot write .* set STATE_DIR"):
        prepare.check_writable(tmp_path / "file" / "state")


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(prepare.RefusedError, match="characters too long"):
        prepare.check_socket_path(tmp_path / ("x" * 100))


def test_a_state_in_use_is_refused_and_seen_as_running(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert not is_running(tmp_path)
    with (tmp_path / "run" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_running(tmp_path)
        with pytest.raises(prepare.RefusedError, match="runs there already"):
            prepare.check_not_running(tmp_path)
    assert not is_running(tmp_path)


def test_what_a_former_start_left_in_run_is_removed_but_the_locks(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "phases").mkdir(parents=True)
    for name in ("lock", "retrain.lock", "failed", "ready", "supervisor.sock"):
        (run / name).touch()
    (run / "phases" / "train").write_text("1.0")
    prepare.clear_run_directory(Layout(tmp_path))
    assert sorted(path.name for path in run.rglob("*")) == ["lock", "phases", "retrain.lock"]


def test_a_new_state_gets_a_copy_of_the_template_in_wal_mode(tmp_path: Path) -> None:
    template = database_of(tmp_path / "template.db", "abc")
    prepare.prepare_database(tmp_path / "mlflow.db", template)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert prepare.revision(tmp_path / "mlflow.db") == "abc"


def test_a_database_of_a_newer_mlflow_is_refused_and_left_alone(tmp_path: Path) -> None:
    template = database_of(tmp_path / "template.db", "abc")
    newer = database_of(tmp_path / "mlflow.db", "fromthefuture")
    before = newer.read_bytes()
    with pytest.raises(prepare.RefusedError, match="fromthefuture, which this MLflow does not know"):
        prepare.prepare_database(newer, template)
    assert newer.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    template = database_of(tmp_path / "template.db", "abc")
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(prepare.RefusedError, match="is no MLflow database"):
        prepare.prepare_database(tmp_path / "mlflow.db", template)


def test_the_password_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    file = layout.admin_password
    prepare.prepare_password(layout, "")
    password = file.read_text().strip()
    assert len(password) == 32
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    prepare.prepare_password(layout, "")
    assert file.read_text().strip() == password


def test_a_password_that_is_given_counts(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for given in ("first", 'it\'s 50% "odd" $HOME'):
        prepare.prepare_password(layout, given)
        assert read_password(layout.admin_password) == given


def test_the_password_that_only_grafana_had_is_taken_over(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.grafana.mkdir()
    layout.former_password.write_text("former\n")
    prepare.prepare_password(layout, "")
    assert read_password(layout.admin_password) == "former"
    assert not layout.former_password.exists()


def test_an_empty_password_is_refused_with_the_remedy(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.secrets.mkdir()
    layout.admin_password.touch()
    with pytest.raises(prepare.RefusedError, match="is empty; remove it"):
        prepare.prepare_password(layout, "")


def test_keys_that_are_none_are_refused_with_the_name_of_the_variable(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    names = ("api_port", "mlflow_port", "prometheus_port", "grafana_port")
    ports: dict[str, Any] = {name: free_port() for name in names}
    with pytest.raises(prepare.RefusedError, match="API_KEYS: key 1 is not name:scope:hash"):
        prepare.prepare(Settings(state_dir=tmp_path, api_keys="crm", **ports))
