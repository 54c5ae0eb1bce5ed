"""What decides the digits of a training beside its data: the code, the packages and the number of threads.

``python -m pipeline.code_identity`` prints it as the resources that a Dask worker names to its scheduler.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

PACKAGES: Final = ("dask", "distributed", "lightgbm", "numpy", "pandas", "scikit-learn", "scipy")
ROOT: Final = Path(__file__).parents[1]


@cache  # of what this process was started with, whatever becomes of the files
def identity() -> tuple[str, ...]:
    """Return the digest of our code, the versions and the threads of this process, each as ``name-value``."""
    versions = [f"{name}-{version(name)}" for name in PACKAGES]
    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    code = code_digest(ROOT, ("pipeline", "tableloop"))[:16]
    return (f"code-{code}", f"python-{platform.python_version()}", *versions, f"threads-{threads}")


def code_digest(root: Path, names: Iterable[str]) -> str:
    """Return a digest of Python files under ``root``; the name of a folder stands for all of those in it."""
    files = {
        file.relative_to(root).as_posix()
        for name in names
        for file in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))
    }
    content = b"\0".join(name.encode() + b"\0" + (root / name).read_bytes() for name in sorted(files))
    return hashlib.blake2b(content, digest_size=16).hexdigest()


if __name__ == "__main__":
    sys.stdout.write(" ".join(f"{name}=1" for name in identity()) + "\n")
