"""The page behind a reverse proxy: under a path prefix, and with ports that are published under other numbers."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.integration.conftest import Appliance, wait_until
from tests.unit.app.conftest import EXAMPLE

PREFIX = "/houses"


@pytest.fixture(scope="module")
def behind(new_appliance: Callable[..., Appliance]) -> Appliance:
    appliance = new_appliance(TEST_MODE="1", ROOT_PATH=f"{PREFIX}/", PUBLIC_PROMETHEUS_URL="19999")
    appliance.start()
    return appliance


@pytest.fixture(scope="module", params=["that keeps the prefix", "that takes it off"])
def address(request: pytest.FixtureRequest, behind: Appliance) -> Iterator[str]:
    """A reverse proxy in front of the service, and the address of the page behind it."""
    port = behind.ports["API_PORT"]
    kept = request.param == "that keeps the prefix"

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            path = self.path if kept else self.path.removeprefix(PREFIX)
            upstream.request(self.command, path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}/"
        server.shutdown()
        thread.join()


def test_the_page_asks_and_links_under_the_prefix(chromium: Browser, address: str, behind: Appliance) -> None:
    wait_until(behind.is_ready, 30, "the appliance")
    page = chromium.new_page()
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    page.goto(address)
    expect(page.locator("#service-prometheus a")).to_have_attribute("href", "http://127.0.0.1:19999/")
    expect(page.locator("#fields input").first).to_be_visible()
    with page.expect_response(lambda answer: answer.url == f"{address}predict"):
        page.locator("#form button[type=submit]").click()
    expect(page.locator("#price")).to_contain_text("$")
    page.goto(address)
    page.get_by_role("link", name="All versions side by side").click()
    page.wait_for_url(f"{address}versions")
    expect(page.locator("#heads th").first).to_contain_text("Version dummy")
    page.get_by_role("link", name="Back to").click()
    page.wait_for_url(address)
    page.goto(f"{address}docs")
    expect(page.locator(".opblock").first).to_be_visible()
    assert failed == []
    page.close()


def test_the_api_answers_under_the_prefix(address: str) -> None:
    assert httpx.post(f"{address}predict", json=EXAMPLE).status_code == httpx.codes.OK
    described = httpx.get(f"{address}openapi.json").json()
    assert described["servers"] == [{"url": PREFIX}]
    assert httpx.post(f"{address}predict/batch", json=[EXAMPLE] * 2).status_code == httpx.codes.OK


def test_it_still_answers_without_the_prefix(behind: Appliance) -> None:
    assert behind.services.ask_api("/ready")
    assert httpx.get(f"{behind.services.api}/metrics").status_code == httpx.codes.OK
