"""The files of a state from before there was a store: each is taken in once, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tableloop.state import former_files
from tableloop.state.database import Store
from tableloop.state.former_files import take_in
from tableloop.state.layout import Layout

STARTED, ENDED = "2026-01-01T00:00:00+00:00", "2026-01-01T00:01:00+00:00"
LINE = {"started_at": STARTED, "ended_at": ENDED, "trigger": "start", "cause": "", "outcome": "promoted"}
LATER = {"started_at": "2026-01-02T00:00:00+00:00", "ended_at": "2026-01-02T00:01:00+00:00", "trigger": "drift"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a state as commit 6471210 left it."""
    lines = [LINE | {"version": "1", "reason": "first"}, LATER | {"cause": "drift", "outcome": "failed"}]
    (tmp_path / "retrains.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"torn')
    (tmp_path / "drift").mkdir()
    report = {"status": "drift", "summary": "MedInc up", "monitor": {"says": "waits"}}
    (tmp_path / "drift" / "report.json").write_text(json.dumps(report))
    (tmp_path / "drift" / "state.json").write_text('{"version": "1", "windows": 2}')
    (tmp_path / "champion").mkdir()
    (tmp_path / "champion" / "current.json").write_text('{"version": "1", "directory": "v1", "run_id": "r"}')
    return Layout(tmp_path)


def check(layout: Layout, store: Store) -> None:
    """Everything is in the store once, and only the service's own file is still in its place."""
    later, first = store.retrainings(10)
    assert (first.started_at, first.ended_at) == (1767225600.0, 1767225660.0)
    assert (first.outcome, first.version, first.reason, first.by) == ("promoted", "1", "first", "the first start")
    assert (later.trigger, later.cause, later.outcome, later.version) == ("drift", "drift", "failed", None)
    assert (store.drift_report() or {})["summary"] == "MedInc up"
    assert store.monitor_memory() == {"version": "1", "windows": 2}
    (serves,) = store.serving_history("Model", 10)
    assert (serves.version, serves.run_id, serves.event) == ("1", "r", "serves")
    left = sorted(path.relative_to(layout.root).as_posix() for path in layout.root.rglob("*.json*"))
    assert left == [
        "champion/current.json",
        *(f"{name}.before-the-store" for name in ("drift/report.json", "drift/state.json", "retrains.jsonl")),
    ]


def test_what_was_kept_in_files_is_in_the_store_once(layout: Layout, place: Path | str) -> None:
    store = Store(place)
    for _ in range(2):
        take_in(layout, store, "Model")
        check(layout, store)


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_killed_before_a_file_is_moved_aside_nothing_is_doubled(
    layout: Layout, place: Path | str, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    store = Store(place)
    moved: list[Path] = []
    move = former_files._move_aside

    def killed(file: Path) -> None:
        if len(moved) == moves:
            raise KeyboardInterrupt
        moved.append(file)
        move(file)

    with monkeypatch.context() as patch:
        patch.setattr(former_files, "_move_aside", killed)
        with pytest.raises(KeyboardInterrupt):
            take_in(layout, store, "Model")
    take_in(layout, store, "Model")
    check(layout, store)


def test_a_state_without_such_files_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path / "predictions.db")
    take_in(Layout(tmp_path), store, "Model")
    assert store.retrainings(1) == []
    assert not store.exists()
