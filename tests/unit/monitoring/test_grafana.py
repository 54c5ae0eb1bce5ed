"""Where `make test-grafana` takes Grafana from, and how it reads an answer. A script answers for Docker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.binaries import UnavailableError
from tests.grafana import __main__ as make_test_grafana
from tests.grafana.conftest import drawn

GRAFANA = "mkdir -p $3/bin && printf '#!/bin/sh\\n' >$3/bin/grafana && chmod +x $3/bin/grafana"


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a Docker would be, on a machine without Grafana; there is none yet."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("tests.image.docker.DOCKER", str(tmp_path / "docker"))
    return tmp_path / "docker"


def answer(docker: Path, **commands: str) -> None:
    cases = "".join(f"{name}) {command};;\n" for name, command in commands.items())
    docker.write_text(f"#!/bin/sh\ncase $1 in\n{cases}esac\n")
    docker.chmod(0o755)


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        (None, "there is no Docker"),
        ({"info": "exit 1"}, "no Docker engine answers"),
        ({"create": "echo no such host >&2; exit 125"}, "cannot be had: no such host"),
        ({"create": "echo 1", "cp": "mkdir $3"}, "holds no Grafana"),
        ({"create": "echo 1", "cp": GRAFANA + " && echo exit 1 >>$3/bin/grafana"}, "does not run"),
    ],
)
def test_without_a_grafana_it_says_not_run_and_why(
    docker: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    commands: dict[str, str] | None,
    reason: str,
) -> None:
    if commands is not None:
        answer(docker, **commands)
    monkeypatch.setattr(make_test_grafana, "RUNTIME", docker.parent / ".runtime")
    for arguments, code in (([], 0), (["--image"], 1)):
        monkeypatch.setattr(sys, "argv", ["tests.grafana", *arguments])
        assert make_test_grafana.main() == code
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith("NOT RUN: make test-grafana")
        assert reason in line


def test_the_grafana_of_the_image_is_put_where_the_appliance_finds_it(docker: Path) -> None:
    answer(docker, create="echo 1", cp=GRAFANA)
    runtime = docker.parent / ".runtime"
    make_test_grafana.provide(runtime)
    assert [str(file.relative_to(runtime)) for file in runtime.rglob("*") if file.is_file()] == [
        "grafana/bin/grafana"
    ]
    docker.unlink()
    make_test_grafana.provide(runtime)  # asks for no image again
    with pytest.raises(UnavailableError, match="there is no Docker"):
        make_test_grafana.provide(runtime, image_only=True)


def test_only_columns_with_a_number_are_drawn() -> None:
    empty: dict[str, Any] = {"schema": {"fields": []}, "data": {"values": []}}
    without_numbers = {"data": {"values": [[1000, 3000], [None, None]], "entities": [None, {"NaN": [0, 1]}]}}
    assert drawn([empty, without_numbers, {"data": {"values": [[1000, 3000], [None, 0], [1, 2]]}}]) == 2
