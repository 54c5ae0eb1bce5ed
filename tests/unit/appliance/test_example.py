from __future__ import annotations

from pathlib import Path

from tableloop.settings import Settings

ROOT = Path(__file__).parents[3]


def test_the_example_of_env_names_every_setting_once() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    names = [line.partition("=")[0] for line in lines if not line.startswith("#")]
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)


def test_the_example_of_env_changes_nothing() -> None:
    assert Settings(_env_file=ROOT / ".env.example") == Settings(_env_file=None)
