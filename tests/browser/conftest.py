"""The front page of a running appliance, or of a service alone, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.chromium import browser
from tests.integration.conftest import Appliance, wait_until

SECONDS = 15  # that something may take on a busy machine


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    # Of the package, not of the session: while it lives, no other test of this process could have an event loop.
    with browser() as started:
        yield started


@dataclass
class FrontPage:
    """The page as a visitor sees it, and the messages in its console."""

    page: Page
    base: str
    expected: str = "^$"
    fields: int = 8
    problems: list[str] = field(default_factory=list)

    def __call__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def open(self) -> FrontPage:
        self.page.goto(self.base)
        expect(self("#pulse")).to_have_attribute("data-state", "up")
        expect(self(".field")).to_have_count(self.fields)
        return self

    def click_map(self, across: float = 0.29, down: float = 0.48) -> None:
        """Click the map at a share of its width and height; the default is in the Bay Area."""
        box = self("#map").bounding_box()
        assert box
        self("#map").click(position={"x": box["width"] * across, "y": box["height"] * down})

    def ask(self) -> str:
        """Click the map, and return the price that comes."""
        self.click_map()
        expect(self("#price")).to_have_text(re.compile(r"^\$[\d,]+$"))
        return self("#price").inner_text()

    def _listen(self) -> None:
        self.page.on("console", lambda said: self._note(said.text) if said.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))
        self.page.on("request", lambda request: self._is_ours(request.url))

    def _note(self, text: str) -> None:
        if not re.search(self.expected, text):
            self.problems.append(text)

    def _is_ours(self, url: str) -> None:
        if not url.startswith((self.base, f"blob:{self.base}", "data:")):
            self.problems.append(f"asks {url}")


OpenPage = Callable[..., FrontPage]


@contextmanager
def pages(chromium: Browser, port: int, fields: int) -> Iterator[OpenPage]:
    """Return a function that opens the page; none may have written an error or asked another host at the end.

    ``expected`` is a pattern of console lines that belong to the test: Chromium notes every refused request there.
    """
    opened: list[FrontPage] = []

    def open_one(expected: str = "^$", host: str = "localhost", **options: object) -> FrontPage:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})  # type: ignore[arg-type]
        context.set_default_timeout(SECONDS * 1000)
        page = FrontPage(context.new_page(), f"http://{host}:{port}/", expected, fields)
        page._listen()
        opened.append(page)
        return page.open()

    expect.set_options(timeout=SECONDS * 1000)
    yield open_one
    for page in opened:
        page.page.context.close()
    assert [problem for page in opened for problem in page.problems] == []


@pytest.fixture
def open_page(chromium: Browser, running: Appliance) -> Iterator[OpenPage]:
    """Return a function that opens the page of California, as `pages` does."""
    wait_until(running.is_ready, 60, "the appliance to be ready")
    with pages(chromium, running.ports["API_PORT"], 8) as open_one:
        yield open_one


@pytest.fixture
def page(open_page: OpenPage) -> FrontPage:
    return open_page()
