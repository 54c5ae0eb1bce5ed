"""Identifiers that are unique and sort by the time they were made."""

from __future__ import annotations

import random
import time

_random = random.SystemRandom()
_generator = random.Random(_random.getrandbits(256))  # noqa: S311 - unique is needed, not secret


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits.

    New rows then land at the end of the prediction log's index. The standard library has it from Python 3.14 on.
    """
    stamp = f"{time.time_ns() // 1_000_000:012x}"
    tail = _generator.getrandbits(74)
    node = f"{tail & 0xFFFF_FFFF_FFFF:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7{tail >> 62:03x}-{0x8000 | tail >> 48 & 0x3FFF:04x}-{node}"
