"""A real Alertmanager sends what a real Prometheus finds to a receiver of webhooks and to a mail server."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.alerting import configuration
from monitoring.health import ask
from tableloop.settings import Settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tests.integration.conftest import ROOT, Appliance, wait_until

PATH = f"{ROOT / '.runtime' / 'alertmanager'}{os.pathsep}{os.environ['PATH']}"
AMTOOL = shutil.which("amtool", path=PATH)
pytestmark = pytest.mark.skipif(AMTOOL is None, reason="NOT RUN: there is no Alertmanager; make setup says why")
SECONDS = 15.0  # from the condition to the message
TOKEN, PASSWORD = "T0KEN-OF-THE-WEBHOOK", "PASSWORD-OF-THE-MAIL-SERVER"


@dataclass
class Received:
    """What has come, with the moment at which it came."""

    webhooks: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    mails: list[tuple[float, Any]] = field(default_factory=list)
    refusing: bool = False

    def alerts(self, name: str, status: str) -> list[float]:
        """Return when messages about an alert came by webhook."""
        return [
            at
            for at, message in self.webhooks
            if message["status"] == status and message["groupLabels"]["alertname"] == name
        ]

    def subjects(self, text: str) -> list[str]:
        """Return the subjects of mails with this text in them."""
        return [mail["Subject"] for _, mail in self.mails if text in mail["Subject"]]


def webhook_receiver(received: Received) -> type[http.server.BaseHTTPRequestHandler]:
    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not received.refusing:
                received.webhooks.append((time.time(), body))
            self.send_response(500 if received.refusing else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Receiver


def mail_server(received: Received) -> type[socketserver.StreamRequestHandler]:
    class MailServer(socketserver.StreamRequestHandler):
        """As much of SMTP (RFC 5321) as a client needs to deliver."""

        def handle(self) -> None:
            self._say(b"220 ready")
            while line := self.rfile.readline():
                match line.split(maxsplit=1)[0].upper():
                    case b"EHLO":
                        self._say(b"250-here\r\n250 AUTH PLAIN")
                    case b"AUTH":
                        self._say(b"235 welcome")
                    case b"DATA":
                        self._say(b"354 go on")
                        lines = iter(self.rfile.readline, b".\r\n")
                        received.mails.append((time.time(), message_from_bytes(b"".join(lines))))
                        self._say(b"250 taken")
                    case b"QUIT":
                        self._say(b"221 bye")
                        return
                    case _:
                        self._say(b"250 fine")

        def _say(self, line: bytes) -> None:
            self.wfile.write(line + b"\r\n")

    return MailServer


@pytest.fixture(scope="module")
def receivers() -> Iterator[tuple[Received, int, int]]:
    """Return what has come, and the ports of both servers."""
    received = Received()
    servers = [
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), webhook_receiver(received)),
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), mail_server(received)),
    ]
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    yield received, servers[0].server_address[1], servers[1].server_address[1]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def alerting(
    new_appliance: Callable[..., Appliance],
    first_start: tuple[Appliance, str],
    receivers: tuple[Received, int, int],
) -> Appliance:
    appliance = new_appliance(
        state_of=first_start[0],
        ALERT_WEBHOOK_URL=f"http://127.0.0.1:{receivers[1]}/hooks/{TOKEN}",
        ALERT_EMAIL_TO="people@example.org",
        ALERT_EMAIL_FROM="tableloop@example.org",
        ALERT_SMTP_HOST=f"127.0.0.1:{receivers[2]}",
        ALERT_SMTP_USER="tableloop",
        ALERT_SMTP_PASSWORD=PASSWORD,
        ALERT_SMTP_TLS="off",
        PUBLIC_URL="https://houses.example.org",
    )
    assert "Alertmanager up" in appliance.start()
    return appliance


def test_a_failed_retraining_is_one_message_by_each_way(
    alerting: Appliance, receivers: tuple[Received, int, int]
) -> None:
    received = receivers[0]
    store = Store(Layout(alerting.state).database)
    store.end_retraining(store.begin_retraining("user", "", "test"), "failed", None, "no rows", {})
    began = time.time()
    wait_until(lambda: received.alerts("RetrainingFailed", "firing"), SECONDS + 5, "the webhook")
    wait_until(lambda: received.subjects("A retraining has failed"), SECONDS + 5, "the mail")
    assert received.alerts("RetrainingFailed", "firing")[0] - began < SECONDS
    (message,) = [message for _, message in received.webhooks if "Retraining" in json.dumps(message["groupLabels"])]
    assert message["externalURL"] == "https://houses.example.org"
    assert message["alerts"][0]["annotations"]["runbook"] == "docs/metrics.md, RetrainingFailed"
    (mail,) = [mail for _, mail in received.mails if "retraining has failed" in mail["Subject"]]
    text = mail.get_payload(decode=True) or mail.get_payload()[0].get_payload(decode=True)
    for part in ("make logs names the stage", "docs/metrics.md, RetrainingFailed", "https://houses.example.org"):
        assert part in text.decode()


def test_what_has_happened_is_said_once_and_is_not_over_later(
    alerting: Appliance, receivers: tuple[Received, int, int]
) -> None:
    received = receivers[0]
    store = Store(Layout(alerting.state).database)
    store.end_retraining(store.begin_retraining("user", "", "test"), "rejected", None, "worse", {})
    wait_until(lambda: received.alerts("VersionRejected", "firing"), SECONDS, "the message")
    wait_until(lambda: not firing(alerting, "VersionRejected"), 90, "the end of the alert")
    time.sleep(SECONDS)
    assert len(received.alerts("VersionRejected", "firing")) == 1
    assert received.alerts("VersionRejected", "resolved") == []


def test_a_service_that_is_down_is_told_once_and_again_when_it_is_back(
    alerting: Appliance, receivers: tuple[Received, int, int]
) -> None:
    received = receivers[0]
    mlflow = alerting.program("appliance.mlflow_server")
    assert mlflow is not None
    mlflow.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: firing(alerting, "ServiceDown"), 90, "the alert")
        wait_until(lambda: received.alerts("ServiceDown", "firing"), SECONDS, "the message")
    finally:
        mlflow.send_signal(signal.SIGCONT)
    wait_until(lambda: not firing(alerting, "ServiceDown"), 30, "the end of the alert")
    wait_until(lambda: received.alerts("ServiceDown", "resolved"), SECONDS, "the message that it is over")
    wait_until(lambda: received.subjects("over: mlflow does not answer"), SECONDS, "the mail that it is over")
    assert len(received.alerts("ServiceDown", "firing")) == 1
    assert len(received.alerts("ServiceDown", "resolved")) == 1


def test_secrets_are_in_no_argument_no_environment_and_no_log_even_when_nothing_arrives(
    alerting: Appliance, receivers: tuple[Received, int, int]
) -> None:
    receivers[0].refusing = True
    try:
        assert "on its way" in alerting.make("test-alert").stdout
        wait_until(lambda: "alertmanager  |" in alerting.console(), 30, "Alertmanager's complaint")
    finally:
        receivers[0].refusing = False
    said = alerting.console()
    for process in alerting.processes():
        said += " ".join(process.cmdline()) + json.dumps(process.environ())
    assert TOKEN not in said
    assert PASSWORD not in said
    configuration_file = Layout(alerting.state).alertmanager_configuration
    assert configuration_file.stat().st_mode & 0o077 == 0
    assert "alertmanager" in alerting.make("status").stdout


def test_a_test_message_without_anywhere_to_go_says_what_to_set(running: Appliance) -> None:
    done = running.make("test-alert")
    assert done.returncode != 0
    assert "ALERT_WEBHOOK_URL" in done.stderr


@pytest.mark.parametrize("form", ["generic", "slack", "teams"])
def test_alertmanager_takes_the_configuration(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ALERT_WEBHOOK_URL": "https://hooks.example.org/T000/B000",
        "ALERT_WEBHOOK_FORMAT": form,
        "ALERT_EMAIL_TO": "a@example.org,b@example.org",
        "ALERT_EMAIL_FROM": "c@example.org",
        "ALERT_SMTP_HOST": "smtp.example.org:587",
    }.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "alertmanager.yml"
    file.write_text(yaml.safe_dump(configuration(Settings())))
    done = subprocess.run([str(AMTOOL), "check-config", file], capture_output=True, text=True, check=False)
    if form == "teams" and "msteamsv2_configs not found" in done.stderr + done.stdout:
        pytest.skip("Debian's Alertmanager is older than Teams' present format")
    assert done.returncode == 0, done.stderr
    assert re.search("SUCCESS", done.stdout)


def firing(appliance: Appliance, name: str) -> bool:
    answer = ask(appliance.services.prometheus, "/api/v1/alerts")
    return any(
        alert["state"] == "firing" and alert["labels"]["alertname"] == name for alert in answer["data"]["alerts"]
    )
