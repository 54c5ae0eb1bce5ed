"""The names under which the servers answer."""

from __future__ import annotations

import pytest

from tableloop.host_names import HostNames, is_foreign


@pytest.mark.parametrize(
    "host",
    ["localhost:5002", "127.0.0.1:5002", "[::1]:5002", "8.8.4.4", "192.168.1.7:80", "appliance", "ml.internal"],
)
def test_addresses_and_private_names_are_right(host: str) -> None:
    assert HostNames().answers_under(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "192.168.evil.com:5002", "127.0.0.1.nip.io", "a]b.com", "", ":80", "mac.local:5002", "[::1"],
)
def test_names_that_anyone_may_take_are_refused_with_the_remedy(host: str) -> None:
    names = HostNames("ml.example.com")
    assert not names.answers_under(host)
    assert "ALLOWED_HOSTS" in names.refusal(host)


@pytest.mark.parametrize("allowed", ["ml.example.com", "a, ml.example.com ,b", "*"])
def test_a_name_that_was_allowed_is_right(allowed: str) -> None:
    assert HostNames(allowed).answers_under("ML.example.com:5002")


def test_a_page_is_of_the_server_it_came_from_or_foreign() -> None:
    assert not is_foreign("http://mac.local:5002", "mac.local:5002")
    assert is_foreign("http://evil.example.com", "mac.local:5002")
    assert is_foreign("http://mac.local:8000", "mac.local:5002")
    assert is_foreign("null", "mac.local:5002")
