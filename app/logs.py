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

if TYPE_CHECKING:
    from loguru import Record

FLUSH_SECONDS = 0.1
FREE_BYTES = 1_000_000
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def configure(log_file: Path, level: str) -> None:
    """Send loguru and the standard library's logging to the console and to ``log_file``.

    Raises
    ------
    OSError
        The file or its directory cannot be written.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a"):
        pass  # otherwise loguru would report it at every message instead of once at the start
    logger.remove()
    logger.add(sys.stderr, level=level, format=_console_line, filter=_is_for_people, backtrace=False, diagnose=False)
    logger.add(
        log_file,
        level=level,
        format=_json_line,
        rotation="50 MB",
        compression="gz",
        retention=10,
        backtrace=False,
        diagnose=False,
    )
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
        lines = [_encode(self._lines.popleft()) for _ in range(len(self._lines))]
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


def _is_for_people(record: Record) -> bool:
    return "request" not in record["extra"]


def _console_line(record: Record) -> str:
    return "{time:HH:mm:ss} {level:<7} {message}\n{exception}"


def _json_line(record: Record) -> str:
    line = {
        "time": record["time"].isoformat(),
        "level": record["level"].name,
        "logger": record["extra"].get("logger", record["name"]),
        "message": record["message"],
        **{key: value for key, value in record["extra"].items() if key not in {"logger", "json"}},
    }
    if record["exception"] is not None:
        line["exception"] = "".join(traceback.format_exception(record["exception"].value))
    record["extra"]["json"] = _encode(line)
    return "{extra[json]}\n"
