from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.__main__ import play
from tableloop.settings import Settings
from tableloop.table import load_table


def test_a_service_that_does_not_answer_is_named_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play("steady", load_table(), Settings(state_dir=tmp_path, api_port=9)) == 1
    assert "on port 9" in capsys.readouterr().err
