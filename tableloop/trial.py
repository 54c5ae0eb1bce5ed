"""Load a version's compiled scorer in a process of its own, before a service loads it into its own.

Its files are those that were signed, and still a damaged library, an odd processor or a scorer that was trusted by
hand could abort, hang or eat memory. Here that ends a process that nobody misses.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from tableloop.model.worker import limit

SECONDS: Final = 60.0
MEMORY_BYTES: Final = 2 << 30


class TrialError(ValueError):
    """The scorer did not load within its limits; the message is one sentence without its subject."""


def try_scorer(directory: Path, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> None:
    """Return when the scorer in ``directory`` loads, and answers its example, in another process.

    Raises
    ------
    TrialError
        It does not, within the seconds and the bytes of memory.
    """
    command = [sys.executable, "-m", __name__, str(directory), str(memory_bytes), str(int(seconds) + 1)]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise TrialError(f"its compiled scorer did not load within {seconds:g} s") from None
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["no message"]
        how = f"was ended by signal {-ended.returncode}" if ended.returncode < 0 else "failed"
        raise TrialError(f"the trial of its compiled scorer {how}: {lines[-1][:300]}")


def main() -> None:
    """Load the scorer that the first argument names; the others are the limits.

    One that is found to be broken does no harm: whoever loads it next finds the same.
    """
    directory, memory_bytes, seconds = sys.argv[1:]
    limit(int(memory_bytes), int(seconds))
    from tableloop.model.onnx_scorer import BrokenScorerError, Scorer  # noqa: PLC0415 - after the limits

    with contextlib.suppress(BrokenScorerError):
        Scorer.load(Path(directory))


if __name__ == "__main__":
    main()
