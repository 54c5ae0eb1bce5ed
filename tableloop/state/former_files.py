"""Take in the files in which retrainings, drift and what serves were kept before there was a store.

Run at every start. Each file is taken in once, in one transaction, and only then moved aside: killed in between, the
next start finds in the store what it has already, and moves the file then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tableloop.state import database
from tableloop.state.database import SERVES, Store
from tableloop.state.layout import Layout
from tableloop.state.local_copy import local_copy

ASIDE = ".before-the-store"  # behind the name of a file that was taken in


def take_in(layout: Layout, store: Store, model: str) -> None:
    """Take in what is there; ``model`` is the registered model that the local copy is of.

    Raises
    ------
    StoreError, OSError
    """
    _take_in_history(layout.root / "retrains.jsonl", store)
    _take_in_drift(layout.root / "drift", store)
    _take_in_champion(layout, store, model)


def _take_in_history(file: Path, store: Store) -> None:
    if not file.exists():
        return
    table = database.retrainings
    with store.writing() as connection:
        known = {(row[0], row[1]) for row in connection.execute(sa.select(table.c.started_at, table.c.ended_at))}
        for line in _objects(file.read_bytes().splitlines()):
            started_at, ended_at = _seconds(line.get("started_at")), _seconds(line.get("ended_at"))
            if (started_at, ended_at) in known or "outcome" not in line:
                continue
            trigger = str(line.get("trigger", "user"))
            values = {name: line.get(name) for name in ("outcome", "version", "reason")}
            values |= {"trigger": trigger, "cause": line.get("cause", ""), "by": database.BEGAN_BY.get(trigger, "")}
            connection.execute(table.insert().values(started_at=started_at, ended_at=ended_at, seconds={}, **values))
    _move_aside(file)


def _take_in_drift(directory: Path, store: Store) -> None:
    report, memory = directory / "report.json", directory / "state.json"
    if not directory.exists():
        return
    kept = [next(_objects([file.read_bytes()]), {}) if file.exists() else {} for file in (report, memory)]
    if "monitor" in kept[0] and store.drift_report() is None:
        store.add_drift_report(*kept)
    for file in (report, memory):
        if file.exists():
            _move_aside(file)


def _take_in_champion(layout: Layout, store: Store, model: str) -> None:
    """Note what serves; the pointer itself stays, because the service starts from it."""
    with suppress(ValueError):  # of a broken one the service says what is wrong
        copy = local_copy(layout)
        if copy is not None and not store.serving_history(model, 1):
            store.record_serving(model, copy.version, copy.run_id, SERVES, "before the store")


def _objects(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects among the lines; one that was torn by a kill is none."""
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _seconds(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0


def _move_aside(file: Path) -> None:
    file.replace(file.with_name(f"{file.name}{ASIDE}"))
