"""Prometheus, Alertmanager and Grafana: the pinned releases, fetched without root into ``.runtime/``.

``python -m appliance.binaries [NAME...]`` fetches what is missing and says in one line what cannot be had; that is
remembered for a day, unless ``--retry`` is given. Only the standard library: it runs while the dependencies are being
installed.
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
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

# For tarfile: nothing outside, no foreign owner, no device. Pythons before 3.11.4 do not know it; releases are known
# by their checksum, backups are looked at member by member.
UNPACKING: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
RUNTIME = Path(__file__).resolve().parent.parent / ".runtime"
CHECKSUMS = Path(__file__).with_name("checksums.txt")
CONNECT_SECONDS = 5.0
REMEMBERED_SECONDS = 86_400.0
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class UnavailableError(Exception):
    """The program cannot be fetched; the message says why."""


@dataclass(frozen=True)
class Release:
    """An official release: where its archive and its published sha256 lie, and where the binary is inside.

    ``debian`` are the files that Debian's package of that name has instead, with their names here. A build that
    works only where it is installed has another name there, ``installed_as``.
    """

    name: str
    version: str
    base: str
    archive: str
    checksums: str
    binary: str
    debian: tuple[tuple[str, str], ...] = ()
    installed_as: str = ""

    def urls(self, base: str, target: str) -> tuple[str, str]:
        """Return the addresses of the archive and of its checksum for a target like ``linux-amd64``."""
        values = {"version": self.version, "target": target}
        archive = self.archive.format(**values)
        return f"{base}/{archive}", f"{base}/{self.checksums.format(archive=archive, **values)}"


PROMETHEUS = Release(
    "prometheus",
    "3.13.4",
    "https://github.com/prometheus/prometheus/releases/download",
    archive="v{version}/prometheus-{version}.{target}.tar.gz",
    checksums="v{version}/sha256sums.txt",
    binary="prometheus",
    # With the pages, which this build reads from files beside the binary.
    debian=(
        ("usr/bin/prometheus", "prometheus"),
        ("usr/bin/promtool", "promtool"),
        ("usr/share/prometheus/web", "web"),
    ),
)
ALERTMANAGER = Release(
    "alertmanager",
    "0.34.1",
    "https://github.com/prometheus/alertmanager/releases/download",
    archive="v{version}/alertmanager-{version}.{target}.tar.gz",
    checksums="v{version}/sha256sums.txt",
    binary="alertmanager",
    installed_as="prometheus-alertmanager",  # its templates have a fixed path
)
GRAFANA = Release(
    "grafana",
    "12.4.14",
    "https://dl.grafana.com/oss/release",
    archive="grafana-{version}.{target}.tar.gz",
    checksums="{archive}.sha256",
    binary="bin/grafana",
)
RELEASES = (PROMETHEUS, ALERTMANAGER, GRAFANA)


def provide(runtime: Path = RUNTIME, *, retry: bool = False, names: Collection[str] = ()) -> dict[str, str]:
    """Fetch the releases that `runtime` lacks; return the reason for each program that cannot be had.

    Debian's build does until ``retry`` asks for the release once more; so does one on PATH where it cannot be had.
    """
    reasons = {}
    for release in [release for release in RELEASES if release.name in names or not names]:
        directory, note = runtime / release.name, runtime / f"{release.name}.unavailable"
        marker = directory / "RELEASE"
        if marker.exists() and marker.read_text() == release.version:
            continue
        debian = directory.exists() and not marker.exists()
        remembered = note.exists() and time.time() - note.stat().st_mtime < REMEMBERED_SECONDS
        if retry or not (debian or remembered):
            _fetch(release, runtime, note)
        if note.exists() and not (directory.exists() or shutil.which(release.name)):
            reasons[release.name] = note.read_text()
    return reasons


def fetch_release(release: Release, directory: Path, base: str = "", checksums: Path = CHECKSUMS) -> None:
    """Unpack the official archive into `directory` when it has its checksum.

    That is the one in this repository, `checksums`. For an archive that is not in it, it is the one published beside
    the archive. ``base`` is where the releases lie, by default the official place.

    Raises
    ------
    UnavailableError
        When it cannot be reached, or is not what was published.
    """
    archive_url, checksums_url = release.urls(base or release.base, this_target())
    name = archive_url.rpartition("/")[2]
    kept = {file: value for value, file in (line.split() for line in checksums.read_text().splitlines())}
    checksum = kept.get(name) or published_checksum(_download(checksums_url).decode(errors="replace"), name)
    archive = _download(archive_url)
    if hashlib.sha256(archive).hexdigest() != checksum:
        raise UnavailableError(f"{name} does not have its checksum")
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        file = Path(scratch) / name
        file.write_bytes(archive)
        with tarfile.open(file) as tar:
            tar.extractall(Path(scratch) / "unpacked", **UNPACKING)  # noqa: S202 - checked just above
        (top,) = (Path(scratch) / "unpacked").iterdir()
        if not (top / release.binary).exists():
            raise UnavailableError(f"{name} holds no {release.binary}")
        (top / "RELEASE").write_text(release.version)
        _put(top, directory)


def fetch_debian(release: Release, directory: Path) -> None:
    """Unpack what Debian's package has of it."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        unpacked, chosen = Path(scratch) / "unpacked", Path(scratch) / "chosen"
        unpack_debian_package(release.name, unpacked)
        chosen.mkdir()
        for source, name in release.debian:
            if (unpacked / source).exists():
                (unpacked / source).replace(chosen / name)
        _put(chosen, directory)


def _put(new: Path, directory: Path) -> None:
    """Move a directory to its place; an older release goes."""
    if directory.exists():
        directory.rename(new.with_name("former"))
    new.rename(directory)


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


def _fetch(release: Release, runtime: Path, note: Path) -> None:
    """Fetch the release, or else Debian's package where nothing is; note why the release cannot be had."""
    runtime.mkdir(parents=True, exist_ok=True)
    directory = runtime / release.name
    reasons = []
    try:
        fetch_release(release, directory)
    except (UnavailableError, OSError, tarfile.TarError, ValueError) as error:
        reasons.append(str(error))
    else:
        note.unlink(missing_ok=True)
        return
    if directory.exists() or shutil.which(release.name):
        pass
    elif installed := release.installed_as and shutil.which(release.installed_as):
        directory.mkdir()
        (directory / release.binary).symlink_to(installed)
    elif release.debian:
        try:
            fetch_debian(release, directory)
        except (UnavailableError, OSError, ValueError) as error:
            reasons.append(str(error))
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
    """Fetch what is missing, or only what is named; never fail, because the appliance runs without."""
    names = [argument for argument in sys.argv[1:] if argument != "--retry"]
    for name, reason in provide(retry="--retry" in sys.argv[1:], names=names).items():
        sys.stdout.write(f"without {name.capitalize()}: not on PATH and not to be fetched ({reason})\n")


if __name__ == "__main__":
    main()
