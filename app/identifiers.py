"""Identifiers that are unique and sort by the time they were made."""

from __future__ import annotations

import random
import time

_random = random.SystemRandom()
_generator = random.Random(_random.getrandbits(256))  # noqa: S311 - unique is needed, not secret

_LAST = (1 << 62) - 1  # the bits behind the variant


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits.

    New rows then land at the end of the prediction log's index. The standard library has it from Python 3.14 on.
    """
    milliseconds = time.time_ns() // 1_000_000
    tail = _generator.getrandbits(74)
    digits = f"{milliseconds << 80 | 7 << 76 | (tail >> 62) << 64 | 2 << 62 | tail & _LAST:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
