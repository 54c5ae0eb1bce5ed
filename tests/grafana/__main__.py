"""Ask a real Grafana: ``python -m tests.grafana`` (`make test-grafana`).

It is the one that the appliance finds, or else that of the pinned image. Where neither can be had, this says NOT RUN
and why, and ends with 0. With ``--image`` it is the image's, whatever else is there, and having none is a failure.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from appliance.binaries import GRAFANA, RUNTIME, UnavailableError
from tests.image.docker import docker

ROOT = Path(__file__).parents[2]


def provide(runtime: Path, *, image_only: bool = False) -> None:
    """Have a Grafana where the appliance finds it.

    Raises
    ------
    UnavailableError
        When there is none.
    """
    pinned = runtime / GRAFANA.name / GRAFANA.binary
    if image_only or not (pinned.exists() or shutil.which(GRAFANA.name)):
        copy_from_image(pinned_image(), runtime / GRAFANA.name)
    found = str(pinned) if pinned.exists() else GRAFANA.name
    try:
        subprocess.run([found, "--version"], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"{found} does not run: {error}") from None


def copy_from_image(image: str, directory: Path) -> None:
    """Put the Grafana of an image in place of `directory`; Docker pulls the image where it is missing."""
    try:
        if docker("info", check=False).returncode:
            raise UnavailableError("no Docker engine answers")
        container = docker("create", image, "true").stdout.strip()
    except FileNotFoundError:
        raise UnavailableError("there is no Docker") from None
    except AssertionError as error:
        raise UnavailableError(f"{image} cannot be had: {str(error).strip().splitlines()[-1]}") from None
    directory.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        docker("cp", f"{container}:/usr/share/grafana", f"{scratch}/grafana")
        docker("rm", container)
        if not (Path(scratch) / "grafana" / GRAFANA.binary).exists():
            raise UnavailableError(f"{image} holds no Grafana")
        shutil.rmtree(directory, ignore_errors=True)
        (Path(scratch) / "grafana").replace(directory)
    directory.with_suffix(".unavailable").unlink(missing_ok=True)


def pinned_image() -> str:
    """Return the image that the Dockerfile takes Grafana from."""
    (tag,) = re.findall(r"^ARG GRAFANA_TAG=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return f"grafana/grafana:{tag}"


def main() -> int:
    """Run the tests beside this file, or say why not."""
    image_only = "--image" in sys.argv[1:]
    try:
        provide(RUNTIME, image_only=image_only)
    except UnavailableError as reason:
        sys.stdout.write(
            f"NOT RUN: make test-grafana needs Grafana on PATH, in .runtime or from its image: {reason}\n"
        )
        return int(image_only)
    return pytest.main([str(Path(__file__).parent)])


if __name__ == "__main__":
    sys.exit(main())
