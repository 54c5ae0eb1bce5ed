"""Text for a log that people read: one line stays one line, cannot command a terminal, and is not endless."""

from __future__ import annotations

import re
from typing import Final

LONGEST_LINE: Final = 4_000  # characters
# Control characters but the tab; separators that some readers take for line ends; marks that turn the order of text.
_UNFIT: Final = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text as one line of at most `LONGEST_LINE` characters, its control characters written as ``\x1b``."""
    return _UNFIT.sub(lambda found: ascii(found[0])[1:-1], shortened(text))


def shortened(text: str) -> str:
    """Return a text without what is beyond `LONGEST_LINE` characters, which are counted."""
    more = len(text) - LONGEST_LINE
    return text if more <= 0 else f"{text[:LONGEST_LINE]}... and {more:,} characters"
