"""A table of one's own in a container: a mounted directory, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tableloop.table import load_table
from tests.image.conftest import LONGEST_START, ROOT, FirstStart
from tests.image.docker import HARDENED, Container, docker

ASK = (
    "import sys, urllib.request as u\n"
    "print(u.urlopen(u.Request(sys.argv[1], *[part.encode() for part in sys.argv[2:]],"
    " headers={'content-type': 'application/json'})).read().decode())\n"
)
MEDICAL = ROOT / "tables" / "medical-charges"


def mounted(directory: Path) -> list[str]:
    """Return the options that mount a copy of the table, which the container's user may read."""
    target = directory / "table"
    shutil.copytree(MEDICAL, target)
    for path in (directory, target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return ["--volume", f"{target}:/table:ro", "--env", "TABLE=/table"]


def test_a_mounted_table_is_trained_and_served(
    run: Callable[..., Container], volumes: Callable[..., str], tmp_path: Path
) -> None:
    container = run([*HARDENED, "--volume", f"{volumes()}:/data", *mounted(tmp_path)])
    container.wait_log("ready in", LONGEST_START)
    table = load_table(MEDICAL)
    model = json.loads(container.exec("python", "-c", ASK, "http://127.0.0.1:8000/model"))
    assert (model["name"], model["version"], model["engine"]) == (table.model, "1", "compiled")
    answer = json.loads(
        container.exec("python", "-c", ASK, "http://127.0.0.1:8000/predict", json.dumps(table.example))
    )
    assert answer["interval"]["low"] <= answer[table.answer] <= answer["interval"]["high"]


def test_a_state_of_one_table_is_not_taken_for_another(
    image: str, first_start: FirstStart, volumes: Callable[..., str], tmp_path: Path
) -> None:
    volume = volumes(first_start.volume)
    refused = docker("run", "--rm", *HARDENED, "--volume", f"{volume}:/data", *mounted(tmp_path), image, check=False)
    assert refused.returncode != 0
    assert "the state is of the table california-house-prices" in refused.stdout + refused.stderr
