"""A listening socket, the same for every server that is written here."""

from __future__ import annotations

import socket


def listen(address: str, port: int, backlog: int = 2048) -> socket.socket:
    """Return a socket that listens there; on ``::`` it takes connections of IPv4 too.

    Raises
    ------
    OSError
        The machine does not have the address, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    try:
        # Connections of a former run that wind down are not in the way.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener
