"""Identifiers that are unique and sort by the time they were made."""

from __future__ import annotations

import os
import time

_VARIANT = "89ab"


def new_id() -> str:
    """Return a UUID of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits.

    New rows then go to the end of the prediction log's index. The standard library has it from Python 3.14 on.
    """
    return new_ids(1)[0]


def new_ids(number: int) -> list[str]:
    """Return as many ids as asked for, all of the same millisecond."""
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    head = f"{milliseconds[:8]}-{milliseconds[8:]}-7"
    digits = os.urandom(10 * number).hex()  # nobody can guess the id of another's prediction
    return [
        f"{head}{digits[at : at + 3]}-{_VARIANT[int(digits[at + 3], 16) % 4]}{digits[at + 4 : at + 7]}"
        f"-{digits[at + 7 : at + 19]}"
        for at in range(0, 20 * number, 20)
    ]
