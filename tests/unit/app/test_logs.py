"""The lines of the log file, and the identifiers in them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from app import logs
from app.identifiers import new_id
from tableloop.log_text import LONGEST_LINE


@pytest.fixture
def log_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    before = logging.root.handlers[:], logging.root.level
    path = tmp_path / "logs" / "app.log"
    logs.configure(path, "INFO")
    yield path
    logger.remove()
    logging.captureWarnings(False)
    logging.root.handlers[:], logging.root.level = before


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_is_json_whatever_the_message(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(log_file, "INFO")  # pytest has closed the console that the fixture saw
    logger.info('a {brace} and a "quote"\nand a second line')
    logging.getLogger("some.library").error("from %s", "elsewhere")
    try:
        int("five")
    except ValueError:
        logger.exception("failed")
    first, second, third = lines(log_file)
    assert first["message"] == 'a {brace} and a "quote"\nand a second line'
    assert (second["level"], second["logger"], second["message"]) == ("ERROR", "some.library", "from elsewhere")
    assert "ValueError: invalid literal" in third["exception"]
    console = capsys.readouterr().err
    assert 'a {brace} and a "quote"' in console
    assert "ValueError: invalid literal" in console


def test_a_message_cannot_forge_lines_and_has_an_end(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(log_file, "INFO")  # pytest has closed the console that the fixture saw

    def fail() -> None:
        raise ValueError("\x1b]0;title\x07" + "y" * 50_000)

    try:
        fail()
    except ValueError:
        logger.exception("family \x1b[31m\n12:00:00 ERROR   forged" + "x" * 50_000)
    console = capsys.readouterr().err
    assert r"family \x1b[31m\n12:00:00 ERROR   forged" in console
    assert r"\x1b]0;title\x07" in console
    assert not set(console) & {"\x1b", "\x07", "\r"}
    assert max(map(len, console.splitlines())) < LONGEST_LINE + 100
    line = log_file.read_text()
    assert line.count("\n") == 1
    assert len(line) < 5 * LONGEST_LINE


def test_a_long_request_line_is_shortened(log_file: Path) -> None:
    request_log = logs.RequestLog(log_file.parent)
    request_log.start()
    request_log.add({"message": "request", "path": "/" + "é" * 60_000, "number": 1})
    request_log.stop()
    (line,) = lines(log_file)
    assert line["path"].endswith(" characters")
    assert len(line["path"]) < LONGEST_LINE + 100


def test_request_lines_go_to_the_file_only(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request_log = logs.RequestLog(log_file.parent)
    request_log.start()
    for number in range(100):
        request_log.add({"message": "request", "path": "/{x}", "number": number})
    request_log.stop()
    assert [line["number"] for line in lines(log_file)] == list(range(100))
    assert capsys.readouterr().err == ""


def test_identifiers_are_unique_and_sort_by_time() -> None:
    ids = [new_id() for _ in range(10_000)]
    assert len(set(ids)) == len(ids)
    time.sleep(0.002)
    assert new_id() > max(ids)


def test_a_log_that_was_removed_is_opened_anew(log_file: Path) -> None:
    logger.info("before")
    log_file.unlink()
    logger.info("after")
    assert [line["message"] for line in lines(log_file)] == ["after"]
