from __future__ import annotations

import socket

import pytest

from tableloop.listener import listen


@pytest.mark.parametrize(
    ("address", "clients"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("127.0.0.2", ["127.0.0.2"]),
        ("0.0.0.0", ["127.0.0.1", "127.0.0.2"]),
        ("::1", ["::1"]),
        ("::", ["::1", "127.0.0.1"]),
    ],
)
def test_a_server_is_found_at_its_address(address: str, clients: list[str]) -> None:
    with listen(address, 0) as listener:
        for client in clients:
            socket.create_connection((client, listener.getsockname()[1]), 2).close()


def test_a_taken_port_is_an_error() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", first.getsockname()[1])
