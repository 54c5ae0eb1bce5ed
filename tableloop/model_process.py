"""A version's model in a process of its own, run by the version's own code, under limits of memory and time.

A version may be made by code other than the code here, whose classes have the same names. So the process sees the
version's ``code`` directory and the installed libraries, and nothing else of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tableloop.model import worker
from tableloop.model.coding import Coding
from tableloop.model.intervals import Answers
from tableloop.model.trusted_types import FORMER_NAMES, TRUSTED_TYPES
from tableloop.version_files import VersionFiles

Matrix = npt.NDArray[np.float64]

MEMORY_BYTES = 2 << 30
LOAD_SECONDS = 60.0
ANSWER_SECONDS = 60.0
LONGEST_HEAD = 65_536  # bytes of the JSON line before the values


class ModelProcessError(Exception):
    """The model gave no answer; the message is one sentence without its subject, which is the version."""


class ModelProcess:
    """The model of a version, loaded and ready to predict; safe to use from several threads.

    The process works on a copy of the model and its code, so the version's directory may be moved or removed. It ends
    with `close`, when the last reference to this object goes, and when this process ends, however that ends.
    """

    def __init__(
        self,
        files: VersionFiles,
        *,
        memory_bytes: int = MEMORY_BYTES,
        load_seconds: float = LOAD_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        restarts: bool = False,
    ) -> None:
        """Start the process; with ``restarts`` it is started once more for a question during which it dies.

        Raises
        ------
        ModelProcessError
            The model cannot be loaded within the limits.
        """
        self._files = files
        self._memory_bytes = memory_bytes
        self._load_seconds = load_seconds
        self._answer_seconds = answer_seconds
        self._restarts = restarts
        self._lock = threading.Lock()
        self._directory = Path(tempfile.mkdtemp(prefix="model-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        try:
            shutil.copyfile(files.model_file, self._directory / files.model_file.name)
            if files.code.is_dir():
                shutil.copytree(files.code, self._directory / "code")
            (self._directory / "work").mkdir()
        except OSError as error:
            self._remove()
            raise ModelProcessError(f"its files cannot be copied: {error}") from error
        try:
            self._start()
        except ModelProcessError:
            self._remove()
            raise

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and remove its directory."""
        self._end()
        self._remove()

    def predict(self, rows: Matrix, coding: Coding) -> Answers:
        """Return what the model says of rows of shape (n, k) in this coding.

        Raises
        ------
        ModelProcessError
            A column of the model is missing, or the process died, took too long or answered nonsense.
        """
        if missing := [name for name in self._files.columns if name not in coding.names]:
            raise ModelProcessError(f"it needs columns that are not there: {', '.join(missing)}")
        ordered = np.ascontiguousarray(coding.to(self._files.coding)(rows), np.float64)
        with self._lock:
            try:
                return self._ask(ordered)
            except _EndedError:
                if not self._restarts:
                    raise
            self._start()
            return self._ask(ordered)

    def _start(self) -> None:
        order = {
            "model": str(self._directory / self._files.model_file.name),
            "trusted": [*TRUSTED_TYPES, *FORMER_NAMES],
            "directory": str(self._directory),
            "memory_bytes": self._memory_bytes,
            "cpu_seconds": int(max(self._load_seconds, self._answer_seconds)) + 1,
        }
        work = self._directory / "work"
        with (work / "stderr").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", worker.__file__, json.dumps(order)],
                cwd=work,
                env={
                    "PYTHONPATH": str(self._directory / "code"),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "HOME": str(work),
                    "TMPDIR": str(work),
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )
        self._end = weakref.finalize(self, _end, self._process)
        assert self._process.stdin
        assert self._process.stdout
        os.set_blocking(self._process.stdin.fileno(), False)
        os.set_blocking(self._process.stdout.fileno(), False)
        try:
            with self._ended_on_failure():
                self._read_head(
                    time.monotonic() + self._load_seconds, f"did not load within {self._load_seconds:g} s"
                )
        except ModelProcessError:
            self._end()
            raise

    def _ask(self, rows: Matrix) -> Answers:
        deadline = time.monotonic() + self._answer_seconds
        late = f"did not answer within {self._answer_seconds:g} s"
        question = json.dumps({"rows": rows.shape[0], "columns": rows.shape[1]}).encode() + b"\n" + rows.tobytes()
        if not self._end.alive:
            raise _EndedError("is not running")
        with self._ended_on_failure():
            self._write(question, deadline, late)
            sizes = self._read_head(deadline, late).get("bytes")
            if sizes not in ([8 * len(rows)] * 3, [8 * len(rows)] * 4):
                raise _EndedError("answered nonsense")
            content = self._read(sum(sizes), deadline, late)
        values, low, high, *kilometres = np.frombuffer(content).reshape(len(sizes), len(rows))
        if not np.isfinite([values, low, high]).all():
            raise ModelProcessError("predicts values that are not finite")
        return Answers(values, low, high, kilometres[0] if kilometres else None)

    @contextlib.contextmanager
    def _ended_on_failure(self) -> Iterator[None]:
        """End a process that is late, has said what cannot be understood, or has died already."""
        try:
            yield
        except (BrokenPipeError, EOFError):
            raise _EndedError(self._last_words()) from None
        except _EndedError:
            self._end()
            raise

    def _last_words(self) -> str:
        try:
            self._process.wait(5)  # it has closed its pipe
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end()
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        with contextlib.suppress(OSError, IndexError):
            lines = (self._directory / "work/stderr").read_text(errors="replace").strip().splitlines()
            return f"{how}: {lines[-1][:300]}"
        return how

    def _read_head(self, deadline: float, late: str) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):
            if len(line) > LONGEST_HEAD:
                raise _EndedError("answered nonsense")
            line += self._read(1, deadline, late)
        try:
            head = dict(json.loads(line))
        except (ValueError, TypeError):
            raise _EndedError("answered nonsense") from None
        if error := head.get("error"):
            raise ModelProcessError(f"failed: {error}")
        return head

    def _read(self, count: int, deadline: float, late: str) -> bytearray:
        assert self._process.stdout
        descriptor = self._process.stdout.fileno()
        content = bytearray()
        while len(content) < count:
            _wait(descriptor, select.POLLIN, deadline, late)
            part = os.read(descriptor, count - len(content))
            if not part:
                raise EOFError
            content += part
        return content

    def _write(self, content: bytes, deadline: float, late: str) -> None:
        assert self._process.stdin
        descriptor = self._process.stdin.fileno()
        view = memoryview(content)
        while view:
            _wait(descriptor, select.POLLOUT, deadline, late)
            view = view[os.write(descriptor, view) :]


class _EndedError(ModelProcessError):
    """The process is gone: it died, or it was ended because it was late or answered nonsense."""


def _wait(descriptor: int, event: int, deadline: float, late: str) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise _EndedError(late)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
