"""A browser that was never here before is shown the half of MLflow's pages that has something to show."""

from __future__ import annotations

import gzip
from typing import Any

import httpx
import pytest

from appliance.first_visit import CHOICES, FirstVisit

PAGE = b"<!doctype html><html><head><title>MLflow</title></head></html>"


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """Answer as MLflow does: in pieces, compressed or with "unchanged" where the browser allows it."""
    headers = dict(scope["headers"])
    if b"if-modified-since" in headers:
        await send({"type": "http.response.start", "status": 304, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    body = gzip.compress(PAGE) if b"accept-encoding" in headers else PAGE
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body[:20], "more_body": True})
    await send({"type": "http.response.body", "body": body[20:]})


async def get(path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(FirstVisit(pages))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.get(path, headers={"accept-encoding": "identity"} | named)


@pytest.mark.parametrize("headers", [{}, {"if_modified_since": "Mon, 23 Nov 2026 05:21:48 GMT"}])
@pytest.mark.anyio
async def test_the_page_sets_what_was_not_chosen_yet(headers: dict[str, str]) -> None:
    answer = await get("/", **headers)
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.text.startswith("<!doctype html><html><head><script>")
    assert answer.text.endswith("</script><title>MLflow</title></head></html>")
    assert all(key in answer.text for key in CHOICES)
    assert "=== null" in answer.text


@pytest.mark.anyio
async def test_nothing_else_is_touched() -> None:
    answer = await get("/static-files/main.js", accept_encoding="gzip")
    assert gzip.decompress(answer.content) == PAGE
