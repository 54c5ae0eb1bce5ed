"""How fast the front page of the running appliance is, in a real browser: ``make bench-page`` prints the figures."""

from __future__ import annotations

import random
import statistics
import sys

from playwright.sync_api import Browser, Page, expect

from tableloop.settings import load_settings
from tests.browser.chromium import browser

VISITS = 15
CLICKS = 200
# From the event of the click to the frame after the one that has the price, which is when it is on the screen.
WATCH = """() => {
    window.clicks = [];
    let clicked = 0;
    document.getElementById("map").addEventListener("pointerup", (event) => (clicked = event.timeStamp), true);
    const seen = () => window.clicks.push(performance.now() - clicked);
    const inTwoFrames = () => requestAnimationFrame(() => requestAnimationFrame(seen));
    new MutationObserver(inTwoFrames).observe(document.getElementById("price"), { childList: true });
}"""


def first_paints(chromium: Browser, address: str) -> tuple[list[float], dict[str, int]]:
    """Return the seconds to the first paint of each visit with an empty cache, and what one visit loads."""
    paints = []
    sizes: dict[str, int] = {}
    for _ in range(VISITS):
        page = _open(chromium, address)
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
        entries = page.evaluate("performance.getEntries().map((entry) => [entry.name, entry.transferSize ?? 0])")
        sizes = {name: size for name, size in entries if size and not name.endswith("/overview")}
        page.context.close()
    return paints, sizes


def clicks_to_price(chromium: Browser, address: str) -> list[float]:
    """Return seconds from a click on the map to its price on the screen."""
    page = _open(chromium, address)
    page.evaluate(WATCH)
    box = page.locator("#map").bounding_box()
    assert box
    choose = random.Random(0)
    for number in range(1, CLICKS + 1):
        x = box["x"] + box["width"] * choose.uniform(0.1, 0.9)
        y = box["y"] + box["height"] * choose.uniform(0.1, 0.9)
        page.mouse.click(x if x < box["x"] + box["width"] - 60 else x - 60, y)
        while page.evaluate("window.clicks.length") < number:
            page.wait_for_timeout(5)
    times: list[float] = page.evaluate("window.clicks")
    page.context.close()
    return [milliseconds / 1000 for milliseconds in times]


def _open(chromium: Browser, address: str) -> Page:
    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address, wait_until="networkidle")
    expect(page.locator("#pulse")).to_have_attribute("data-state", "up", timeout=60_000)
    return page


def main() -> None:
    """Print the figures."""
    address = f"http://localhost:{load_settings().api_port}/"
    with browser() as chromium:
        paints, sizes = first_paints(chromium, address)
        clicks = clicks_to_price(chromium, address)
    high = statistics.quantiles(clicks, n=20)[-1]
    sys.stdout.write(
        f"loaded: {sum(sizes.values()) / 1000:.1f} kB in {len(sizes)} answers\n"
        f"first paint, cold cache, {VISITS} visits: median {1000 * statistics.median(paints):.0f} ms, "
        f"slowest {1000 * max(paints):.0f} ms\n"
        f"click to price, {CLICKS} clicks: median {1000 * statistics.median(clicks):.0f} ms, "
        f"95th percentile {1000 * high:.0f} ms\n"
    )


if __name__ == "__main__":
    main()
