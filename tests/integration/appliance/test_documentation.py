"""Run the commands of the documents, unchanged and in order, against a running appliance."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import browser
from tests.documents import DOCUMENTS, RUN, Block, assert_prints, blocks
from tests.integration.conftest import ROOT, Appliance, copy_checkout

PORTS = {"API_PORT": 8000, "MLFLOW_PORT": 5002, "PROMETHEUS_PORT": 9090, "GRAFANA_PORT": 3000}
SECONDS = 120


@pytest.fixture(scope="module")
def reader(
    new_appliance: Callable[..., Appliance],
    first_start: tuple[Appliance, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Appliance]:
    """An appliance that runs in its own clone, as a reader of the documents has it."""
    clone = tmp_path_factory.mktemp("reader") / "clone"
    copy_checkout(clone)
    for name in (".venv", ".runtime"):
        (clone / name).symlink_to(ROOT / name)
    appliance = new_appliance(state_of=first_start[0], root=clone)
    appliance.start()
    yield appliance
    appliance.make("down")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_the_commands_of_a_document_do_what_it_says(
    reader: Appliance, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for block in blocks(document):
        if block.language not in RUN or block.not_run:
            continue
        started = time.monotonic()
        printed = run(block, reader)
        if block.prints:
            assert_prints(block.prints, as_documented(printed, reader))
        with capsys.disabled():
            sys.stdout.write(f"\n{block.name} {time.monotonic() - started:.1f} s")


def run(block: Block, appliance: Appliance) -> str:
    """Return the output of a block, which must exit with 0."""
    if block.language == "javascript" and shutil.which("node") is None:
        return in_browser(as_here(block.text, appliance), appliance)
    command = {
        "bash": ["bash", "-euo", "pipefail", "-c"],
        "python": [sys.executable, "-c"],
        "javascript": ["node", "--input-type=module", "--eval"],
        "diff": ["bash", "-c", 'git apply - <<<"$0"'],
    }[block.language]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        [*command, as_here(block.text, appliance)],
        cwd=appliance.root,
        env=appliance.environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{block.name}:\n{result.stdout}{result.stderr}"
    return result.stdout


def in_browser(script: str, appliance: Appliance) -> str:
    """Return what a script writes to the console of a page of the service."""
    lines: list[str] = []
    with browser() as started:
        page = started.new_page()
        page.on("console", lambda message: lines.append(message.text) if message.type == "log" else None)
        page.goto(f"http://localhost:{appliance.ports['API_PORT']}/health")
        page.evaluate(f"(async () => {{ {script} }})()")
    return "\n".join([*lines, ""])


def as_here(text: str, appliance: Appliance) -> str:
    """Replace the ports and the state directory in a block by those of this appliance."""
    for name, port in PORTS.items():
        text = text.replace(f"localhost:{port}", f"localhost:{appliance.ports[name]}")
    return re.sub(r"(?<![\w/.])state/", f"{appliance.state}/", text)


def as_documented(text: str, appliance: Appliance) -> str:
    """Return printed text with the ports and the state of a reader."""
    for name, port in PORTS.items():
        text = text.replace(f"localhost:{appliance.ports[name]}", f"localhost:{port}")
    return text.replace(str(appliance.state), "state")
