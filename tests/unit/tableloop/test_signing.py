"""Signatures of versions: what they prove, and what a start does with versions of a time before them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from appliance.adopt import adopt
from tableloop.model import manifest
from tableloop.settings import RegistrySettings
from tableloop.signing import SignatureError, SigningKey, key_file
from tableloop.state.layout import Layout
from tableloop.version_files import VersionFilesError, open_version

RUN = "4ea70d5f2f884d878c94a088d9f202c1"
MLMODEL = f'run_id: {RUN}\nsignature:\n  inputs: \'[{{"name": "a"}}]\'\n'


def version(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "MLmodel").write_text(MLMODEL)
    (directory / "model.skops").write_bytes(b"a model")
    manifest.write(directory, {"product": "tableloop"})
    return directory


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    settings = RegistrySettings(state_dir=tmp_path / "state")
    SigningKey.new().keep(key_file(settings))
    return settings


def test_a_signed_version_opens(tmp_path: Path, settings: RegistrySettings) -> None:
    directory = version(tmp_path / "version")
    SigningKey.load(settings).sign(directory, RUN)
    assert open_version(directory, RUN, settings).columns == ("a",)


def test_an_unsigned_version_does_not_open(tmp_path: Path, settings: RegistrySettings) -> None:
    with pytest.raises(VersionFilesError, match="it is not signed"):
        open_version(version(tmp_path / "version"), RUN, settings)


def test_a_version_registered_again_for_another_run_does_not_open(tmp_path: Path, settings: RegistrySettings) -> None:
    directory = version(tmp_path / "version")
    SigningKey.load(settings).sign(directory, RUN)
    with pytest.raises(VersionFilesError, match="signed for something else"):
        open_version(directory, "another", settings)


def test_a_changed_file_is_named(tmp_path: Path, settings: RegistrySettings) -> None:
    directory = version(tmp_path / "version")
    SigningKey.load(settings).sign(directory, RUN)
    (directory / "model.skops").write_bytes(b"another model")
    with pytest.raises(VersionFilesError, match=r"model\.skops was changed"):
        open_version(directory, RUN, settings)


def test_a_new_manifest_of_the_changed_files_does_not_help(tmp_path: Path, settings: RegistrySettings) -> None:
    directory = version(tmp_path / "version")
    SigningKey.load(settings).sign(directory, RUN)
    (directory / "model.skops").write_bytes(b"another model")
    manifest.write(directory, {"product": "tableloop"})
    with pytest.raises(VersionFilesError, match="it was changed after it was signed"):
        open_version(directory, RUN, settings)


def test_a_version_of_another_appliance_is_told_apart(tmp_path: Path, settings: RegistrySettings) -> None:
    directory = version(tmp_path / "version")
    SigningKey.new().sign(directory, RUN)
    with pytest.raises(VersionFilesError, match=r"it was signed with the key .*; this appliance has the key"):
        open_version(directory, RUN, settings)


@pytest.mark.parametrize("content", ["", "one", "a b c", "\0\0 \xff"])
def test_a_broken_signature_is_one_line(tmp_path: Path, settings: RegistrySettings, content: str) -> None:
    directory = version(tmp_path / "version")
    (directory / manifest.SIGNATURE).write_text(content)
    with pytest.raises(VersionFilesError):
        open_version(directory, RUN, settings)


def test_only_its_user_reads_the_key(settings: RegistrySettings) -> None:
    file = key_file(settings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no signing key"), ("not hexadecimal", "cannot be read"), ("abcd", "is shorter than 32 bytes")],
)
def test_a_missing_or_broken_key_is_told(settings: RegistrySettings, content: str | None, words: str) -> None:
    file = key_file(settings)
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(SignatureError, match=words):
        SigningKey.load(settings)


def test_a_key_of_ones_own_is_used(tmp_path: Path) -> None:
    SigningKey(b"k" * 32).keep(tmp_path / "given")
    settings = RegistrySettings(state_dir=tmp_path / "state", signing_key_file=tmp_path / "given")
    assert SigningKey.load(settings).id == SigningKey(b"k" * 32).id


def test_versions_of_a_time_before_signatures_are_signed_once(settings: RegistrySettings) -> None:
    layout = Layout(settings.state_dir)
    registered = version(layout.mlflow_artifacts / "1/models/m-1/artifacts")
    copied = version(layout.champion / "v1")
    (copied / manifest.MANIFEST).unlink()  # made before there were manifests
    assert adopt(layout, SigningKey.load(settings)) == 2
    for directory in (registered, copied):
        assert open_version(directory, RUN, settings).run_id == RUN
