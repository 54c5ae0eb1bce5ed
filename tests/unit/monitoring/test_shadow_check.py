"""The part of a shadow check that needs no registry."""

from __future__ import annotations

import os
import threading

import pytest

from monitoring.shadow_check import NICE, _at_low_priority


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_version_has_a_low_priority_and_what_writes_to_the_store_does_not() -> None:
    before = priority()
    assert _at_low_priority(priority) == max(before, NICE)
    assert priority() == before


def test_what_goes_wrong_there_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        _at_low_priority(lambda: 1 // 0)
