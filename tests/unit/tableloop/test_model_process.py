"""A version's model in its own process: its answers, and every way in which it can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from tableloop.model.coding import Coding
from tableloop.model_process import ModelProcess, ModelProcessError
from tableloop.version_files import VersionFiles

COLUMNS = ("a", "b")
CODE = """
from sklearn.linear_model import LinearRegression
import os, time

class ConformalRegressor(LinearRegression):
    def predict_interval(self, rows):
        {body}
        values = self.predict(rows)
        return values, values - 1, values + 1

    def nearest_training_km(self, rows):
        return None
"""
ROWS = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]])


def version(directory: Path, body: str = "pass", module: str = "conformal") -> VersionFiles:
    """Return a version made by code that only the version carries, under a trusted name."""
    package = directory / "code/pipeline"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / f"{module}.py").write_text(CODE.format(body=body))
    script = f"""
import sys
sys.path.insert(0, {str(directory / "code")!r})
import numpy as np
from skops import io
from pipeline.{module} import ConformalRegressor
X = np.array([[0., 0.], [1., 0.], [0., 1.]])
io.dump(ConformalRegressor().fit(X, X @ [1., 10.]), {str(directory / "model.skops")!r})
"""
    subprocess.run([sys.executable, "-P", "-c", script], check=True, cwd=directory)
    return VersionFiles(directory, {}, COLUMNS)


def test_it_answers_by_the_versions_own_code_with_columns_by_name(tmp_path: Path) -> None:
    with ModelProcess(version(tmp_path)) as process:
        np.testing.assert_allclose(process.predict(ROWS, Coding(("a", "b"))).values, ROWS @ [1.0, 10.0])
        answers = process.predict(ROWS[:, ::-1], Coding(("b", "a")))
    np.testing.assert_allclose(answers.values, ROWS @ [1.0, 10.0])
    np.testing.assert_allclose(answers.high - answers.low, 2.0)
    assert answers.kilometres is None


def test_many_rows_go_through_the_pipes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((100_000, 2))
    with ModelProcess(version(tmp_path)) as process:
        np.testing.assert_allclose(process.predict(rows, Coding(COLUMNS)).values, rows @ [1.0, 10.0])


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with ModelProcess(version(tmp_path)) as process, pytest.raises(ModelProcessError, match="not there: b"):
        process.predict(ROWS[:, :1], Coding(("a",)))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("os._exit(3)", "ended with exit code 3"),
        ("time.sleep(60)", "did not answer within 1 s"),
        ("os.write(3, b'nonsense' + bytes([10]))", "answered nonsense"),
        ("1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("return rows[:, 0] * float('nan'), rows[:, 0], rows[:, 0]", "values that are not finite"),
        ("bytearray(1 << 30)", "failed: MemoryError"),
        ("return rows[:2, 0], rows[:2, 0], rows[:2, 0]", "answered nonsense"),
    ],
)
def test_every_failure_is_one_sentence(tmp_path: Path, body: str, reason: str) -> None:
    files = version(tmp_path, body)
    with ModelProcess(files, answer_seconds=1, memory_bytes=1 << 30) as process:
        with pytest.raises(ModelProcessError) as failure:
            process.predict(ROWS, Coding(COLUMNS))
        assert reason in str(failure.value)
        assert "\n" not in str(failure.value)


def test_types_that_are_not_trusted_are_not_loaded(tmp_path: Path) -> None:
    files = version(tmp_path, module="unknown")
    with pytest.raises(ModelProcessError, match="UntrustedTypesFoundException"):
        ModelProcess(files)


def test_a_file_that_is_no_model_does_not_load(tmp_path: Path) -> None:
    files = version(tmp_path)
    files.model_file.write_bytes(files.model_file.read_bytes()[:-500])
    with pytest.raises(ModelProcessError, match="failed: BadZipFile"):
        ModelProcess(files)


def test_what_the_code_prints_is_no_answer(tmp_path: Path) -> None:
    with ModelProcess(version(tmp_path, "print('hello', flush=True)")) as process:
        assert len(process.predict(ROWS, Coding(COLUMNS)).values) == 3


def test_it_sees_neither_our_environment_nor_our_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    body = "assert 'SECRET' not in os.environ and 'model-' in os.getcwd()"
    with ModelProcess(version(tmp_path, body)) as process:
        assert len(process.predict(ROWS, Coding(COLUMNS)).values) == 3


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "worker.py" in " ".join(child.cmdline())]


def test_one_that_was_killed_is_started_again_with_files_that_have_moved(tmp_path: Path) -> None:
    files = version(tmp_path / "incoming")
    with ModelProcess(files, restarts=True) as process:
        (tmp_path / "incoming").rename(tmp_path / "kept")
        (child,) = children()
        child.kill()
        assert len(process.predict(ROWS, Coding(COLUMNS)).values) == 3
    assert not children()


def test_it_ends_when_nothing_refers_to_it(tmp_path: Path) -> None:
    process = ModelProcess(version(tmp_path))
    assert len(children()) == 1
    del process
    assert not children()


def test_it_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    version(tmp_path, "time.sleep(60)")
    script = f"""
from pathlib import Path
import numpy as np, threading
from tableloop.model.coding import Coding
from tableloop.model_process import ModelProcess
from tableloop.version_files import VersionFiles
process = ModelProcess(VersionFiles(Path({str(tmp_path)!r}), {{}}, ("a", "b")))
print(process._process.pid, process._directory, flush=True)
process.predict(np.zeros((1, 2)), Coding(("a", "b")))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid, directory = parent.stdout.readline().split()
        time.sleep(0.2)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(pid)) or Path(directory).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
