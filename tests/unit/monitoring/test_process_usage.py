from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from monitoring.process_usage import usage


def test_a_program_counts_with_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()  # both run now
        used = usage({"it": program.pid, "self": os.getpgrp()})
        alone = usage({"it": program.pid + 1_000_000_000})
        program.communicate("\n")
    assert set(used) == {"it", "self"}
    assert used["it"]["memory_bytes"] > 2 * 5_000_000
    assert 0 <= used["it"]["uptime_seconds"] < 60
    assert used["self"]["cpu_seconds"] > 0
    assert alone == {}
    assert usage({"it": program.pid}) == {}


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    assert usage({"self": os.getpgrp()}, tmp_path) == {}
