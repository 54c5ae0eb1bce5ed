from __future__ import annotations

from importlinter.cli import lint_imports

from tests.documents import ROOT


def test_imports_point_down_and_go_in_no_circle() -> None:
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == 0
