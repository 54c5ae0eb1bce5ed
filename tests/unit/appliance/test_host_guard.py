from __future__ import annotations

from typing import Any

import httpx
import pytest

from appliance.host_guard import HostGuard


async def echo_origin(scope: Any, receive: Any, send: Any) -> None:
    origin = dict(scope["headers"]).get(b"origin", b"none")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": origin})


async def get(host: str, origin: str | None = None, allowed: tuple[str, ...] = ()) -> httpx.Response:
    headers = {"host": host} | ({"origin": origin} if origin else {})
    transport = httpx.ASGITransport(HostGuard(echo_origin, allowed))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await client.get("/", headers=headers)


@pytest.mark.parametrize(
    "host",
    ["localhost:5002", "127.0.0.1:5002", "[::1]:5002", "8.8.4.4", "192.168.1.7:80", "appliance", "mac.local:5002"],
)
@pytest.mark.anyio
async def test_answers_under_addresses_and_private_names(host: str) -> None:
    assert (await get(host)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example.com", "192.168.evil.com:5002", "127.0.0.1.nip.io", "a]b.com", ""])
@pytest.mark.anyio
async def test_refuses_names_that_anyone_may_register_and_says_what_to_do(host: str) -> None:
    answer = await get(host)
    assert answer.status_code == 403
    assert "ALLOWED_HOSTS" in answer.text


@pytest.mark.parametrize("allowed", [("ml.example.com",), ("*",)])
@pytest.mark.anyio
async def test_answers_under_a_name_that_was_allowed(allowed: tuple[str, ...]) -> None:
    assert (await get("ML.example.com:5002", allowed=allowed)).status_code == 200


@pytest.mark.anyio
async def test_a_page_may_talk_to_the_server_it_came_from_and_a_foreign_one_stays_foreign() -> None:
    assert (await get("mac.local:5002", "http://mac.local:5002")).text == "none"
    assert (await get("mac.local:5002", "http://evil.example.com")).text == "http://evil.example.com"
    assert (await get("mac.local:5002", "http://mac.local:8000")).text == "http://mac.local:8000"
