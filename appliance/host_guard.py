"""Which names the MLflow server answers under: the guard in front of its application.

MLflow's own check knows localhost and private addresses only, and refuses every POST of its own pages opened under
another name, because it takes them for foreign. Here the rule is: an address of numbers is always right, for no
web page can make a browser believe that it is one (DNS rebinding needs a name); so is a name that no public DNS
gives out; any other must be in ``ALLOWED_HOSTS``. And a request of a page to where the page came from is not
foreign.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Names without a dot aside, these endings are reserved for private use: RFC 6761, 6762, 8375, ICANN 2024.
PRIVATE_SUFFIXES = (".localhost", ".local", ".home.arpa", ".internal", ".test")


class HostGuard:
    """An ASGI application that lets through what came under a right name, and drops a same-origin ``Origin``."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...] = ()) -> None:
        self._app = app
        self._allowed = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        authority = headers.get(b"host", b"").decode("latin-1")
        name = host_name(authority)
        if not self.answers_under(name):
            refusal = f"This server does not answer under the name {name!r}; add it to ALLOWED_HOSTS.\n"
            await PlainTextResponse(refusal, 403)(scope, receive, send)
            return
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc.lower() == authority.lower():
            scope = {**scope, "headers": [(key, value) for key, value in scope["headers"] if key != b"origin"]}
        await self._app(scope, receive, send)

    def answers_under(self, name: str) -> bool:
        """Return whether a request under this host name, without its port, is let through."""
        if "*" in self._allowed or name in self._allowed:
            return True
        if not name or "." not in name or name.endswith(PRIVATE_SUFFIXES):
            return bool(name)
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return True
        return False


def host_name(authority: str) -> str:
    """Return the name in a Host header, in lower case and without its port; an empty string if there is none."""
    try:
        return urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""
