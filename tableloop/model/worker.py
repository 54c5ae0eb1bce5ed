"""Answer for one version in a process of its own, which `tableloop.model_process` starts with this file's path.

Only the standard library, numpy, skops and the version's own code are imported here. The process limits itself before
it imports anything large, and it ends with its parent. Questions and answers are a JSON line each, followed by raw
float64 values: the rows, then values, lower ends, upper ends and, if the model knows them, kilometres.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import threading
from typing import IO, Any

LARGEST_FILE = 1 << 20  # bytes; nothing but error messages is written


def main() -> None:
    """Load the model that the first argument describes, then answer until stdin ends."""
    order = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process itself
    limit(order["memory_bytes"], order["cpu_seconds"])
    # What the version's code prints must not be taken for an answer: stdout becomes stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = os.fdopen(os.dup(0), "rb")
    threading.Thread(target=_end_with_parent, args=(order["directory"],), daemon=True).start()
    try:
        model = _load(order["model"], order["trusted"])
    except BaseException as error:
        _say(answers, {"error": _brief(error)})
        return
    _say(answers, {"loaded": True})
    while line := questions.readline():
        question = json.loads(line)
        _limit_processor(order["cpu_seconds"])
        content = bytearray(8 * question["rows"] * question["columns"])
        view = memoryview(content)
        while view:
            count = questions.readinto(view)
            if not count:
                return
            view = view[count:]
        _answer(model, content, question, answers)


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Limit this process in memory, processor, and the size of files that it writes."""
    for what, most in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))
    _limit_processor(cpu_seconds)


def _load(file: str, trusted: list[str]) -> Any:
    from skops.io import load  # noqa: PLC0415 - after the limits

    model = load(file, trusted=trusted)
    if not hasattr(model, "predict_interval"):
        kind = type(model).__name__
        raise TypeError(f"it is a {kind}, which gives no intervals: only a ConformalRegressor of this product does")
    return model


def _answer(model: Any, content: bytearray, question: dict[str, int], answers: IO[bytes]) -> None:
    import numpy as np  # noqa: PLC0415 - after the limits

    try:
        rows = np.frombuffer(content).reshape(question["rows"], question["columns"])
        arrays = [*model.predict_interval(rows)]
        kilometres = model.nearest_training_km(rows)
        arrays += [] if kilometres is None else [kilometres]
        blocks = [np.ascontiguousarray(array, dtype=np.float64).tobytes() for array in arrays]
    except BaseException as error:
        _say(answers, {"error": _brief(error)})
        return
    _say(answers, {"bytes": [len(block) for block in blocks]}, *blocks)


def _say(answers: IO[bytes], head: dict[str, Any], *blocks: bytes) -> None:
    answers.write(json.dumps(head).encode() + b"\n" + b"".join(blocks))
    answers.flush()


def _end_with_parent(directory: str) -> None:
    """Wait until nobody can ask any more, then remove the directory of this process and end it.

    Not PR_SET_PDEATHSIG: it would come when the thread that started this process ends, not when the parent does.
    """
    watch = select.poll()
    watch.register(0, 0)  # the end of the pipe is always reported
    watch.poll()
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


def _limit_processor(seconds: int) -> None:
    """Allow so many more seconds of the processor; the kernel ends a process that takes more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    with contextlib.suppress(ValueError):  # a lower limit from outside stays
        soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _brief(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


if __name__ == "__main__":
    main()
