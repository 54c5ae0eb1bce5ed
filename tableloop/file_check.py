"""Check a Parquet file in a process of its own, with a limit of memory, before a service reads it.

Two kilobytes of Parquet can hold a billion bytes: values are said once and repeated by reference, and pages are
compressed. What a reader will need cannot be told from the file's own words, so it is tried where nobody is hurt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import Any, BinaryIO, Final

from tableloop.files import Kind, Problem, TableError, check_table
from tableloop.model.worker import limit
from tableloop.table import load_table

MEMORY_BYTES: Final = 300 << 20  # of which the interpreter and Arrow take 100
CPU_SECONDS: Final = 300


def check_parquet(file: BinaryIO, kind_out: Kind) -> int:
    """Return how many rows a Parquet file has; all are valid for ``kind_out``, and reading them takes little memory.

    Raises
    ------
    TableError
        Some are not, there are none, or it takes too much.
    """
    file.seek(0)
    command = [sys.executable, "-m", __name__, str(MEMORY_BYTES), str(CPU_SECONDS), kind_out]
    # Arrow's usual allocator reserves more than the limit before it needs anything.
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"}
    ended = subprocess.run(command, stdin=file, capture_output=True, env=environment, check=False)
    file.seek(0)
    try:
        answer: dict[str, Any] = json.loads(ended.stdout)
    except ValueError:
        raise TableError.of(
            f"reading its rows takes more than {MEMORY_BYTES >> 20} MB of memory or {CPU_SECONDS} s: write it with "
            "shorter values and smaller row groups, or send it in parts"
        ) from None
    if problems := answer["problems"]:
        raise TableError([Problem(**problem) for problem in problems], answer["unlisted"])
    return int(answer["rows"])


def main() -> None:
    """Check the file that is stdin, and write what was found to stdout."""
    memory_bytes, cpu_seconds = map(int, sys.argv[1:3])
    kind_out: Kind = "csv" if sys.argv[3] == "csv" else "parquet"
    limit(memory_bytes, cpu_seconds)
    answer: dict[str, Any] = {"rows": 0, "problems": [], "unlisted": 0}
    try:
        answer["rows"] = check_table(sys.stdin.buffer, "parquet", load_table(), kind_out)
    except TableError as error:
        answer |= {"problems": [asdict(problem) for problem in error.problems], "unlisted": error.unlisted}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
