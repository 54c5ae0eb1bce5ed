"""What a setting takes, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tableloop.settings import Settings, load_settings

OWN = "http://127.0.0.1:5002"


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow's client sets it in its own process


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line with which the settings are refused."""
    with pytest.raises(SystemExit):
        load_settings()
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ("127.0.0.1", OWN),
        ("0.0.0.0", OWN),
        ("::", OWN),
        ("127.0.0.2", "http://127.0.0.2:5002"),
        ("::1", "http://[::1]:5002"),
        ("::ffff:127.0.0.2", "http://127.0.0.2:5002"),
    ],
)
def test_the_own_registry_is_where_its_server_listens(given: str, own: str) -> None:
    settings = Settings(bind_address=given)
    assert settings.mlflow_tracking_uri == settings.own_tracking_uri == own
    assert not settings.has_foreign_registry


@pytest.mark.parametrize("uri", ["http://localhost:5002", "http://127.0.0.1:5002/"])
def test_the_own_registry_may_be_named(uri: str) -> None:
    settings = Settings(mlflow_tracking_uri=uri, mlflow_tracking_username="of", mlflow_tracking_password="another")
    assert not settings.has_foreign_registry
    assert settings.registry_login == ""


def test_a_login_in_the_registrys_address_is_used_and_shown_nowhere() -> None:
    settings = Settings(mlflow_tracking_uri="https://me:p%40ss@mlflow.example:8443/prefix/")
    assert settings.mlflow_tracking_uri == "https://mlflow.example:8443/prefix"
    assert settings.mlflow_tracking_username == "me"
    assert settings.mlflow_tracking_password.get_secret_value() == "p@ss"
    assert settings.registry_login.startswith("Basic ")
    assert "p@ss" not in repr(settings) + settings.registry


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db", "http://"),
        ("MLFLOW_TRACKING_URI", "http://localhost:5002/#/models", "without ?, #"),
        ("MLFLOW_TRACKING_URI", "http://me:secret/x@host:80", "port"),
        ("MLFLOW_TRACKING_URI", "ftp://me:secret@host", "http://"),
        ("BIND_ADDRESS", "localhost", "IPv4 or IPv6"),
        ("BIND_ADDRESS", "224.0.0.1", "of this machine"),
        ("MLFLOW_HOST", "http://mlflow", "without a port"),
        ("ALLOWED_HOSTS", "a.example,https://b.example", "'https://b.example' is no host name"),
        ("ALLOWED_HOSTS", "*.example.com", "no host name"),
        ("ADMIN_PASSWORD", " secret ", "blanks"),
        ("DATABASE_URL", "postgresql://me:secret@host", "postgresql://user:password@host:5432/name"),
        ("DATABASE_URL", "postgresql://me:secret/x@host/name", "a / as %2F"),
        ("DATABASE_URL", "mysql://me:secret@host/name", "postgresql://"),
        ("MODEL_POLL_SECONDS", "inf", "86400"),
        ("STATE_DIR", "~nobody-of-this-name/state", "without ~"),
    ],
)
def test_what_would_not_work_is_refused_with_the_variable_and_without_passwords(
    variable: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    line = refused(capsys)
    assert line.startswith(f"{variable}=")
    assert reason in line
    assert "secret" not in line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_of_settings_may_come_from_windows(encoding: str) -> None:
    Path(".env").write_bytes("API_PORT=8123\r\nMODEL_NAME=Häuser\r\n".encode(encoding))
    settings = load_settings()
    assert (settings.api_port, settings.model_name) == (8123, "Häuser")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_a_file_of_settings_in_another_encoding_is_refused_in_one_line(
    encoding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(".env").write_bytes("MODEL_NAME=Häuser\n".encode(encoding))
    line = refused(capsys)
    assert line.startswith(".env cannot be read")
    assert "UTF-8" in line


def test_the_alias_of_the_shadow_cannot_be_that_of_what_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_ALIAS", "shadow")
    assert refused(capsys) == "MODEL_ALIAS='shadow': that is the alias of the version in the shadow"
