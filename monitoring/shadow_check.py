"""One look at what the version in the shadow says: ``python -m monitoring.shadow_check``.

The drift monitor runs it, as a process of its own, with the lowest priority: whatever a version does, nothing that
answers is touched, and it takes little of the time that others want. Only what writes to the store has an ordinary
one: services would wait for one that holds its lock and gets no processor.

Exit codes: 0 done, 1 it cannot be done now, 4 the version has left the shadow.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tableloop.state.errors import StoreError

NICE: Final = 19


def main() -> int:
    """Look once, and return the exit code."""
    with ThreadPoolExecutor(1) as writer:
        writer.submit(int).result()  # the thread is there, and keeps its priority
        os.nice(NICE)  # of this thread alone, in Linux
        from monitoring.shadow_scoring import look  # noqa: PLC0415 - a second of a processor
        from tableloop.settings import load_settings  # noqa: PLC0415 - as above

        try:
            return look(load_settings(), writer)
        except (StoreError, OSError) as error:
            sys.stderr.write(f"the version in the shadow has not scored: {error}\n")
            return 1


if __name__ == "__main__":
    sys.exit(main())
