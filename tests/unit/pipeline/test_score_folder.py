"""Folders scored from the command line: on disk and in object storage, by processes of this machine and by Dask."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet

from pipeline.file_places import LOCK, Directory
from tableloop.object_storage import ObjectStorage
from tests.dask_cluster import DaskCluster
from tests.s3 import S3Server
from tests.unit.pipeline.test_score import frame, run
from tests.waiting import wait_for

MANY, ROWS = 12, 8_000  # enough to be interrupted


def scored(folder: Path) -> dict[str, int]:
    """Return how many rows each output has; all are whole."""
    files = (file for file in folder.rglob("*.parquet") if not file.name.startswith("."))
    return {file.relative_to(folder).as_posix(): parquet.read_metadata(file).num_rows for file in files}


def many(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(MANY):
        frame(ROWS).assign(part=number).to_parquet(folder / f"{number:02d}.parquet", index=False)
    return folder


def upload(rows: pd.DataFrame, folder: str, name: str, scratch: Path) -> None:
    rows.to_parquet(scratch / "upload.parquet", index=False)
    ObjectStorage(folder).upload(scratch / "upload.parquet", name)


@pytest.fixture
def start(key_environment: dict[str, str], town_version: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that begins a scoring; what is left of it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(source: object, target: object, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipeline.score", str(source), str(target), "--model", str(town_version)]
        started.append(
            subprocess.Popen(
                command, env=key_environment | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_the_files_of_a_directory_are_scored(
    town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "2026" / "_temporary").mkdir(parents=True)
    frame(5000).to_parquet(source / "a.parquet")
    frame(300).to_parquet(source / "2026" / "b.parquet")
    frame(300).to_csv(source / "2026" / "c.csv", index=False)
    for ignored in ("readme.txt", ".hidden.parquet", "2026/_temporary/d.parquet"):
        (source / ignored).write_text("not a table")
    done = run(source, target, "--model", town_version, environment=key_environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"3 files by version model: 3 scored, 0 kept, 0 failed; 5,600 rows in {target}\n"
    assert "3 of 3 files, 5,600 rows" in done.stderr
    assert scored(target) == {"a.parquet": 5000, "2026/b.parquet": 300, "2026/c.csv.parquet": 300}
    assert sorted(path.name for path in target.iterdir()) == ["2026", "a.parquet"]
    assert run(source / "a.parquet", tmp_path / "one.parquet", "--model", town_version, environment=key_environment)
    columns = ["predicted_median_house_value", "low", "high"]
    one, of_many = (pd.read_parquet(file)[columns] for file in (tmp_path / "one.parquet", target / "a.parquet"))
    pd.testing.assert_frame_equal(one, of_many, check_exact=True)


def test_only_what_has_changed_is_scored_again(
    town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in "abc":
        frame(100).to_parquet(source / f"{name}.parquet")
    arguments = (source, target, "--model", town_version)
    assert run(*arguments, environment=key_environment).returncode == 0
    before = {file.name: file.stat().st_mtime_ns for file in target.iterdir()}
    frame(120).to_parquet(source / "b.parquet")
    (source / "a.parquet").touch()  # the same content
    (target / "c.parquet").write_bytes((target / "c.parquet").read_bytes()[:-10])  # as after a loss of power
    done = run(*arguments, environment=key_environment)
    assert "3 files by version model: 2 scored, 1 kept, 0 failed; 320 rows" in done.stdout
    changed = {file.name for file in target.iterdir() if file.stat().st_mtime_ns != before[file.name]}
    assert changed == {"b.parquet", "c.parquet"}
    town_version.rename(town_version.with_name("4"))
    done = run(source, target, "--model", town_version.with_name("4"), environment=key_environment)
    assert "3 files by version 4: 3 scored, 0 kept" in done.stdout


def test_wrong_files_are_named_and_the_others_scored(
    town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    frame(50).to_parquet(source / "good.parquet")
    frame(50).assign(Latitude=91.0).to_parquet(source / "impossible.parquet")
    frame(50).drop(columns="Latitude").to_parquet(source / "lacking.parquet")
    (source / "torn.parquet").write_bytes((source / "good.parquet").read_bytes()[:500])
    (source / "empty.csv").write_text("")
    done = run(source, target, "--model", town_version, environment=key_environment)
    assert done.returncode == 1
    assert "5 files by version model: 1 scored, 0 kept, 4 failed; 50 rows" in done.stdout
    for name, reason in (
        ("impossible.parquet", "row 1, column Latitude: the greatest possible is 90"),
        ("lacking.parquet", "column Latitude: the column Latitude is missing"),
        ("torn.parquet", "this is no Parquet file that can be read"),
        ("empty.csv", ""),
    ):
        assert f"{source / name}: {reason}" in done.stderr
    assert scored(target) == {"good.parquet": 50}


def test_a_killed_scoring_is_taken_up_again(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    source, target = many(tmp_path / "in"), tmp_path / "out"
    process = start(source, target)
    wait_for("an output", lambda: target.exists() and len(scored(target)) >= 2, 60)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(children, timeout=10)[1], "the workers outlive their caller"
    before = scored(target)  # raises if one is half
    assert set(before.values()) == {ROWS}
    assert len(before) < MANY, "it was not interrupted"
    output, errors = start(source, target).communicate(timeout=120)
    assert f"{MANY - len(before)} scored, {len(before)} kept, 0 failed; {MANY * ROWS:,} rows" in output, errors
    assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in source.iterdir())


def test_a_killed_worker_is_survived(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    source, target = many(tmp_path / "in"), tmp_path / "out"
    process = start(source, target)
    wait_for("an output", lambda: target.exists() and scored(target), 60)
    psutil.Process(process.pid).children()[0].kill()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f" 0 failed; {MANY * ROWS:,} rows" in output
    assert scored(target) == {f"{number:02d}.parquet": ROWS for number in range(MANY)}


def test_two_runs_do_not_write_to_one_directory(
    town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    frame(5).to_parquet(tmp_path / "in" / "a.parquet")
    with Directory(tmp_path / "out").claimed():
        done = run(tmp_path / "in", tmp_path / "out", "--model", town_version, environment=key_environment)
    assert done.returncode == 1
    assert f"another scoring writes to {tmp_path / 'out'}" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_lock_that_is_removed_while_it_is_taken_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def late(file: Any, how: int) -> None:
        (tmp_path / LOCK).unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(OSError, match="has ended just now: start this one again"), Directory(tmp_path).claimed():
        pytest.fail("it may be written")


def test_a_worker_that_sees_another_directory_does_not_write_there(tmp_path: Path) -> None:
    with (
        Directory(tmp_path / "here").claimed() as ours,
        Directory(tmp_path / "there").claimed() as others,
        pytest.raises(OSError, match=r"is not the same directory on .* name an s3:// folder, or a path that all of"),
        Directory(others.path, ours.token).writing("a.parquet"),
    ):
        pytest.fail("it may be written")
    assert [*(tmp_path / "here").iterdir(), *(tmp_path / "there").iterdir()] == []


def test_a_folder_of_object_storage_is_scored(
    bucket: str, s3_server: S3Server, town_version: Path, key_environment: dict[str, str], tmp_path: Path
) -> None:
    environment = key_environment | s3_server.environment
    source, target = f"{bucket}/in", f"{bucket}/out"
    upload(frame(500), source, "a.parquet", tmp_path)
    upload(frame(300), source, "2026/b.parquet", tmp_path)
    (tmp_path / "wrong").write_bytes(b"not a table")
    ObjectStorage(source).upload(tmp_path / "wrong", "wrong.parquet")
    done = run(source, target, "--model", town_version, environment=environment)
    assert done.returncode == 1
    assert f"{source}/wrong.parquet: this is no Parquet file" in done.stderr
    assert "3 files by version model: 2 scored, 0 kept, 1 failed; 800 rows" in done.stdout, done.stderr
    assert scored(s3_server.folder(target)) == {"a.parquet": 500, "2026/b.parquet": 300}
    footer = parquet.read_schema(s3_server.folder(target) / "a.parquet").metadata
    assert footer[b"tableloop.source"] == f"{source}/a.parquet".encode()
    assert footer[b"tableloop.source_digest"].startswith(b"etag:")
    (s3_server.folder(source) / "wrong.parquet").unlink()
    upload(frame(501), source, "a.parquet", tmp_path)
    done = run(source, target, "--model", town_version, environment=environment)
    assert "2 files by version model: 1 scored, 1 kept, 0 failed; 801 rows" in done.stdout, done.stderr
    one = run(f"{source}/a.parquet", tmp_path / "a.csv", "--model", town_version, environment=environment)
    assert "501 rows scored into" in one.stdout, one.stderr
    gone = run(f"{source}/none.parquet", tmp_path / "b.csv", "--model", town_version, environment=environment)
    assert gone.returncode == 1
    assert f"{source}/none.parquet" in gone.stderr


@pytest.fixture
def dask(bucket: str, free_port: Callable[[], int], tmp_path: Path) -> Iterator[DaskCluster]:
    """Return a cluster of two workers, which know ``bucket`` and do not have the signing key."""
    (tmp_path / "dask").mkdir()
    cluster = DaskCluster(tmp_path / "dask", free_port())
    cluster.start_scheduler()
    for _ in range(2):
        cluster.start_worker()
    yield cluster
    cluster.stop()


def test_workers_of_a_cluster_score_a_folder_and_one_of_them_may_die(
    bucket: str,
    s3_server: S3Server,
    dask: DaskCluster,
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    address = dask.address
    for number in range(MANY):
        upload(frame(ROWS).assign(part=number), f"{bucket}/in", f"{number:02d}.parquet", tmp_path)
    process = start(f"{bucket}/in", f"{bucket}/out", DASK_SCHEDULER=address, **s3_server.environment)
    target = s3_server.folder(f"{bucket}/out")
    wait_for("an output", lambda: target.exists() and scored(target), 90)
    dask.worker_processes()[0].kill()
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert f" 0 failed; {MANY * ROWS:,} rows" in output
    assert scored(target) == {f"{number:02d}.parquet": ROWS for number in range(MANY)}
    shared = start(s3_server.folder(f"{bucket}/in"), tmp_path / "out", DASK_SCHEDULER=address)
    _, errors = shared.communicate(timeout=180)
    assert shared.returncode == 0, errors
    numbers = ["predicted_median_house_value", "low", "high"]
    for name in ("00.parquet", "11.parquet"):
        one, other = (pd.read_parquet(folder / name)[numbers] for folder in (target, tmp_path / "out"))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
