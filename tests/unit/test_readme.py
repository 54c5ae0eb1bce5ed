"""What the README says in tables is what the code says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, bool):
            default = "on" if default else "off"
        shown = f"`{default}`" if str(default) else "empty"
        rows.append(f"| `{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def commands_table() -> str:
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = ["| command | what it does |", "|---|---|"]
    commands = re.findall(r"^ +(make \S+) +(.*)$", help_text, re.MULTILINE)
    rows += [f"| `{command}` | {text} |" for command, text in commands]
    return "\n".join(rows)


def test_the_settings_are_those_of_the_code() -> None:
    assert settings_table() in README


def test_the_commands_are_those_of_the_makefile() -> None:
    assert commands_table() in README


def test_the_variables_of_the_example_file_are_settings() -> None:
    named = re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert set(named) == {name.upper() for name in Settings.model_fields}


def test_every_file_that_is_linked_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
