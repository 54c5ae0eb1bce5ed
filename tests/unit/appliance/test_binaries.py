"""The official release path, against a local server with real archives."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import re
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import binaries
from appliance.binaries import (
    ALERTMANAGER,
    CHECKSUMS,
    GRAFANA,
    PROMETHEUS,
    RELEASES,
    Release,
    UnavailableError,
    fetch_release,
)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


NO_CHECKSUMS = Path(os.devnull)


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Return a directory and the address under which it is served."""
    directory = tmp_path / "releases"
    directory.mkdir()
    handler = functools.partial(QuietHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def publish(directory: Path, release: Release, checksum: str = "") -> None:
    """Put an archive with the release's binary there, and its checksum as that project publishes it."""
    archive_url, checksums_url = release.urls("", binaries.this_target())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(f"{release.name}-v{release.version}/{release.binary}")
        member.size, member.mode = 5, 0o755
        tar.addfile(member, io.BytesIO(b"hello"))
    checksum = checksum or hashlib.sha256(buffer.getvalue()).hexdigest()
    archive = directory / archive_url.lstrip("/")
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(buffer.getvalue())
    many = checksums_url.endswith("sha256sums.txt")
    lines = f"{'0' * 64}  other.tar.gz\n{checksum}  {archive.name}\n" if many else f"{checksum}\n"
    (directory / checksums_url.lstrip("/")).write_text(lines)


@pytest.mark.parametrize("release", [PROMETHEUS, ALERTMANAGER, GRAFANA], ids=lambda release: release.name)
def test_an_archive_with_its_published_checksum_is_unpacked(
    release: Release, releases: tuple[Path, str], tmp_path: Path
) -> None:
    publish(releases[0], release)
    fetch_release(release, tmp_path / release.name, releases[1], NO_CHECKSUMS)
    binary = tmp_path / release.name / release.binary
    assert binary.read_bytes() == b"hello"
    assert binary.stat().st_mode & 0o100


@pytest.mark.parametrize("release", [PROMETHEUS, ALERTMANAGER, GRAFANA], ids=lambda release: release.name)
def test_an_archive_with_another_checksum_is_refused_and_leaves_nothing(
    release: Release, releases: tuple[Path, str], tmp_path: Path
) -> None:
    publish(releases[0], release, checksum="1" * 64)
    target = tmp_path / "runtime" / release.name
    target.parent.mkdir()
    with pytest.raises(UnavailableError, match="does not have its checksum"):
        fetch_release(release, target, releases[1], NO_CHECKSUMS)
    assert list(target.parent.iterdir()) == []


def test_a_release_that_is_not_there_says_so(releases: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="answered 404 Not Found"):
        fetch_release(PROMETHEUS, tmp_path / "prometheus", releases[1], NO_CHECKSUMS)


def test_an_archive_must_have_the_checksum_of_the_repository_whatever_its_server_publishes(
    releases: tuple[Path, str], tmp_path: Path
) -> None:
    publish(releases[0], PROMETHEUS)
    name = PROMETHEUS.urls("", binaries.this_target())[0].rpartition("/")[2]
    kept = tmp_path / "checksums.txt"
    kept.write_text(f"{'2' * 64}  {name}\n")
    with pytest.raises(UnavailableError, match="does not have its checksum"):
        fetch_release(PROMETHEUS, tmp_path / "prometheus", releases[1], kept)


def test_the_repository_keeps_checksums_of_the_pinned_releases() -> None:
    kept = [line.split("  ") for line in CHECKSUMS.read_text().splitlines()]
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum, _ in kept)
    assert {name.rsplit(".", 3)[0] for _, name in kept} <= {f"{each.name}-{each.version}" for each in RELEASES}


def test_an_older_release_gives_way_to_the_pinned_one(
    releases: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(releases[0], GRAFANA)
    (tmp_path / "runtime/grafana").mkdir(parents=True)
    (tmp_path / "runtime/grafana/RELEASE").write_text("12.4.5")
    monkeypatch.setattr(binaries, "RELEASES", (dataclasses.replace(GRAFANA, base=releases[1]),))
    assert binaries.provide(tmp_path / "runtime") == {}
    assert (tmp_path / "runtime/grafana/RELEASE").read_text() == GRAFANA.version
    assert (tmp_path / "runtime/grafana/bin/grafana").exists()


def test_a_list_without_our_archive_is_refused() -> None:
    with pytest.raises(UnavailableError, match="no checksum"):
        binaries.published_checksum("abc  other.tar.gz\ndef  another.tar.gz\n", "ours.tar.gz")


def test_a_refusal_is_remembered_until_asked_to_retry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [release.name for release in RELEASES]
    for name in names:
        (tmp_path / f"{name}.unavailable").write_text("no route")
    monkeypatch.setenv("PATH", str(tmp_path))
    started = time.monotonic()
    assert binaries.provide(tmp_path) == dict.fromkeys(names, "no route")
    assert time.monotonic() - started < 0.1


def test_a_program_on_path_does_not_keep_the_pinned_release_from_being_fetched(
    releases: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(releases[0], GRAFANA)
    (tmp_path / "grafana").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binaries, "RELEASES", (dataclasses.replace(GRAFANA, base=releases[1]),))
    assert binaries.provide(tmp_path / "runtime") == {}
    assert (tmp_path / "runtime/grafana/RELEASE").read_text() == GRAFANA.version
