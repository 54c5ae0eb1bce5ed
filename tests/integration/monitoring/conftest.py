"""The entrypoint with stand-ins for the programs that it would become."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@dataclass
class Started:
    """How a program was started."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    console: str


@pytest.fixture
def start_program(tmp_path: Path, free_port: Callable[[], int]) -> Callable[..., Started]:
    """Return a function that has the entrypoint start a program on a prepared state, and tells how it did."""
    state = tmp_path / "a [state] of $HOME"
    for directory in ("run", "grafana", "prometheus"):
        (state / directory).mkdir(parents=True)
    (state / "grafana" / "admin-password").write_text("from-the-file\n")

    def start(name: str, **variables: str) -> Started:
        binary = tmp_path / "bin" / name
        binary.parent.mkdir(exist_ok=True)
        seen = tmp_path / f"{name}.seen"
        quoted = shlex.quote(str(seen))
        binary.write_text(f'#!/bin/sh\nprintf "%s\\0" "$PWD" "$#" "$@" >{quoted}\nenv -0 >>{quoted}\n')
        binary.chmod(0o755)
        ports = {f"{name}_PORT": str(free_port()) for name in ("API", "MLFLOW", "PROMETHEUS", "GRAFANA")}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GF_")}
        console = subprocess.run(
            [ROOT / "entrypoint.sh", name],
            env=inherited
            | {"STATE_DIR": str(state), "PATH": f"{binary.parent}:{os.environ['PATH']}", "TEST_MODE": "1"}
            | ports
            | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        directory, count, *rest = seen.read_text().rstrip("\0").split("\0")
        environment = dict(line.split("=", 1) for line in rest[int(count) :])
        return Started(rest[: int(count)], environment, directory, console)

    return start
