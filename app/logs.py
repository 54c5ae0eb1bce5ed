"""Logging: readable text on the console, JSON lines in `logs/app.log`."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import traceback
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from tableloop.log_text import LONGEST_LINE, printable, shortened

if TYPE_CHECKING:
    from loguru import Record

FLUSH_SECONDS = 0.1
FREE_BYTES = 1_000_000
LONGEST_TRACEBACK = 100  # lines, the last ones
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def configure(log_file: Path, level: str, *, rotates: bool = True) -> None:
    """Send loguru and the standard library's logging to the console and to ``log_file``.

    Of several processes that write to one file, one ``rotates`` it: the others go on in the new one.

    Raises
    ------
    OSError
        The file or its directory cannot be written.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.open("a").close()  # loguru would report a file that cannot be written at every message, not once
    logger.remove()
    plain: dict[str, Any] = {"level": level, "backtrace": False, "diagnose": False}
    logger.add(sys.stderr, format=_console_line, filter=lambda record: "request" not in record["extra"], **plain)
    # watch: a file that somebody has removed or replaced is opened anew
    rotation: dict[str, Any] = {"rotation": "50 MB", "compression": "gz", "retention": 10} if rotates else {}
    logger.add(log_file, format=_json_line, watch=True, **rotation, **plain)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # app.champion reports it when the registry does not answer
    logging.captureWarnings(True)


class RequestLog:
    """Writes one JSON line per request, in a thread, ten times a second.

    Requests should not wait for a file or for the compression of 50 MB at a rotation, and loguru takes a fifth of the
    time of a prediction per message. So lines are collected and written together. A SIGKILL can lose the lines of the
    last tenth of a second, but no prediction: these have their own log. On a full disk lines are dropped and counted.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._dropped = 0
        self._lines: deque[dict[str, Any]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._log = logger.bind(request=True).opt(raw=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, line: dict[str, Any]) -> None:
        """Queue one line; never blocks."""
        self._lines.append(line)

    def stop(self) -> None:
        """Write what is queued and end the thread."""
        self._stop.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = [_encoded(self._lines.popleft()) for _ in range(len(self._lines))]
        if not lines:
            return
        if not self._has_room():
            self._dropped += len(lines)
            return
        if self._dropped:
            logger.warning(f"{self._dropped} request lines were dropped: the disk of {self._directory} was full")
            self._dropped = 0
        # raw: the text goes to the file as it is; braces in it are no format
        self._log.info("\n".join(lines) + "\n")

    def _has_room(self) -> bool:
        try:
            return shutil.disk_usage(self._directory).free >= FREE_BYTES
        except OSError:
            return False


class _ToLoguru(logging.Handler):
    """Hands the records of the standard library's logging (uvicorn, MLflow) to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level: str | int = record.levelname if record.levelname in logging.getLevelNamesMapping() else record.levelno
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def _encoded(line: dict[str, Any]) -> str:
    """Return a line as JSON, which has no control characters; a long one without the ends of its long texts."""
    text = _encode(line)
    if len(text) <= LONGEST_LINE:
        return text
    return _encode({key: shortened(value) if isinstance(value, str) else value for key, value in line.items()})


def _console_line(record: Record) -> str:
    lines = [printable(record["message"]), *map(printable, _traceback(record))]
    record["extra"]["console"] = "\n".join(lines)
    return "{time:HH:mm:ss} {level:<7} {extra[console]}\n"


def _traceback(record: Record) -> list[str]:
    """Return the last lines of the exception of a record; none without an exception."""
    if record["exception"] is None:
        return []
    return "".join(traceback.format_exception(record["exception"].value)).splitlines()[-LONGEST_TRACEBACK:]


def _json_line(record: Record) -> str:
    line = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "logger": record["extra"].get("logger", record["name"]),
        "message": shortened(record["message"]),
        **{key: value for key, value in record["extra"].items() if key not in {"logger", "json", "console"}},
    }
    if lines := _traceback(record):
        line["exception"] = "\n".join(map(shortened, lines))
    record["extra"]["json"] = _encode(line)
    return "{extra[json]}\n"
