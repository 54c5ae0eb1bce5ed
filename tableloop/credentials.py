"""The administrator's login, the same for MLflow, Grafana and what only an administrator may do in the service.

The password is a file that only the user of the appliance can read. No process has it in its arguments or its
environment, but those that log in to MLflow, whose client takes it from there. Only the standard library is imported
here: the watchdog stays small.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from pathlib import Path

ADMIN = "admin"
WRONG_LOGIN_SECONDS = 0.5  # before a wrong login is answered


class NoPasswordError(Exception):
    """The password cannot be read; the message names the file and the remedy."""


class AdminLogin:
    """Tells whether a request logs in as the administrator; the file is read again when it changes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at = 0
        self._expected = b""

    def holds(self, authorization: str) -> bool:
        """Return whether an Authorization header is the administrator's, in HTTP's Basic scheme (RFC 7617).

        Raises
        ------
        NoPasswordError
            There is no password to compare with.
        """
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        try:
            changed = self._file.stat().st_mtime_ns
        except OSError:
            changed = 0
        if changed != self._read_at or not self._expected:
            self._expected = f"{ADMIN}:{read_password(self._file)}".encode()
            self._read_at = changed
        return hmac.compare_digest(given, self._expected)


def read_password(file: Path) -> str:
    """Return the administrator's password.

    Raises
    ------
    NoPasswordError
        The file is missing, empty or unreadable.
    """
    try:
        password = file.read_text().strip()
    except (OSError, ValueError) as error:
        raise NoPasswordError(
            f"the administrator's password {file} cannot be read ({error}); remove it, and the "
            "next start makes a new one"
        ) from None
    if not password:
        raise NoPasswordError(
            f"the administrator's password {file} is empty; remove it, and the next start makes one"
        )
    return password


def keep_password(file: Path, given: str = "") -> None:
    """Write the given password where only this user can read it; a random one where there is neither."""
    if not given and file.exists():
        return
    write_secret(file, given or secrets.token_urlsafe(24))


def write_secret(file: Path, text: str) -> None:
    """Write a file, whole or not at all, in a directory that only this user can read."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_text(f"{text}\n")
    new.replace(file)


def basic(password: str, user: str = ADMIN) -> str:
    """Return the Authorization header of a user, by default the administrator (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
