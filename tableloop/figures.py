"""Figures in sentences, of any size; only the standard library."""

from __future__ import annotations

LARGE = 10_000  # from here on there are no decimals


def figure(value: float | str | None) -> str:
    """Return a number with four digits or, if it is large, all before the point; a text as it is, None as a dash."""
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.0f}" if abs(value) >= LARGE else f"{value:.4g}"


def error_figure(value: float, decimals: int = 3) -> str:
    """Return an error in the unit of the target: with so many decimals where that is about four digits."""
    return f"{value:.{decimals}f}" if 0.1 <= value < LARGE / 10 else figure(value)
