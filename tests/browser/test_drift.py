"""The drift report as a page: light and dark, wide and on a phone."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser

from monitoring.drift_check import load_policy
from tableloop.drift.report import as_html
from tableloop.drift.statistics import compare, make_reference
from tableloop.table import load_table


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    """Return a report on rows of which the first column has moved."""
    random = np.random.default_rng(0)
    rows, policy = random.normal(3.0, 1.0, (4000, 8)), load_policy()
    reference = make_reference(rows[:3000], rows[:3000].mean(axis=1), 0.4, columns=load_table().feature_names)
    window = rows[3000:] + np.array([1.0, *[0.0] * 7])
    at = "2026-01-01T10:00:00+00:00"
    return compare(reference, window, window.mean(axis=1), policy, load_table()) | {
        "policy": asdict(policy),
        "version": "1",
        "checked_at": at,
        "window": {"rows": 1000, "first_at": at, "last_at": at},
        "live": {"labels": 300, "rmse": 0.6, "test_rmse": 0.4, "worse": True, "inside_interval": 0.7},
        "new_labels": 300,
        "monitor": {"says": "waits"},
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_drift_page_is_accessible_fits_and_asks_nobody(
    chromium: Browser, report: dict[str, object], scheme: str, width: int
) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_content(as_html(report))
    assert page.locator("article").count() == 9
    assert page.locator("article").first.inner_text().startswith("Median income")
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert asked == []
    context.close()
