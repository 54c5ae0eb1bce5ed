"""The keys of programs that use the service: a line ``name:scope:hash`` each, in a file or in ``API_KEYS``.

The hash is SHA-256 of the key, without salt and rounds: a key is 32 random bytes, which nobody can try out. Whoever
reads the file learns no key.

``python -m tableloop.api_keys [--name NAME --scope SCOPE | --name NAME --remove]`` is ``make key``.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import re
import secrets
import sys
from collections.abc import Iterable
from typing import Final, NamedTuple

from tableloop.credentials import write_secret
from tableloop.settings import RegistrySettings, load_settings
from tableloop.state.layout import Layout

SCOPES: Final = ("predict", "label", "admin")  # each may do what those before it may
_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([a-z]+):([0-9a-f]{64})")


class KeysError(ValueError):
    """The keys cannot be used; the message names the line and the remedy."""


class ApiKey(NamedTuple):
    """One key: who has it, what they may do, and its hash."""

    name: str
    scope: str
    digest: str

    def may(self, scope: str) -> bool:
        """Return whether the key holds for this scope."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


def parse(text: str) -> list[ApiKey]:
    """Return the keys of lines, or of words with spaces or commas between them.

    Raises
    ------
    KeysError
        A line is no key, or a name occurs twice.
    """
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(filter(None, re.split(r"[\s,]+", text)), 1):
        found = _LINE.fullmatch(line)
        if found is None or found[2] not in SCOPES:
            raise KeysError(
                f"key {number} is not name:scope:hash with a scope of {', '.join(SCOPES)}; make key makes one"
            )
        if found[1] in keys:
            raise KeysError(f"the name {found[1]} has two keys")
        keys[found[1]] = ApiKey(*found.groups())
    return list(keys.values())


def find(keys: Iterable[ApiKey], given: str) -> ApiKey | None:
    """Return the key that was given, compared in constant time; None when it is none of them."""
    digest = hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()
    matching = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            matching = key
    return matching


def stored(settings: RegistrySettings) -> list[ApiKey]:
    """Return the keys of the appliance's file.

    Raises
    ------
    KeysError
        It cannot be read, or a line is no key.
    """
    file = Layout(settings.state_dir).api_keys
    try:
        return parse(file.read_text())
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"{file} cannot be read: {error}") from None
    except KeysError as error:
        raise KeysError(f"{file}: {error}") from None


def add(settings: RegistrySettings, name: str, scope: str) -> str:
    """Make a key, keep its hash, and return it: it is told this once.

    Raises
    ------
    KeysError
        There is one of this name already, or name or scope cannot be one.
    """
    key = f"tableloop-{secrets.token_urlsafe(32)}"
    line = f"{name}:{scope}:{hashlib.sha256(key.encode()).hexdigest()}"
    _write(settings, [*stored(settings), *parse(line)])
    return key


def remove(settings: RegistrySettings, name: str) -> None:
    """Forget a key; the service refuses it within a second.

    Raises
    ------
    KeysError
        There is none of this name.
    """
    keys = stored(settings)
    kept = [key for key in keys if key.name != name]
    if len(kept) == len(keys):
        raise KeysError(f"there is no key {name}; there are {', '.join(key.name for key in keys) or 'none'}")
    _write(settings, kept)


def _write(settings: RegistrySettings, keys: list[ApiKey]) -> None:
    text = "\n".join(":".join(key) for key in keys)
    parse(text)
    write_secret(Layout(settings.state_dir).api_keys, text)


def main() -> int:
    """Make, remove or list keys, and return the exit code."""
    parser = argparse.ArgumentParser(description="Make, remove or list the keys of programs that use the service.")
    parser.add_argument("--name", default="", help="whose key")
    parser.add_argument("--scope", default="", help=f"what it is for: {', '.join(SCOPES)}")
    parser.add_argument("--remove", action="store_true", help="forget it")
    arguments = parser.parse_args()
    settings = load_settings()
    try:
        if not arguments.name:
            keys = [*stored(settings), *parse(settings.api_keys)]
            sys.stdout.writelines(f"{key.name:<24}{key.scope}\n" for key in keys)
            if not keys:
                sys.stdout.write("there are no keys; make key NAME=... SCOPE=label makes one\n")
        elif arguments.remove:
            remove(settings, arguments.name)
            sys.stdout.write(f"{arguments.name} has no key any more\n")
        else:
            sys.stdout.write(f"{add(settings, arguments.name, arguments.scope)}\n")
    except (KeysError, OSError) as error:
        sys.stderr.write(f"nothing changed: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
