"""What a backup holds and what a restore refuses. Neither leaves anything half done."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from appliance import prepare
from appliance.backup import CHECKSUMS, MANIFEST, PRODUCT, SIGNATURE, in_use, write_backup
from appliance.restore import ForeignError, restore
from tableloop.object_storage import ObjectStorage
from tableloop.signing import SigningKey
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, retraining_lock
from tableloop.state.prediction_rows import RowWriter, row
from tableloop.state.shadows import Value
from tableloop.table import load_table

FEATURE_NAMES = load_table().feature_names
FEATURES = load_table().features

KEY = SigningKey.new()
SCHEMA = min(prepare.known_revisions())


def predict(writer: RowWriter, *names: str) -> None:
    rows = [row(name, "r", 1.0, "3", [1.0] * len(FEATURES), 2.0, 1.0, 3.0) for name in names]
    writer.insert(rows)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a stopped state with something of everything."""
    directory = tmp_path / "state"
    files = {
        "champion/current.json": '{"version": "3", "directory": "v3"}',
        "champion/v3/MLmodel": "model",
        "champion/.incoming-v4-x/MLmodel": "half of it",
        "mlflow/artifacts/1/models/m-1/artifacts/model.skops": "model",
        "grafana/admin-password": "secret",
        "prometheus/01BLOCK/meta.json": "{}",
        "prometheus/01BLOCK/chunks/000001": "chunks",
        "prometheus/wal/00000000": "log",
        "workspace/.dvc/cache/files/md5/ab/cd": "cached",
        "workspace/.dvc/tmp/lock": "1",
        "retrains.jsonl": "{}",
        "run/ready": "ready",
        "backups/older.tar.gz": "older",
        "replaced-20200101T000000Z/retrains.jsonl": "older",
    }
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    (directory / "grafana/admin-password").chmod(0o600)
    KEY.keep(Layout(directory).signing_key)
    with closing(sqlite3.connect(directory / "mlflow/mlflow.db")) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (SCHEMA,))
    store = Store(directory / "predictions.db")
    shadow = shadows.begin(store, "Model", "4", "run")
    with closing(store.writer()) as writer:
        predict(writer, "a", "b")
    shadows.add_values(store, shadow, [Value(2, 2.5, 1.5, 3.5)], 2)
    return directory


@pytest.fixture
def archive(state: Path) -> bytes:
    output = io.BytesIO()
    write_backup(state, output, KEY)
    return output.getvalue()


def content(state: Path) -> dict[str, str]:
    """Return the text of every file, except databases and the files of running programs."""
    return {
        name: file.read_text()
        for file in sorted(state.rglob("*"))
        if file.is_file()
        and not (name := file.relative_to(state).as_posix()).startswith("run/")
        and not name.endswith((".db", "-wal", "-shm"))
    }


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name: content.read() for member in tar if member.isreg() and (content := tar.extractfile(member))
        }


def archive_of(files: Mapping[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    return output.getvalue()


def run_backup(state: Path, file: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command with a limit on the size of the files that it writes, in bytes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    return subprocess.run(
        [sys.executable, "-m", "appliance.backup", file],
        cwd=prepare.ROOT,
        env=os.environ | {"STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard)),
    )


def test_a_backup_restored_into_an_empty_state_is_the_same_without_what_runs(
    state: Path, archive: bytes, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    manifest, former = restore(new, io.BytesIO(archive), KEY)
    assert (manifest.model_version, manifest.predictions, manifest.mlflow_schema) == ("3", 2, SCHEMA)
    assert former is None
    left_out = ("secrets", "workspace/.dvc/tmp", "backups", "replaced-", "champion/.incoming")
    assert content(new) == {name: text for name, text in content(state).items() if not name.startswith(left_out)}
    assert (new / "grafana/admin-password").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(new / "predictions.db")) as connection:
        assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (2,)
    restored = Store(new / "predictions.db")
    shadow = shadows.current(restored, "Model")
    assert shadow is not None
    assert (shadow.version, shadow.scored) == ("4", 1)
    assert shadows.newest_pairs(restored, shadow, 9)[0][1] == 2.5
    assert not list(state.glob("run/backup-*"))


def test_of_a_running_prometheus_only_finished_blocks_are_kept(state: Path) -> None:
    with closing(sqlite3.connect(state / "predictions.db")) as connection:
        connection.execute("SELECT count(*) FROM predictions").fetchone()
        output = io.BytesIO()
        assert not write_backup(state, output, KEY).whole_prometheus
    kept = [name for name in members(output.getvalue()) if "prometheus" in name]
    assert kept == ["state/prometheus/01BLOCK/chunks/000001", "state/prometheus/01BLOCK/meta.json"]


def test_a_console_that_is_emptied_meanwhile_is_kept_as_it_was(state: Path) -> None:
    console = Layout(state).console
    console.parent.mkdir(exist_ok=True)
    written = os.urandom(3_000_000)
    console.write_bytes(written)

    class Output(io.BytesIO):
        def write(self, content: Any, /) -> int:
            if self.tell() > 1_000_000:
                os.truncate(console, 0)
            return super().write(content)

    output = Output()
    write_backup(state, output, KEY)
    assert members(output.getvalue())[f"state/{console.relative_to(state)}"] == written


def test_the_database_of_mlflow_comes_before_the_files_that_it_names(archive: bytes) -> None:
    names = list(members(archive))
    assert names[:2] == [MANIFEST, "state/mlflow/mlflow.db"]
    assert names[-2:] == [CHECKSUMS, SIGNATURE]


def test_rows_that_are_still_in_the_log_of_sqlite_are_in_the_backup(state: Path, tmp_path: Path) -> None:
    with closing(Store(state / "predictions.db").writer()) as writer:
        predict(writer, "c")
        assert (state / "predictions.db-wal").stat().st_size > 0
        output = io.BytesIO()
        assert write_backup(state, output, KEY).predictions == 3
    assert not [name for name in members(output.getvalue()) if name.endswith(("-wal", "-shm"))]


def test_a_restore_moves_the_former_state_aside(state: Path, archive: bytes) -> None:
    (state / "retrains.jsonl").write_text("newer")
    (state / "simulate").mkdir()
    _, former = restore(state, io.BytesIO(archive), KEY)
    assert former
    assert (former / "retrains.jsonl").read_text() == "newer"
    assert (former / "simulate").is_dir()
    assert (state / "retrains.jsonl").read_text() == "{}"
    assert not (state / "simulate").exists()
    assert (state / "backups/older.tar.gz").read_text() == "older"


def with_member(name: str, kind: bytes = tarfile.REGTYPE) -> Callable[[bytes], bytes]:
    def change(archive: bytes) -> bytes:
        output = io.BytesIO()
        with tarfile.open(fileobj=output, mode="w:gz") as tar:
            for key, text in members(archive).items():
                info = tarfile.TarInfo(name if key == "state/retrains.jsonl" else key)
                info.size = len(text)
                if key == "state/retrains.jsonl" and kind != tarfile.REGTYPE:
                    info.type, info.linkname, info.size = kind, "/etc/passwd", 0
                tar.addfile(info, io.BytesIO(text))
        return output.getvalue()

    return change


def with_manifest(**values: object) -> Callable[[bytes], bytes]:
    def change(archive: bytes) -> bytes:
        files = members(archive)
        return archive_of(files | {MANIFEST: json.dumps(json.loads(files[MANIFEST]) | values).encode()})

    return change


def test_a_backup_from_before_the_product_was_called_tableloop_is_restored(tmp_path: Path, archive: bytes) -> None:
    restore(tmp_path / "empty", io.BytesIO(with_manifest(product="house-price-appliance")(archive)), KEY, trust=True)
    assert (tmp_path / "empty" / "retrains.jsonl").read_text() == "{}"


def test_a_backup_of_another_appliance_is_refused_until_somebody_trusts_it(state: Path, archive: bytes) -> None:
    before = content(state)
    other = SigningKey.new()
    with pytest.raises(ForeignError, match=r"it is not signed with the key of this appliance.*TRUST=1"):
        restore(state, io.BytesIO(archive), other)
    assert content(state) == before
    restore(state, io.BytesIO(archive), other, trust=True)


@pytest.mark.parametrize("name", ["pipeline/train.py", "sitecustomize.py", "dvc.yaml", ".dvc/config"])
def test_code_of_the_workspace_is_never_taken_from_a_backup(state: Path, tmp_path: Path, name: str) -> None:
    file = state / "workspace" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("code")
    (state / "workspace/dvc.lock").write_text("results")
    output = io.BytesIO()
    write_backup(state, output, KEY)
    restore(tmp_path / "new", io.BytesIO(output.getvalue()), KEY)
    assert not (tmp_path / "new/workspace" / name).exists()
    assert (tmp_path / "new/workspace/dvc.lock").read_text() == "results"


def test_a_backup_that_needs_more_room_than_there_is_is_refused_first(tmp_path: Path, archive: bytes) -> None:
    with pytest.raises(prepare.RefusedError, match=r"free, 1000000000\.00 GB needed"):
        restore(tmp_path / "new", io.BytesIO(with_manifest(bytes=10**18)(archive)), KEY)


def flipped(archive: bytes) -> bytes:
    """Return the archive with another byte in one of its files, under a sound gzip."""
    tar = bytearray(gzip.decompress(archive))
    tar[tar.index(b"cached")] ^= 1
    return gzip.compress(bytes(tar))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda _: b"", "cut short|it is empty|no backup"),
        (lambda _: b"no archive at all", "no backup"),
        (lambda _: archive_of({"holiday.jpg": b"..."}), "it is no backup of this appliance"),
        (lambda archive: archive[: len(archive) // 2], "cut short"),
        (lambda archive: archive[:-9], "cut short"),
        (
            lambda archive: archive_of({k: v for k, v in members(archive).items() if not k.startswith(CHECKSUMS)}),
            "cut short",
        ),
        (lambda archive: archive_of({k: v for k, v in members(archive).items() if "MLmodel" not in k}), "MLmodel is"),
        (flipped, "cd does not have its checksum"),
        (with_member("state/../../outside"), "which no backup does"),
        (with_member("/etc/outside"), "which no backup does"),
        (with_member("state/run/lock"), "which no backup does"),
        (with_member("state/link", tarfile.SYMTYPE), "which no backup does"),
        (with_manifest(product="another"), "no backup of this appliance"),
        (with_manifest(predictions="many"), "no backup of this appliance"),
        (with_manifest(mlflow_schema=["a"]), "no backup of this appliance"),
        (with_manifest(commit=None), "not signed"),
        (lambda archive: archive_of(members(archive) | {MANIFEST: b"[" * 100_000}), "no backup of this appliance"),
        (lambda archive: archive_of(members(archive) | {CHECKSUMS: b"one\ntwo three"}), "but not in both"),
    ],
)
def test_what_is_foreign_or_broken_is_refused_and_nothing_is_touched(
    state: Path, archive: bytes, change: Callable[[bytes], bytes], problem: str
) -> None:
    before = content(state)
    with pytest.raises(ForeignError, match=problem):
        restore(state, io.BytesIO(change(archive)), KEY)
    assert content(state) == before
    assert {entry.name for entry in state.parent.iterdir()} == {"state"}


@pytest.mark.parametrize(
    ("values", "problem"),
    [({"format": 2}, "in a newer form, 2"), ({"mlflow_schema": "fffff"}, "schema fffff, which the MLflow here")],
)
def test_a_backup_of_a_newer_appliance_is_refused(
    state: Path, archive: bytes, values: dict[str, object], problem: str
) -> None:
    before = content(state)
    with pytest.raises(prepare.RefusedError, match=problem):
        restore(state, io.BytesIO(with_manifest(**values)(archive)), KEY)
    assert content(state) == before


def test_a_restore_killed_at_any_moment_is_finished_by_the_next_start(
    state: Path, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "retrains.jsonl").write_text("newer")
    (state / "simulate").mkdir()
    rename = Path.rename
    for moment in range(1, 40):
        copy = tmp_path / str(moment)
        shutil.copytree(state, copy)
        left = moment

        def killed(path: Path, to: Path) -> Path:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return rename(path, to)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            try:
                restore(copy, io.BytesIO(archive), KEY)
            except KeyboardInterrupt:
                pass
            else:
                break
        prepare.put_in_place(copy)
        if (copy / "simulate").exists():  # before the one rename that counts
            assert moment == 1
            assert content(copy) == content(state)
            continue
        (former,) = [path for path in copy.glob("replaced-*") if "2020" not in path.name]
        assert (former / "retrains.jsonl").read_text() == "newer"
        assert (former / "simulate").is_dir()
        assert content(copy / "workspace") == {".dvc/cache/files/md5/ab/cd": "cached"}
        assert (copy / "retrains.jsonl").read_text() == "{}"
        assert not [entry.name for entry in copy.iterdir() if entry.name.startswith(".")]
    assert moment > 10


def test_an_existing_file_is_not_overwritten(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "kept.tar.gz"
    file.write_text("kept")
    result = run_backup(state, str(file))
    assert (result.returncode, result.stderr) == (
        1,
        f"no backup was written: {file} exists already: remove it or name another FILE\n",
    )
    assert file.read_text() == "kept"


def test_a_file_in_the_state_is_refused_but_in_its_backups(state: Path) -> None:
    result = run_backup(state, str(state / "mlflow" / "x.tar.gz"))
    assert result.returncode == 1
    assert "lies in the state itself" in result.stderr
    result = run_backup(state, "")
    assert result.returncode == 0, result.stderr
    assert f"{state}/backups/20" in result.stdout
    assert "version 3, 2 predictions" in result.stdout


def test_a_full_disk_is_one_line_and_leaves_nothing(state: Path, tmp_path: Path) -> None:
    (state / "mlflow/artifacts/large").write_bytes(os.urandom(3_000_000))
    target = tmp_path / "target"
    target.mkdir()
    result = run_backup(state, str(target / "x.tar.gz"), limit=1_000_000)
    assert result.returncode == 1
    assert result.stderr == f"no backup was written: {target}/x.tar.gz: File too large\n"
    assert list(target.iterdir()) == []
    assert not list(state.glob("run/backup-*"))


def test_an_unwritable_place_is_one_line(state: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_backup(state, str(tmp_path / "file" / "x.tar.gz"))
    assert result.returncode == 1
    assert result.stderr.startswith(f"no backup was written: {tmp_path}/file")
    assert result.stderr.count("\n") == 1


def test_stdout_holds_the_archive_and_nothing_else(state: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "appliance.backup", "-"],
        cwd=prepare.ROOT,
        env=os.environ | {"STATE_DIR": str(state)},
        capture_output=True,
        check=True,
    )
    assert json.loads(members(result.stdout)[MANIFEST])["product"] == PRODUCT
    assert b"written to stdout: version 3" in result.stderr


def test_a_backup_waits_for_no_retraining_but_says_who_runs(state: Path, tmp_path: Path) -> None:
    with retraining_lock(Layout(state)):
        result = run_backup(state, str(tmp_path / "x.tar.gz"))
    assert result.returncode == BUSY
    assert result.stderr.startswith(f"no backup now: a retraining (process {os.getpid()} since ")


def test_a_state_in_use_is_known_by_its_lock_and_by_its_open_databases(state: Path) -> None:
    assert not in_use(state)
    with (state / "run" / "lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert in_use(state)
    with closing(sqlite3.connect(state / "predictions.db")) as connection:
        connection.execute("SELECT count(*) FROM predictions").fetchone()
        assert in_use(state)
        result = subprocess.run(
            [sys.executable, "-m", "appliance.restore", __file__],
            cwd=prepare.ROOT,
            env=os.environ | {"STATE_DIR": str(state)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.startswith(f"nothing restored: an appliance works with {state}: stop it first")
    assert not in_use(state)


def run(module: str, state: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"appliance.{module}", *arguments]
    environment = os.environ | {"STATE_DIR": str(state)} | variables
    return subprocess.run(
        command, cwd=prepare.ROOT, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip


def test_a_backup_goes_to_object_storage_and_comes_back_without_what_is_there(
    state: Path, bucket: str, tmp_path: Path
) -> None:
    (state / "workspace/dvc.lock").write_text("results")
    done = run("backup", state, "", ARTIFACTS_URI=bucket)
    assert done.returncode == 0, done.stderr
    (name,) = ObjectStorage(bucket).names("backups")
    assert done.stdout.startswith(f"{bucket}/backups/{name} (0.")
    assert f"what is in {bucket} is not in it: models, data and labels" in done.stdout
    assert not list(state.glob("run/backup-*"))
    new = tmp_path / "new"
    KEY.keep(Layout(new).signing_key)
    (new / ".tableloop").touch()
    asked = run("restore", new, "", ARTIFACTS_URI=bucket)
    assert f"{bucket}/backups/{name}" in asked.stderr
    done = run("restore", new, f"{bucket}/backups/{name}", ARTIFACTS_URI=bucket)
    assert done.returncode == 0, done.stderr
    assert f"what is in {bucket} is as it was" in done.stdout
    assert (new / "retrains.jsonl").read_text() == "{}"
    assert not (new / "workspace").exists()


def test_without_object_storage_of_its_own_a_backup_in_it_is_whole(state: Path, bucket: str, tmp_path: Path) -> None:
    (state / "workspace/dvc.lock").write_text("results")
    address = f"{bucket}/kept.tar.gz"
    assert run("backup", state, address).returncode == 0
    again = run("backup", state, address)
    assert again.stderr == f"no backup was written: {address} exists already: remove it or name another FILE\n"
    done = run("restore", tmp_path / "new", address, "--trust")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new/workspace/dvc.lock").read_text() == "results"


def test_object_storage_that_cannot_be_used_is_one_line(state: Path, bucket: str) -> None:
    nowhere = bucket.replace("/state", "-none")
    for done in (run("backup", state, f"{nowhere}/x.tar.gz"), run("restore", state, f"{bucket}/none.tar.gz")):
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr == f"nothing restored: {bucket}/none.tar.gz: No such file or directory\n"
    assert (state / "retrains.jsonl").exists()
