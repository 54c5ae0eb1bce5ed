"""A real Chromium: Debian's, Google's or Playwright's own, which is downloaded if none is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Playwright, sync_playwright

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
DEBIAN = ("chromium", "fonts-dejavu-core")
# It asks nobody but the page under test, and draws without a graphics card.
FLAGS = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


class NoChromiumError(Exception):
    """No Chromium is installed or can be downloaded. The message says what to install."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a Chromium and end it."""
    with sync_playwright() as playwright:
        flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        started = playwright.chromium.launch(executable_path=find(playwright), args=flags)
        try:
            yield started
        finally:
            started.close()


def find(playwright: Playwright) -> str:
    """Return the path of a Chromium.

    Raises
    ------
    NoChromiumError
    """
    if found := _installed(playwright):
        return found
    error = _fetch()
    if found := _installed(playwright):
        return found
    raise NoChromiumError(
        f"the browser tests need Chromium (Debian: apt install chromium); fetching it failed: {error}"
    )


def _installed(playwright: Playwright) -> str | None:
    own = playwright.chromium.executable_path
    return next(filter(None, map(shutil.which, (*NAMES, own))), None)


def _fetch() -> str:
    """Install a Chromium: root by Debian's package, others by Playwright's download. Return the last words."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        commands = [["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *DEBIAN]]
    else:
        commands = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr or done.stdout).strip()[-500:]
    return "it is not on PATH"
