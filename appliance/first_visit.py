"""What a browser that was never here before sees of MLflow: the half for training, nothing in front of it.

MLflow 3's pages open on their half for language models, where this appliance has nothing to show, with a chat panel
for an assistant that is not set up, and a note that usage is reported, which `entrypoint.sh` has switched off. All
are choices that the pages keep in the browser; here a first visit begins with the other ones, and what a visitor
chooses later stays.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

from appliance.host_guard import App, Receive, Scope, Send

# As MLflow 3.17 keeps them; a version that names them otherwise ignores these.
CHOICES = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
}
_SCRIPT = (
    "<script>for (const [key, value] of Object.entries("
    + json.dumps(CHOICES)
    + ")) if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));</script>"
)
_HEAD = b"<head>"


class FirstVisit:
    """An ASGI application that puts a script into the page from which all of MLflow's are made."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        # The whole page, not "unchanged" or a part of it.
        skipped = {b"if-none-match", b"if-modified-since", b"range", b"accept-encoding"}
        scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name not in skipped]}
        started: MutableMapping[str, Any] = {}
        body = b""

        async def collect(message: MutableMapping[str, Any]) -> None:
            nonlocal started, body
            if message["type"] == "http.response.start":
                started = message
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                await _send_page(send, started, body)

        await self._app(scope, receive, collect)


async def _send_page(send: Send, start: MutableMapping[str, Any], body: bytes) -> None:
    page = body.replace(_HEAD, _HEAD + _SCRIPT.encode(), 1)
    headers = [(name, value) for name, value in start["headers"] if name.lower() not in {b"content-length", b"etag"}]
    headers.append((b"content-length", str(len(page)).encode()))
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": page})
