"""The two sides of TLS: what is offered, and what is trusted."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tableloop.tls import CertificateError, offering, trusting
from tests.certificates import certificate


def test_one_certificate_alone_is_trusted(tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path / "one", "one.example.org")
    context = trusting(cert)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "one", "one.example.org")
    other = certificate(tmp_path / "other", "other.example.org")[1]
    empty = tmp_path / "empty.pem"
    empty.touch()
    for pair in ((cert, other), (key, cert), (empty, key), (tmp_path / "none.pem", key)):
        with pytest.raises(CertificateError, match="pem"):
            offering(*pair)
