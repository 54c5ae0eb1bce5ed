"""TLS of the service: how it offers the certificate in ``TLS_CERT``, and how programs of this machine trust that."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path


class CertificateError(Exception):
    """Certificate and key cannot be used; the message names the files and why."""


def offering(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a server's context, which takes a renewed certificate from its file by itself.

    Raises
    ------
    CertificateError
        When a file cannot be read, is no PEM, or the key is that of another certificate.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load(context, certificate, key)
    loaded = _modified(certificate, key)

    def renew(_connection: object, _name: str | None, context: ssl.SSLContext) -> None:
        nonlocal loaded
        if (now := _modified(certificate, key)) != loaded:
            try:
                _load(context, certificate, key)
            except CertificateError:  # half of it is renewed; the next connection looks again
                return
            loaded = now

    context.sni_callback = renew  # called at every handshake
    return context


def trusting(certificate: Path) -> ssl.SSLContext:
    """Return a client's context that trusts this certificate alone, whatever name it is for: it is asked by address.

    Raises
    ------
    OSError
        When the file cannot be read, or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the issuer of a certificate need not be in its file
    context.load_verify_locations(certificate)
    return context


def connect(host: str, port: int | None, timeout: float, certificate: Path | None) -> http.client.HTTPConnection:
    """Return a connection to a server of ours, which has this certificate if it has one; nothing is sent yet."""
    if certificate is None:
        return http.client.HTTPConnection(host, port, timeout=timeout)
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=trusting(certificate))


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for file in (certificate, key):
        try:
            file.open("rb").close()
        except OSError as error:
            raise CertificateError(f"{file} cannot be read ({error.strerror})") from None
    try:
        # A passphrase would be asked for on the console, where nobody is.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise CertificateError(
            f"{certificate} and {key} are not a certificate and its key in PEM without a passphrase ({reason})"
        ) from None


def _modified(*files: Path) -> list[int]:
    try:
        return [file.stat().st_mtime_ns for file in files]
    except OSError:
        return []
