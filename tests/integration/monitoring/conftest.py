"""The entrypoint with stand-ins for the programs that it would become."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitoring.grafana import for_table
from tableloop.credentials import write_secret
from tableloop.state.layout import Layout
from tests.integration.conftest import link_checkout


@dataclass
class Started:
    """How a program was started."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    console: str


@pytest.fixture
def start_program(tmp_path: Path, free_port: Callable[[], int]) -> Callable[..., Started]:
    """Return a function that has the entrypoint start a program on a prepared state, and tells how it did.

    The stand-ins lie in the `.runtime` of a checkout whose everything else is this one's.
    """
    state = tmp_path / "a [state] of $HOME"
    for directory in ("run", "grafana", "prometheus"):
        (state / directory).mkdir(parents=True)
    write_secret(Layout(state).admin_password, "from-the-file")
    for_table.prepare(Layout(state))

    def start(name: str, **variables: str) -> Started:
        seen = tmp_path / f"{name}.seen"
        quoted = shlex.quote(str(seen))
        script = f'printf "%s\\0" "$PWD" "$#" "$@" >{quoted}\nenv -0 >>{quoted}'
        root = link_checkout(tmp_path / f"checkout-{name}", **{name: script})
        ports = {f"{name}_PORT": str(free_port()) for name in ("API", "MLFLOW", "PROMETHEUS", "GRAFANA")}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GF_")}
        console = subprocess.run(
            [root / "entrypoint.sh", name],
            env=inherited | {"STATE_DIR": str(state), "TEST_MODE": "1"} | ports | variables,
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
