"""Pictures of the pages of the running appliance: ``make screenshots`` writes docs/screenshots/*.png.

With another `TABLE` than the shipped one its name comes before those of the pictures.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tableloop.settings import load_settings
from tableloop.table import SHIPPED
from tests.browser.chromium import browser

DIRECTORY = Path(__file__).parents[2] / "docs" / "screenshots"
SHAPES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
}
PHONE_HEIGHT = 1900  # all of it would be a ribbon


def take(chromium: Browser, address: str, options: dict[str, Any]) -> Image.Image:
    """Return a picture of the whole page after a visitor has asked for a suggested row and sent a file."""
    page = chromium.new_page(**options)
    page.goto(address)
    expect(page.locator("#pulse")).to_have_attribute("data-state", "up", timeout=60_000)
    page.locator("#suggestions button").nth(1).click()  # San Francisco, or what is usual
    expect(page.locator("#curves")).to_be_visible()
    page.get_by_role("button", name="Use an example").click()
    expect(page.locator("#preview")).to_be_visible()
    picture = Image.open(io.BytesIO(_screenshot(page)))
    page.close()
    return _small(picture)


def take_versions(chromium: Browser, address: str) -> Image.Image:
    """Return a picture of the page of versions."""
    page = chromium.new_page(**SHAPES["light"])
    page.goto(f"{address}versions")
    expect(page.locator("#heads th").first).to_contain_text("Version")
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    page.close()
    return _small(picture)


def _small(picture: Image.Image) -> Image.Image:
    # a third of the size, and the same to the eye: no colour is off by more than 16 of 255
    return picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)


def _screenshot(page: Page) -> bytes:
    size = page.viewport_size
    assert size
    if size["width"] > 500:
        return page.screenshot(full_page=True)
    return page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": size["width"], "height": PHONE_HEIGHT})


def main() -> None:
    """Take all pictures."""
    settings = load_settings()
    address = f"http://localhost:{settings.api_port}/"
    prefix = "" if settings.table == SHIPPED else f"{settings.table.name}-"
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with browser() as chromium:
        pictures = {name: take(chromium, address, options) for name, options in SHAPES.items()}
        pictures["versions"] = take_versions(chromium, address)
    for name, picture in pictures.items():
        file = DIRECTORY / f"{prefix}{name}.png"
        picture.save(file, optimize=True)
        sys.stdout.write(f"{file}: {file.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
