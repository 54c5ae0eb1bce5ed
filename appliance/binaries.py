"""Prometheus and Grafana: found on PATH, or else fetched without root into ``.runtime/``.

``python -m appliance.binaries`` fetches what is missing and says in one line what cannot be had; that is remembered
for a day, unless ``--retry`` is given. Only the standard library: it runs while the dependencies are being installed.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

# For tarfile: nothing outside, no foreign owner, no device. Pythons before 3.11.4 do not know it; releases are known
# by their checksum, backups are looked at member by member.
UNPACKING: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
RUNTIME = Path(__file__).resolve().parent.parent / ".runtime"
CONNECT_SECONDS = 5.0
REMEMBERED_SECONDS = 86_400.0
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class UnavailableError(Exception):
    """The program cannot be fetched; the message says why."""


@dataclass(frozen=True)
class Release:
    """An official release: where its archive and its published sha256 lie, and where the binary is inside."""

    name: str
    version: str
    base: str
    archive: str
    checksums: str
    binary: str

    def urls(self, base: str, target: str) -> tuple[str, str]:
        """Return the addresses of the archive and of its checksum for a target like ``linux-amd64``."""
        values = {"version": self.version, "target": target}
        archive = self.archive.format(**values)
        return f"{base}/{archive}", f"{base}/{self.checksums.format(archive=archive, **values)}"


Source = Callable[[Release, Path], None]
PROMETHEUS = Release(
    "prometheus",
    "3.13.3",
    "https://github.com/prometheus/prometheus/releases/download",
    archive="v{version}/prometheus-{version}.{target}.tar.gz",
    checksums="v{version}/sha256sums.txt",
    binary="prometheus",
)
GRAFANA = Release(
    "grafana",
    "12.4.5",
    "https://dl.grafana.com/oss/release",
    archive="grafana-{version}.{target}.tar.gz",
    checksums="{archive}.sha256",
    binary="bin/grafana",
)


def provide(runtime: Path = RUNTIME, *, retry: bool = False) -> dict[str, str]:
    """Fetch what is neither on PATH nor in `runtime`; return the reason for each program that cannot be had."""
    reasons = {}
    for release, sources in ((PROMETHEUS, (fetch_release, fetch_debian_prometheus)), (GRAFANA, (fetch_release,))):
        if shutil.which(release.name) or (runtime / release.name / release.binary).exists():
            continue
        note = runtime / f"{release.name}.unavailable"
        if retry or not note.exists() or time.time() - note.stat().st_mtime >= REMEMBERED_SECONDS:
            _fetch(release, sources, runtime, note)
        if note.exists():
            reasons[release.name] = note.read_text()
    return reasons


def fetch_release(release: Release, directory: Path, base: str = "") -> None:
    """Unpack the official archive into `directory` when it has its published checksum.

    ``base`` is where the releases lie, by default the official place.

    Raises
    ------
    UnavailableError
        When it cannot be reached, or is not what was published.
    """
    archive_url, checksums_url = release.urls(base or release.base, this_target())
    name = archive_url.rpartition("/")[2]
    checksum = published_checksum(_download(checksums_url).decode(errors="replace"), name)
    archive = _download(archive_url)
    if hashlib.sha256(archive).hexdigest() != checksum:
        raise UnavailableError(f"{name} does not have its published checksum")
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        file = Path(scratch) / name
        file.write_bytes(archive)
        with tarfile.open(file) as tar:
            tar.extractall(Path(scratch) / "unpacked", **UNPACKING)  # noqa: S202 - checked just above
        (top,) = (Path(scratch) / "unpacked").iterdir()
        if not (top / release.binary).exists():
            raise UnavailableError(f"{name} holds no {release.binary}")
        top.replace(directory)


def fetch_debian_prometheus(release: Release, directory: Path) -> None:
    """Unpack Debian's package, with the pages that this build reads from files beside the binary."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        unpacked, chosen = Path(scratch) / "unpacked", Path(scratch) / "chosen"
        unpack_debian_package(release.name, unpacked)
        chosen.mkdir()
        for source in ("usr/bin/prometheus", "usr/bin/promtool", "usr/share/prometheus/web"):
            if (unpacked / source).exists():
                (unpacked / source).replace(chosen / Path(source).name)
        chosen.replace(directory)


def unpack_debian_package(name: str, directory: Path) -> None:
    """Download a package of Debian's and unpack it, without installing it.

    Raises
    ------
    UnavailableError
        On a machine without Debian's tools, or when its mirror cannot be reached.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UnavailableError("this is no Debian, whose package would do")
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        options = [f"-oAcquire::http::Timeout={CONNECT_SECONDS:.0f}", "-oAcquire::Retries=0"]
        _run(["apt-get", *options, "download", name], cwd=scratch, seconds=120)
        (package,) = Path(scratch).glob("*.deb")
        _run(["dpkg-deb", "-x", str(package), str(directory.absolute())], cwd=scratch, seconds=60)


def this_target() -> str:
    """Return this machine as the releases name it, such as ``linux-amd64``."""
    system, machine = platform.system().lower(), platform.machine().lower()
    if system not in {"linux", "darwin"} or machine not in MACHINES:
        raise UnavailableError(f"no release is known for {system} {machine}")
    return f"{system}-{MACHINES[machine]}"


def published_checksum(text: str, name: str) -> str:
    """Return the sha256 of `name` from a list of them, or from a file that holds only one."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for words in lines:
        if words[-1].lstrip("*") == name or (len(lines) == 1 and len(words) == 1):
            return words[0].lower()
    raise UnavailableError(f"no checksum of {name} is published")


def _fetch(release: Release, sources: tuple[Source, ...], runtime: Path, note: Path) -> None:
    """Fetch `release` from the first source that has it, else note why none does."""
    runtime.mkdir(parents=True, exist_ok=True)
    reasons = []
    for source in sources:
        try:
            source(release, runtime / release.name)
        except (UnavailableError, OSError, tarfile.TarError, ValueError) as error:
            reasons.append(str(error))
        else:
            note.unlink(missing_ok=True)
            return
    note.write_text("; ".join(reasons))


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response:  # noqa: S310 - our own addresses
            content: bytes = response.read()
    except urllib.error.HTTPError as error:
        raise UnavailableError(f"{url} answered {error.code} {HTTPStatus(error.code).phrase}") from None
    except (OSError, urllib.error.URLError) as error:
        raise UnavailableError(f"{url}: {getattr(error, 'reason', error)}") from None
    return content


def _run(command: list[str], cwd: str, seconds: float) -> None:
    try:
        subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]} took more than {seconds:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no message").splitlines()[-1]
        raise UnavailableError(f"{command[0]}: {last}") from None


def main() -> None:
    """Fetch what is missing; never fail, because the appliance runs without."""
    for name, reason in provide(retry="--retry" in sys.argv[1:]).items():
        sys.stdout.write(f"without {name.capitalize()}: not on PATH and not to be fetched ({reason})\n")


if __name__ == "__main__":
    main()
