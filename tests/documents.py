"""The documents of the repository, their code blocks, and how printed output is compared with what they show.

A block of commands (bash, python, javascript, or a diff to apply) is run by a test as it stands, or has a comment
directly above it that says why not: ``<!-- not run: why -->``. A block of text or JSON behind one shows what it
prints. In text every number stands for any number and ``…`` for anything; in JSON numbers are compared, ids and times
are not, and ``"…"`` stands for more of the same, as a key or as an element.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# In this order they are run: what the last one does changes the code.
DOCUMENTS = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "data/README.md",
    ROOT / "tables/README.md",
    ROOT / "bench/README.md",
    ROOT / "CONTRIBUTING.md",
]
RUN = ("bash", "python", "javascript", "diff")
SHOWN = ("text", "json")
NUMBERS_AGREE = 0.05  # relatively: another machine, another BLAS, another last digit

_BLOCK = re.compile(r"(<!-- not run: ([^>]+) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What differs from run to run, with the pattern of what may stand there instead.
_VARIABLE = {
    r"\d+ (?:s\b|m \d+ s|h \d+ m|d \d+ h)": r"\d+ [dhms](?: \d+ [hms])?",  # a duration
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|\b[0-9a-f]{32,64}\b": r"\S+",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(?:\+00:00|Z)": r"\S+",
    r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?": r"(?:-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|nan)",
    "…": r"[^\n]*",
    r"\s+": r"\s+",
}
_PARTS = re.compile("|".join(f"({pattern})" for pattern in _VARIABLE))


@dataclass(frozen=True)
class Block:
    """A fenced block, with the reason if it is not run, and its output if the document shows it."""

    document: Path
    line: int
    language: str
    text: str
    not_run: str | None
    prints: Block | None = None

    @property
    def name(self) -> str:
        return f"{self.document.name}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """Return the blocks of a document. The output of a block is part of that block."""
    text = document.read_text()
    found: list[Block] = []
    end = -1
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(3)) + 1
        block = Block(document, line, match[3], match[4], match[2] and match[2].strip())
        follows = not text[end : match.start()].strip() if end >= 0 else False
        if block.language in SHOWN and follows and found and found[-1].language in RUN and found[-1].prints is None:
            block = Block(**(vars(found.pop()) | {"prints": block}))
        found.append(block)
        end = match.end()
    return found


def assert_prints(shown: Block, printed: str) -> None:
    """Compare what a document shows with what a command has printed."""
    if shown.language == "json":
        problem = difference(json.loads(shown.text), json.loads(printed))
        assert problem is None, f"{shown.name}: {problem}; printed was {printed}"
        return
    pattern = "".join(_line_pattern(line) for line in shown.text.splitlines())
    same = re.fullmatch(pattern, printed.rstrip("\n") + "\n", re.DOTALL)
    assert same, f"{shown.name} shows another text: {printed}"


def difference(shown: Any, printed: Any, where: str = "") -> str | None:
    """Return the place where two JSON values differ, or None when they agree."""
    if isinstance(shown, dict) and isinstance(printed, dict):
        wanted = shown.keys() - {"…"}
        if wanted - printed.keys() or ("…" not in shown and printed.keys() - wanted):
            return f"{where or 'it'} has the names {sorted(printed)}, not {sorted(shown)}"
        return next(
            (found for key in wanted if (found := difference(shown[key], printed[key], f"{where}.{key}"))), None
        )
    if isinstance(shown, list) and isinstance(printed, list):
        more = shown[-1:] == ["…"]
        wanted_items = shown[:-1] if more else shown
        if len(printed) < len(wanted_items) or (len(printed) > len(wanted_items) and not more):
            return f"{where} has {len(printed)} elements"
        wrong = (difference(item, printed[i], f"{where}[{i}]") for i, item in enumerate(wanted_items))
        return next(filter(None, wrong), None)
    if isinstance(shown, str) and isinstance(printed, str):
        same = bool(re.fullmatch(_line_pattern(shown).removesuffix("\\n"), printed, re.DOTALL))
    elif isinstance(shown, bool) or not isinstance(shown, int | float) or not isinstance(printed, int | float):
        same = shown == printed and type(shown) is type(printed)
    else:
        same = math.isclose(shown, printed, rel_tol=NUMBERS_AGREE, abs_tol=1e-9)
    return None if same else f"{where} is {printed!r}, not {shown!r}"


def _line_pattern(line: str) -> str:
    """Return a pattern for a line. Parts that differ from run to run match any text of the same kind."""
    if line.strip() == "…":
        return r"(?:[^\n]*\n)*?"
    pattern, end = "", 0
    for found in _PARTS.finditer(text := line.strip()):
        assert found.lastindex is not None
        pattern += re.escape(text[end : found.start()]) + list(_VARIABLE.values())[found.lastindex - 1]
        end = found.end()
    return rf"[ \t]*{pattern}{re.escape(text[end:])}[ \t]*\n"
