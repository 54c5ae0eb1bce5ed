"""What `make clean` and a restore take away, and what they leave alone."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from appliance import control
from appliance.backup import write_backup
from appliance.prepare import RefusedError
from appliance.restore import put_back
from tableloop.settings import Settings
from tableloop.signing import SigningKey
from tableloop.state.layout import Layout


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    layout = Layout(state)
    for directory in (layout.run, layout.logs, layout.mlflow):
        directory.mkdir(parents=True)
    layout.marker.touch()
    layout.database.write_bytes(b"")
    return state


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["control", "clean", "--force"])


def test_a_state_is_removed_whole(state: Path) -> None:
    assert control.clean(Settings(state_dir=state)) == 0
    assert not state.exists()


def test_files_of_others_in_it_stay(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "thesis.tex").write_text("ten years")
    assert control.clean(Settings(state_dir=state)) == 0
    assert [path.name for path in state.iterdir()] == ["thesis.tex"]
    assert "thesis.tex" in capsys.readouterr().out


def test_a_directory_that_is_no_state_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/mine.log").touch()
    assert control.clean(Settings(state_dir=tmp_path)) == 1
    assert (tmp_path / "logs/mine.log").exists()
    assert "is no state of the appliance, it has no .tableloop" in capsys.readouterr().out


def test_a_restore_into_a_directory_that_is_no_state_is_refused(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = io.BytesIO()
    write_backup(state, backup, SigningKey.new())
    file, home = tmp_path / "backup.tar.gz", tmp_path / "home"
    file.write_bytes(backup.getvalue())
    home.mkdir()
    (home / "thesis.tex").write_text("ten years")
    monkeypatch.setenv("STATE_DIR", str(home))
    with pytest.raises(RefusedError, match="is no state of the appliance"):
        put_back(str(file))
    assert [path.name for path in home.iterdir()] == ["thesis.tex"]
