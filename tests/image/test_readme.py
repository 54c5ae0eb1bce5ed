"""The README's Docker commands, as they stand."""

from __future__ import annotations

import json
import re
import subprocess
import time
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from tests.image.conftest import ROOT
from tests.image.docker import DOCKER, docker


@pytest.mark.usefixtures("image")
def test_the_commands_of_the_readme_work_as_they_stand() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    start = next(block for block in blocks if "docker run" in block)
    ask = next(block for block in blocks if "curl" in block)
    remove = next(block for block in blocks if "docker rm" in block)
    try:
        subprocess.run(
            ["bash", "-euc", f"export DOCKER_BUILDKIT=1 PATH={Path(DOCKER).parent}:$PATH\n{start}"],
            cwd=ROOT,
            check=True,
        )
        deadline = time.monotonic() + 120
        while "ready in" not in (docker("logs", "house-prices").stdout + docker("logs", "house-prices").stderr):
            assert time.monotonic() < deadline, docker("logs", "house-prices").stderr
            time.sleep(0.5)
        answer = json.loads(subprocess.run(["bash", "-euc", ask], capture_output=True, check=True).stdout)
        assert answer["model_version"] == "1"
        for address in ("http://localhost:8000", "http://localhost:8000/docs", "http://localhost:5002"):
            assert httpx.get(address).status_code == HTTPStatus.OK
        assert httpx.get("http://localhost:9090/-/ready").status_code == HTTPStatus.OK
        assert docker("exec", "house-prices", "make", "status").returncode == 0
    finally:
        subprocess.run(["bash", "-uc", remove.replace("docker image rm house-prices\n", "")], check=False)
