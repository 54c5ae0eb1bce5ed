"""Which names a server answers under, and how its own machine calls it.

The names are what keeps a web page from reaching it through a browser (DNS rebinding).

An address of numbers is always right, for no web page can make a browser believe that it is one: rebinding needs a
name. So is a name that no DNS gives out, as containers and machines of a private network have. Any other must be in
``ALLOWED_HOSTS``; ``.local`` too, because anybody in the same network may take such a name (RFC 6762).
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from urllib.parse import urlsplit

# Reserved for private use: RFC 6761, RFC 8375, ICANN 2024.
PRIVATE_SUFFIXES = (".localhost", ".home.arpa", ".internal", ".test")


class HostNames:
    """The names of one server. ``allowed`` is that of the settings: names with commas between them, or ``*``."""

    def __init__(self, allowed: str = "") -> None:
        self._allowed = frozenset(name.strip().lower() for name in allowed.split(","))

    def answers_under(self, authority: str) -> bool:
        """Return whether a request with this Host header is let through."""
        name = host_name(authority)
        if "*" in self._allowed or name in self._allowed:
            return bool(name)
        if "." not in name or name.endswith(PRIVATE_SUFFIXES):
            return bool(name)
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return False

    def refusal(self, authority: str) -> str:
        """Return why a request with this Host header is not let through."""
        return f"This server does not answer under the name {host_name(authority)[:100]!r}; add it to ALLOWED_HOSTS."


def is_foreign(origin: str, authority: str) -> bool:
    """Return whether a page of this Origin header is of another server than the one of the Host header."""
    return urlsplit(origin).netloc.lower() != authority.lower()


def own_host(bind_address: str) -> str:
    """Return where the programs of this machine find a server that listens on an address."""
    # A server on :: takes IPv4 as well (`tableloop.listener`).
    return "127.0.0.1" if bind_address in ("0.0.0.0", "::") else bind_address  # noqa: S104


def with_port(host: str, port: int | str) -> str:
    """Return a host with a port, as an address has it: an address of IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_name(authority: str) -> str:
    """Return the name in a Host header, in lower case and without its port; an empty string if there is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""
