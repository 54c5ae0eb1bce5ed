"""A version's files are those of its manifest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tableloop.model.manifest import ManifestError, check, write


@pytest.fixture
def version(tmp_path: Path) -> Path:
    (tmp_path / "code/tableloop").mkdir(parents=True)
    (tmp_path / "code/tableloop/__init__.py").write_text("")
    (tmp_path / "model.skops").write_bytes(b"model")
    write(tmp_path, {"product": "tableloop 1"})
    return tmp_path


def test_files_as_they_were_written_pass(version: Path) -> None:
    check(version)


def test_every_file_that_is_not_as_it_was_is_named(version: Path) -> None:
    (version / "code/tableloop/__init__.py").unlink()
    (version / "code/tableloop/more.py").write_text("")
    (version / "model.skops").write_bytes(b"other")
    with pytest.raises(ManifestError) as failure:
        check(version)
    assert str(failure.value) == (
        "code/tableloop/__init__.py is missing; code/tableloop/more.py is not in the manifest; "
        "model.skops was changed"
    )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}'])
def test_a_manifest_that_is_none_is_refused(version: Path, content: str) -> None:
    (version / "manifest.json").write_text(content)
    with pytest.raises(ManifestError, match=r"manifest\.json is no manifest"):
        check(version)


def test_a_missing_manifest_is_refused(version: Path) -> None:
    (version / "manifest.json").unlink()
    with pytest.raises(ManifestError, match=r"manifest\.json cannot be read: No such file"):
        check(version)
