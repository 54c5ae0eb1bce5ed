"""The service speaks HTTPS, and everything here that asks it still does."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import certificate
from tests.integration.conftest import Appliance, wait_until
from tests.unit.app.conftest import EXAMPLE


def offered(port: int) -> str:
    """Return the name in the certificate that the service offers."""
    pem = ssl.get_server_certificate(("127.0.0.1", port))
    shown = ["openssl", "x509", "-noout", "-subject"]
    return subprocess.run(shown, input=pem, capture_output=True, text=True, check=True).stdout


def test_the_whole_appliance_runs_with_a_certificate_and_takes_a_renewed_one(
    new_appliance: Callable[..., Appliance], first_start: tuple[Appliance, str], tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path / "first", "houses.example.org")
    appliance = new_appliance(state_of=first_start[0], TLS_CERT=str(cert), TLS_KEY=str(key), API_PROCESSES="2")
    port = appliance.ports["API_PORT"]
    # Prometheus, the health checks and the whole question of the ready line have used HTTPS before this returns.
    assert f"API https://localhost:{port}" in appliance.start()
    assert appliance.make("status").stdout.startswith("healthy")
    assert appliance.services.ask_api("/predict", EXAMPLE)["model_version"] == "1"
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    plain.request("GET", "/ready")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        plain.getresponse()
    assert "houses.example.org" in offered(port)
    for new, used in zip(certificate(tmp_path / "second", "renewed.example.org"), (cert, key), strict=True):
        shutil.copy(new, used)
    # Each process takes it from its second connection on.
    renewed = "the renewed certificate of both processes"
    wait_until(lambda: all("renewed.example.org" in offered(port) for _ in range(20)), 20, renewed)


@pytest.mark.parametrize("given", ["TLS_CERT", "TLS_KEY"])
def test_one_without_the_other_is_refused(
    given: str, new_appliance: Callable[..., Appliance], tmp_path: Path
) -> None:
    cert, _ = certificate(tmp_path / "one", "one.example.org")
    done = new_appliance(**{given: str(cert)}).make("up")
    assert done.returncode != 0
    assert "TLS_CERT and TLS_KEY are needed together" in done.stdout + done.stderr
