"""Keys of programs: made, listed, removed, found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tableloop.api_keys import KeysError, add, find, main, parse, remove, stored
from tableloop.settings import RegistrySettings
from tableloop.state.layout import Layout

HASH = "0" * 64


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(state_dir=tmp_path)


def test_a_key_is_known_by_its_hash_and_told_once(settings: RegistrySettings) -> None:
    key = add(settings, "crm", "label")
    file = Layout(settings.state_dir).api_keys
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    found = find(stored(settings), key)
    assert found is not None
    assert (found.name, found.may("predict"), found.may("label"), found.may("admin")) == ("crm", True, True, False)
    assert find(stored(settings), key[:-1]) is None
    assert find(stored(settings), "") is None


def test_a_removed_key_is_known_no_more(settings: RegistrySettings) -> None:
    key = add(settings, "crm", "label")
    other = add(settings, "shop", "predict")
    remove(settings, "crm")
    assert find(stored(settings), key) is None
    assert find(stored(settings), other) is not None
    with pytest.raises(KeysError, match="there is no key crm; there are shop"):
        remove(settings, "crm")


@pytest.mark.parametrize(
    ("name", "scope"),
    [("crm", "all"), ("crm", ""), ("a b", "label"), ("", "label"), ("x" * 65, "label"), ("a:b", "label")],
)
def test_a_name_or_scope_that_cannot_be_is_refused(settings: RegistrySettings, name: str, scope: str) -> None:
    with pytest.raises(KeysError):
        add(settings, name, scope)
    assert stored(settings) == []


def test_a_name_has_one_key(settings: RegistrySettings) -> None:
    add(settings, "crm", "label")
    with pytest.raises(KeysError, match="crm has two keys"):
        add(settings, "crm", "predict")


def test_keys_are_read_from_lines_and_from_words() -> None:
    assert [key.name for key in parse(f"a:predict:{HASH}\nb:label:{HASH} c:admin:{HASH},d:admin:{HASH}\n")] == [
        *"abcd"
    ]
    for wrong in ("a", f"a:predict:{HASH}0", f"a:root:{HASH}", "a:predict:xyz"):
        with pytest.raises(KeysError, match="make key makes one"):
            parse(wrong)


def test_the_command_makes_lists_and_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATE_DIR", str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["api_keys", *arguments])
        code = main()
        return code, *capsys.readouterr()

    assert run()[1].startswith("there are no keys")
    code, key, _ = run("--name", "crm", "--scope", "label")
    assert (code, key.startswith("tableloop-")) == (0, True)
    assert run()[1].split() == ["crm", "label"]
    assert run("--name", "crm", "--scope", "label")[0] == 1
    assert run("--name", "crm", "--remove")[0] == 0
    code, _, told = run("--name", "shop", "--scope", "everything")
    assert (code, "a scope of predict, label, admin" in told) == (1, True)
