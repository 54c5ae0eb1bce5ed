"""Certificates for tests of TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a key and a certificate that is signed by itself, for a name that is not this machine's."""
    directory.mkdir()
    files = directory / "cert.pem", directory / "key.pem"
    about = ["-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *about, "-out", files[0], "-keyout", files[1]],
        check=True,
        capture_output=True,
    )
    return files
