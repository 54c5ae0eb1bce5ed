"""A real S3 server over a directory, on a free port, for the tests: versitygw, built once by Go."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

MODULE: Final = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
ACCESS_KEY: Final = "tests"
SECRET_KEY: Final = "s3cret+of/the=tests"
BUILD_SECONDS: Final = 600


def program() -> Path | None:
    """Return the server's program, built if need be and kept in the user's cache; None without Go and without it."""
    if found := shutil.which("versitygw"):
        return Path(found)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tableloop"
    binary = cache / "versitygw"
    if not binary.exists():
        if shutil.which("go") is None:
            return None
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:  # tests run side by side
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not binary.exists():
                subprocess.run(
                    ["go", "install", MODULE], check=True, capture_output=True, timeout=BUILD_SECONDS,
                    env={**os.environ, "GOBIN": str(cache), "GOFLAGS": "-modcacherw"},
                )  # fmt: skip
    return binary


class S3Server:
    """One server with its buckets below ``directory``; it can be killed and come back."""

    def __init__(self, binary: Path, directory: Path, port: int) -> None:
        self._binary = binary
        self._directory = directory
        self._port = port
        self._buckets = 0
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True)
        self.endpoint = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        """Make a bucket and return the address of a folder in it."""
        self._buckets += 1
        (self._directory / f"bucket{self._buckets}").mkdir()
        return f"s3://bucket{self._buckets}/state"

    def files(self, address: str) -> list[Path]:
        """Return what lies below an address, as files of the server's own directory."""
        return sorted(path for path in self.folder(address).rglob("*") if path.is_file())

    def folder(self, address: str) -> Path:
        """Return the directory of the server's own that an address names."""
        return self._directory / address.removeprefix("s3://")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        with self._directory.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "--quiet", "--port", f"127.0.0.1:{self._port}", "posix", self._directory],
                stdout=log, stderr=log, env=environment,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError(self._directory.with_suffix(".log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill the server, as a crash of its machine would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self, *, on: bool) -> None:
        """Have the server stand still, or go on: one that is reached and does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def stop(self) -> None:
        """End the server, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=10)
