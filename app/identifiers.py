"""Identifiers that are unique and sort by the time they were made."""

from __future__ import annotations

import os
import random
import time

_VARIANT = "89ab"


def new_id() -> str:
    """Return an id of a request: as those of predictions, but it may be guessed, and costs no system call."""
    return _ids(random.randbytes(10))[0]  # noqa: S311 - which forked processes seed anew


def new_ids(number: int) -> list[str]:
    """Return as many ids of predictions as asked for: nobody can guess that of another's prediction.

    They are UUIDs of version 7 (RFC 9562, section 5.7): 48 bits of milliseconds, then 74 random bits. New rows then
    go to the end of the prediction log's index. The standard library has them from Python 3.14 on.
    """
    return _ids(os.urandom(10 * number))


def _ids(random_bytes: bytes) -> list[str]:
    milliseconds = f"{time.time_ns() // 1_000_000:012x}"
    head = f"{milliseconds[:8]}-{milliseconds[8:]}-7"
    digits = random_bytes.hex()
    return [
        f"{head}{digits[at : at + 3]}-{_VARIANT[int(digits[at + 3], 16) % 4]}{digits[at + 4 : at + 7]}"
        f"-{digits[at + 7 : at + 19]}"
        for at in range(0, len(digits), 20)
    ]
