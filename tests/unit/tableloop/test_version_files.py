"""What is said of a version whose description cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from tableloop.version_files import VersionFilesError, describe_version

TENSOR = """signature: {inputs: '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 8]}}]'}"""


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ("5", "it has no signature"),
        ("run_id: abc", "it has no signature"),
        ("signature: 5", "it has no signature"),
        ("signature: {inputs: 5}", "have no names|no signature"),
        (TENSOR, "have no names: make it from a pandas"),
        ("signature: {inputs: '[]'}\nmetadata: 5", "its metadata are no table"),
        ("a: [", "cannot be read"),
    ],
)
def test_the_reason_is_in_words(tmp_path: Path, described: str, reason: str) -> None:
    (tmp_path / "MLmodel").write_text(described)
    with pytest.raises(VersionFilesError, match=reason) as refused:
        describe_version(tmp_path)
    assert "object" not in str(refused.value)
    assert "Error" not in str(refused.value)
