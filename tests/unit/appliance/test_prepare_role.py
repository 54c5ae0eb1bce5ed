from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance import prepare_role as module
from appliance.prepare import RefusedError
from appliance.prepare_role import JOB, STEPS, prepare_role
from tableloop.credentials import read_password
from tableloop.settings import Settings
from tableloop.signing import SigningKey
from tableloop.state.layout import Layout

ROOT = Path(__file__).parents[3]


def settings_with(tmp_path: Path, **changes: object) -> Settings:
    key = tmp_path / "key"
    SigningKey.new().keep(key)
    given = {"state_dir": tmp_path / "disk", "admin_password": "shared", "signing_key_file": key}
    return Settings.model_validate(given | changes)


@pytest.mark.parametrize("role", sorted(STEPS.keys() - {"mlflow"}))
def test_an_empty_disk_is_made_ready_for_each_role_without_any_server(role: str, tmp_path: Path) -> None:
    settings = settings_with(tmp_path)
    layout = Layout(settings.state_dir)
    for _ in range(2):  # a container is started again on the disk that it had
        prepare_role(settings, role)
        assert layout.marker.exists()
        assert layout.run.is_dir()
    assert not layout.database.exists()
    assert not layout.workspace.exists()
    if layout.admin_password.exists():
        assert read_password(layout.admin_password) == "shared"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"admin_password": ""}, "ADMIN_PASSWORD is not set: .* the same for all"),
        ({"signing_key_file": None}, "SIGNING_KEY_FILE is not set: .*openssl rand -hex 32"),
        ({"signing_key_file": "/nonexistent"}, "SIGNING_KEY_FILE: there is no signing key"),
        ({"api_keys": "nonsense"}, "API_KEYS"),
    ],
)
def test_what_all_copies_must_have_in_common_is_asked_for(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=said):
        prepare_role(settings_with(tmp_path, **changes), "api")


def test_a_registry_without_its_database_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RefusedError, match="DATABASE_URL is not set"):
        prepare_role(settings_with(tmp_path), "mlflow")
    monkeypatch.setattr(module, "DATABASE_SECONDS", 0.5)
    with pytest.raises(RefusedError, match=r"DATABASE_URL: .*refused"):
        prepare_role(settings_with(tmp_path, database_url="postgresql://u:p@127.0.0.1:1/none"), "mlflow")
    assert "tries again" in capsys.readouterr().err


def test_a_job_leaves_the_disk_of_a_running_appliance_as_it_is(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, admin_password="", signing_key_file=None)
    layout = Layout(settings.state_dir)
    layout.run.mkdir(parents=True)
    layout.marker.touch()
    (layout.run / "pid").touch()
    prepare_role(settings, JOB)
    assert (layout.run / "pid").exists()


def test_the_entrypoint_prepares_each_role() -> None:
    prepared = re.findall(r"prepare_role ([a-z-]+)$", (ROOT / "entrypoint.sh").read_text(), re.MULTILINE)
    assert sorted(prepared) == sorted(STEPS)
