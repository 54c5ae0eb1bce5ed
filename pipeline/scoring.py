"""The work of scoring as an order for one file: whoever has it, in this process or on another machine, can do it.

An order is done once: when its output is there, by the same version and of the same content, nothing is written.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final, Literal

from threadpoolctl import threadpool_limits

from pipeline.file_places import Content, Place
from pipeline.score_file import kind_of, score_file
from pipeline.scored_version import Predict, ScoredVersion, load_predict
from tableloop.table import Table

PREFIX: Final = "tableloop."  # of what the footer of an output says
_loaded: dict[ScoredVersion, Predict] = {}  # the last one
_loading = threading.Lock()


@dataclass(frozen=True)
class Order:
    """One file to score: the file ``name`` in ``source`` into the file ``output`` in ``target``."""

    source: Place
    name: str
    target: Place
    output: str
    version: ScoredVersion
    table: Table
    code: str  # the commit


@dataclass(frozen=True)
class Outcome:
    """What became of an order, and for one that failed why."""

    state: Literal["scored", "kept", "failed"]
    rows: int = 0
    reason: str = ""


def carry_out(
    order: Order, archive: bytes, on_progress: Callable[[int, int], object] = lambda done, rows: None
) -> Outcome:
    """Score a file, if need be; ``archive`` are the files of the version, which a process loads once."""
    _end_with_caller()
    try:
        content = order.source.content(order.name)
        if rows := _complete(order, content):
            return Outcome("kept", rows)
        return Outcome("scored", _score(order, content, _predict(order, archive), on_progress))
    except Exception as error:  # whatever is wrong with one file, the others are scored
        return Outcome("failed", reason=str(error) or type(error).__name__)


def lineage(order: Order, content: Content) -> dict[str, str]:
    """Return what the footer of an output says of where it comes from."""
    facts = {
        **asdict(order.version),
        "source": order.source.address(order.name),
        "source_digest": content.digest,
        "source_bytes": str(content.size),
        "scored_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": order.code,
    }
    return {PREFIX + name: value for name, value in facts.items()}


def _complete(order: Order, content: Content) -> int:
    """Return how many rows the output has, if it is of this content and version; else 0."""
    found = order.target.footer(order.output)
    wanted = {PREFIX + name: value for name, value in asdict(order.version).items()}
    wanted[f"{PREFIX}source_digest"] = content.digest
    return int(found["num_rows"]) if wanted.items() <= found.items() else 0


def _score(order: Order, content: Content, predict: Predict, on_progress: Callable[[int, int], object]) -> int:
    kinds = kind_of(order.name), kind_of(order.output)
    seed = "\n".join([order.version.manifest_sha256, content.digest, order.target.address(order.output)])
    with (
        threadpool_limits(1),  # the workers are as many as the cores
        order.source.reading(order.name) as path,
        order.target.writing(order.output) as new,
        path.open("rb") as source,
        new.open("wb") as sink,
    ):
        rows = score_file(
            source, sink, kinds, order.table, predict, version=order.version.version,
            seed=seed, facts=lineage(order, content), on_progress=on_progress,
        )  # fmt: skip
        sink.flush()
        os.fsync(sink.fileno())  # before it has its name
        if order.source.stamp(order.name) != content.stamp:
            raise OSError("it was changed while it was read: score it again")
    return rows


@cache
def _end_with_caller() -> None:
    """Have this process end when the one that started it is killed: a pool's own processes would wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _predict(order: Order, archive: bytes) -> Predict:
    """Return what predicts by the version of an order."""
    with _loading:
        if order.version not in _loaded:
            _loaded.clear()
            _loaded[order.version] = load_predict(archive, order.table)
        return _loaded[order.version]
