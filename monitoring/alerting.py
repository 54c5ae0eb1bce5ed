"""Where alerts go: the configuration of Alertmanager, made from the settings.

``python -m monitoring.alerting`` sends a test message through the running Alertmanager.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from monitoring.prometheus_front import hidden_address
from tableloop.credentials import write_secret
from tableloop.settings import Settings, load_settings
from tableloop.state.layout import Layout

TEMPLATES = Path(__file__).parent / "alertmanager" / "messages.tmpl"
TITLE, TEXT = '{{ template "tableloop.title" . }}', '{{ template "tableloop.text" . }}'
TEST_SECONDS = 60  # that a test message is said to be true
# While the alert on the left fires, those on the right are its consequences and are not sent.
CAUSES = {
    'alertname="ServiceDown", service="api"': "ErrorBudgetBurns.*|PredictionsSlow|NoPredictions",
    'alertname="PredictionsCannotBeStored"': "ErrorBudgetBurns.*|NoPredictions",
    'alertname="ErrorBudgetBurnsFast"': "ErrorBudgetBurnsSlowly",
    'alertname="StateDiskAlmostFull"': "StateDiskFilling",
}


def prepare(settings: Settings) -> None:
    """Write Alertmanager's configuration and the address that it listens on; nothing when no alert is to be sent."""
    layout = Layout(settings.state_dir)
    if not (settings.alert_webhook_url.get_secret_value() or settings.alert_email_to):
        return
    layout.alertmanager.mkdir(exist_ok=True)
    write_secret(layout.alertmanager_configuration, yaml.safe_dump(configuration(settings), sort_keys=False))
    host, port = (settings.alertmanager_host, 9093) if settings.alertmanager_host else hidden_address()
    layout.alertmanager_address.write_text(f"{host}:{port}\n")


def configuration(settings: Settings) -> dict[str, Any]:
    """Return Alertmanager's configuration: one message for one cause, and one when it is over."""
    return {
        "templates": [str(TEMPLATES)],
        "route": {
            "receiver": "people",
            "group_by": ["alertname"],
            "group_wait": "3s",
            "group_interval": "10s",
            "repeat_interval": "4h",
            # What has happened, a promotion for instance, is over at once.
            "routes": [{"matchers": ['severity="info"'], "receiver": "people, once", "group_wait": "0s"}],
        },
        "inhibit_rules": [
            {"source_matchers": cause.split(", "), "target_matchers": [f'alertname=~"{effects}"']}
            for cause, effects in CAUSES.items()
        ],
        "receivers": [
            {"name": "people", **_receivers(settings, send_resolved=True)},
            {"name": "people, once", **_receivers(settings, send_resolved=False)},
        ],
    }


def _receivers(settings: Settings, *, send_resolved: bool) -> dict[str, Any]:
    receivers: dict[str, Any] = {}
    if url := settings.alert_webhook_url.get_secret_value():
        message = {"send_resolved": send_resolved, "title": TITLE, "text": TEXT}
        receivers |= {
            "generic": {"webhook_configs": [{"url": url, "send_resolved": send_resolved}]},
            "slack": {"slack_configs": [{"api_url": url, **message}]},
            "teams": {"msteamsv2_configs": [{"webhook_url": url, **message}]},
        }[settings.alert_webhook_format]
    if settings.alert_email_to:
        email: dict[str, Any] = {
            "to": settings.alert_email_to,
            "from": settings.alert_email_from,
            "smarthost": settings.alert_smtp_host,
            "require_tls": settings.alert_smtp_tls,
            "send_resolved": send_resolved,
            "headers": {"Subject": TITLE},
            "html": "",
            "text": TEXT,
        }
        if settings.alert_smtp_user:
            email |= {
                "auth_username": settings.alert_smtp_user,
                "auth_password": settings.alert_smtp_password.get_secret_value(),
            }
        receivers["email_configs"] = [email]
    return receivers


def send_test(settings: Settings) -> str:
    """Have Alertmanager send a message; return what to tell, or raise `OSError` when it does not take it."""
    layout = Layout(settings.state_dir)
    now = datetime.now(UTC)
    alert = {
        "labels": {"alertname": "Test", "severity": "info"},
        "annotations": {
            "summary": "A test message of Tableloop",
            "description": "Messages about this appliance arrive here.",
        },
        "endsAt": (now + timedelta(seconds=TEST_SECONDS)).isoformat(),
    }
    address = layout.alertmanager_address.read_text().strip()
    request = urllib.request.Request(
        f"http://{address}/api/v2/alerts", json.dumps([alert]).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(request, timeout=5).close()
    return "a test message is on its way; where it does not arrive, make logs has the reason"


def main() -> None:
    """Send a test message."""
    settings = load_settings()
    if not Layout(settings.state_dir).alertmanager_address.exists():
        sys.exit("alerts go nowhere: set ALERT_WEBHOOK_URL or ALERT_EMAIL_TO and start again")
    try:
        sys.stdout.write(send_test(settings) + "\n")
    except OSError as error:
        sys.exit(f"Alertmanager does not take the message ({getattr(error, 'reason', error)}): see make status")


if __name__ == "__main__":
    main()
