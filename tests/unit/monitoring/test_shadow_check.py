"""With which priority a shadow check does what."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Executor

import pytest

from monitoring import shadow_check, shadow_scoring
from tableloop.settings import Settings


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_version_has_a_low_priority_and_what_writes_to_the_store_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}

    def look(_: Settings, writer: Executor) -> int:
        found["version"], found["writer"] = priority(), writer.submit(priority).result()
        return 0

    monkeypatch.setattr(shadow_scoring, "look", look)
    before = priority()
    thread = threading.Thread(target=shadow_check.main)  # this one keeps its own
    thread.start()
    thread.join()
    assert found == {"version": min(before + shadow_check.NICE, 19), "writer": before}
