from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from pipeline.git_commit import source_commit
from pipeline.retrain import failure_of
from pipeline.stage_runner import RESULTS, StageResult, read_results
from pipeline.workspace import prepare
from tableloop.mlflow_http import has_alias, is_healthy, wait_until_healthy
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock, retraining_lock_holder
from tableloop.table import load_table

ROOT = Path(__file__).parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a tiny checkout."""
    root = tmp_path / "root"
    for name in (
        ".dvc/config",
        ".dvcignore",
        "dvc.yaml",
        "params.yaml",
        "requirements.lock",
        "dvc.lock",
        "pipeline/train.py",
        "data/table.yaml",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"first {name}")
    described = {**yaml.safe_load((ROOT / "data/table.yaml").read_text()), "path": "raw/a.csv"}
    (root / "data/table.yaml").write_text(yaml.safe_dump(described))
    (root / "data/raw").mkdir()
    (root / "data/raw/a.csv").write_text("1")
    return root


def test_the_workspace_follows_the_checkout_but_keeps_its_own_lock_file(root: Path, tmp_path: Path) -> None:
    workspace = prepare(tmp_path / "state", root)
    assert workspace == tmp_path / "state/workspace"
    assert (workspace / "dvc.lock").read_text() == "first dvc.lock"
    assert "no_scm = true" in (workspace / ".dvc/config.local").read_text()
    (workspace / "dvc.lock").write_text("its own")
    (root / "pipeline/train.py").rename(root / "pipeline/fit.py")
    (root / "params.yaml").write_text("second")
    prepare(tmp_path / "state", root)
    assert (workspace / "dvc.lock").read_text() == "its own"
    assert (workspace / "params.yaml").read_text() == "second"
    assert [path.name for path in (workspace / "pipeline").iterdir()] == ["fit.py"]
    assert not any(path.is_symlink() for path in workspace.rglob("*"))


def test_an_unchanged_file_is_not_written_again(root: Path, tmp_path: Path) -> None:
    workspace = prepare(tmp_path / "state", root)
    before = (workspace / "data/raw/a.csv").stat()
    prepare(tmp_path / "state", root)
    assert (workspace / "data/raw/a.csv").stat().st_ino == before.st_ino


def test_a_directory_of_parquet_files_takes_no_second_place_on_the_disk(root: Path, tmp_path: Path) -> None:
    described = yaml.safe_load((root / "data/table.yaml").read_text()) | {"path": "raw/rows"}
    (root / "data/table.yaml").write_text(yaml.safe_dump(described))
    raw = root / "data/raw/rows/2026"
    raw.mkdir(parents=True)
    for name in ("a.parquet", "b.parquet", "_SUCCESS"):
        (raw / name).write_text(name)
    load_table.cache_clear()
    copied = prepare(tmp_path / "state", root) / "data/raw/rows/2026"
    assert {path.name: path.read_text() for path in copied.iterdir()} == {
        "a.parquet": "a.parquet", "b.parquet": "b.parquet", "_SUCCESS": "_SUCCESS",
    }  # fmt: skip
    assert (copied / "a.parquet").samefile(raw / "a.parquet")
    (raw / "a.parquet").unlink()
    (raw / "b.parquet").rename(raw / "b.old")
    (raw / "b.parquet").write_text("another")
    prepare(tmp_path / "state", root)
    assert sorted(path.name for path in copied.iterdir()) == ["_SUCCESS", "b.old", "b.parquet"]
    assert (copied / "b.parquet").read_text() == "another"


def test_the_lock_of_a_killed_dvc_is_cleared(root: Path, tmp_path: Path) -> None:
    stale = tmp_path / "state/workspace/.dvc/tmp/rwlock"
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps({"dvc.yaml": {"write": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    prepare(tmp_path / "state", root)
    assert not stale.exists()


def test_the_commit_travels_with_the_copy(root: Path, tmp_path: Path) -> None:
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert source_commit(root) is None
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    commit = source_commit(root)
    assert commit is not None
    assert len(commit) == 40
    assert source_commit(prepare(tmp_path / "state", root)) == commit
    (root / "params.yaml").write_text("changed")
    assert source_commit(root) == f"{commit}-dirty"
    assert source_commit(tmp_path) is None


def test_a_second_retraining_is_refused_with_who_holds_the_lock_and_since_when(tmp_path: Path) -> None:
    with (
        retraining_lock(Layout(tmp_path)),
        pytest.raises(BusyError, match=rf"a retraining \(process {os.getpid()} since 20\d\d-") as caught,
        retraining_lock(Layout(tmp_path)),
    ):
        pass
    with retraining_lock(Layout(tmp_path), "a backup"):
        assert retraining_lock_holder(Layout(tmp_path)).startswith(f"a backup (process {os.getpid()} since 20")
        result = subprocess.run(
            [sys.executable, "-m", "pipeline.retrain"],
            env=os.environ | {"STATE_DIR": str(tmp_path), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (result.returncode, result.stderr.count("\n")) == (BUSY, 1)
    assert result.stderr.startswith(str(caught.value).partition(" since ")[0].replace("retraining", "backup"))
    assert retraining_lock_holder(Layout(tmp_path)) == ""


def run_stage(results: Path, work: str) -> subprocess.CompletedProcess[str]:
    """Run a stage named "train" of which ``work`` is the body."""
    stage = results / "train.py"
    stage.write_text(
        "import os\nfrom pipeline.stage_runner import StageError, run_stage\n"
        f"def work():\n    {work}\nrun_stage(work)\n"
    )
    environment = os.environ | {RESULTS: str(results), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, stage], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("work", "failure"),
    [
        ("raise StageError('candidate linear: no')", "candidate linear: no"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("os.kill(os.getpid(), 9)", "it was killed, which the kernel does when memory is short"),
    ],
)
def test_a_stage_that_fails_says_why_and_one_that_was_killed_is_known_by_its_silence(
    tmp_path: Path, work: str, failure: str
) -> None:
    assert run_stage(tmp_path, work).returncode
    assert failure_of(read_results(tmp_path)) == f"training failed in stage train: {failure}"


def test_a_stage_that_ends_well_hands_on_its_seconds(tmp_path: Path) -> None:
    assert run_stage(tmp_path, "pass").returncode == 0
    (result,) = read_results(tmp_path).values()
    assert result.seconds is not None
    assert 0 <= result.seconds < 5
    assert failure_of(read_results(tmp_path)) is None


def test_the_failure_is_that_of_the_stage_that_failed() -> None:
    why = "candidate linear: no\nand more of it"
    results = {"preprocess": StageResult(1.0, 2.0), "train": StageResult(3.0, 4.0, why)}
    assert failure_of(results) == "training failed in stage train: candidate linear: no"
    assert failure_of({}) is None


@pytest.fixture
def registry() -> Iterator[str]:
    """A server that answers as MLflow's registry does: a version, no alias, no model, and a fault."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = next(
                answer
                for part, answer in {
                    "/health": (200, {}),
                    "name=Model&alias=Production": (200, {"model_version": {"version": "3"}}),
                    "name=Model": (400, {"error_code": "INVALID_PARAMETER_VALUE"}),
                    "name=None": (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}),
                    "": (500, {"error_code": "INTERNAL_ERROR"}),
                }.items()
                if part in self.path
            )
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_registry_is_asked_for_the_alias(registry: str) -> None:
    assert is_healthy(registry)
    assert has_alias(registry, "Model", "Production")
    assert not has_alias(registry, "Model", "Staging")
    assert not has_alias(registry, "None", "Production")
    with pytest.raises(OSError, match="500"):
        has_alias(registry, "Other", "Production")


def test_waiting_for_a_server_that_is_not_there_ends() -> None:
    assert not wait_until_healthy("http://127.0.0.1:9", seconds=0.3)
    assert is_healthy("sqlite:///somewhere.db")
