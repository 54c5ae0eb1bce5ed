"""The list of what is in the image: ``python -m appliance.sbom`` writes a CycloneDX document (JSON) to stdout.

It runs inside the image, because only there is everything that counts: Debian's packages, Python's, and the programs
that were copied from the images of others. The format is that of https://cyclonedx.org/docs/1.6/json/.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {  # with the repository on GitHub that each is from
    "prometheus": "prometheus/prometheus",
    "alertmanager": "prometheus/alertmanager",
    "grafana": "grafana/grafana",
}

Component = dict[str, Any]


def document(components: list[Component]) -> dict[str, Any]:
    """Return the whole document around a list of components."""
    commit = ROOT / "COMMIT"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {
                "type": "container",
                "name": "tableloop",
                "version": (commit.read_text().strip() if commit.exists() else "") or "unknown",
            },
        },
        "components": components,
    }


def python_packages() -> Iterator[Component]:
    """Describe the installed Python packages."""
    found = {re.sub(r"[-_.]+", "-", package.name).lower(): package.version for package in distributions()}
    for name, version in sorted(found.items()):
        yield _component("library", name, version, f"pkg:pypi/{name}@{quote(version)}")


def debian_packages() -> Iterator[Component]:
    """Describe the installed Debian packages; nothing on another system."""
    if not shutil.which("dpkg-query"):
        return
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\\n"]
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        name, version, machine = line.split()
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={machine}&distro={codename}"
        yield _component("library", name, version, purl)


def programs() -> Iterator[Component]:
    """Describe the programs that come from the images of others."""
    for name, repository in PROGRAMS.items():
        if binary := shutil.which(name):
            done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
            if found := re.search(r"version v?(\d[^\s,]*)", done.stdout + done.stderr):
                yield _component("application", name, found[1], f"pkg:github/{repository}@v{found[1]}")


def _component(kind: str, name: str, version: str, purl: str) -> Component:
    return {"type": kind, "name": name, "version": version, "purl": purl, "bom-ref": purl}


def main() -> None:
    """Write the document."""
    components = [*programs(), *python_packages(), *debian_packages()]
    json.dump(document(components), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
