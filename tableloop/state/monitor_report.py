"""What is known of drift at this moment: the newest report in the store, and whether the monitor goes on looking.

The monitor's loop imports this, so it does without SQLAlchemy: the store is handed in.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tableloop.state.layout import Layout
from tableloop.state.locks import retraining_lock_holder

if TYPE_CHECKING:
    from tableloop.state.database import Store


def beat(layout: Layout, problem: str | None = None) -> None:
    """Leave word that the monitor has looked just now, and what kept it from a check, if anything did."""
    content = {"looked_at": datetime.now(UTC).isoformat(timespec="seconds"), "problem": problem}
    layout.heartbeat.parent.mkdir(parents=True, exist_ok=True)
    new = layout.heartbeat.with_suffix(".new")
    new.write_text(json.dumps(content) + "\n")
    new.replace(layout.heartbeat)


def current_report(store: Store, layout: Layout) -> dict[str, Any] | None:
    """Return the newest report, with when the monitor last looked and whether a retraining of its own runs.

    None before the first check; of a check that failed only its status, and what was decided before.

    Raises
    ------
    StoreError
    """
    report = store.drift_report()
    heartbeat = _heartbeat(layout)
    if problem := heartbeat.get("problem"):
        before = report["monitor"] if report else {}
        report = {"status": "check failed", "summary": problem, "checked_at": heartbeat["looked_at"]}
        report["monitor"] = before | {"says": f"nothing to do: {problem}"}
    if report is None:
        return None
    newest = next(iter(store.retrainings(1)), None)
    running = newest is not None and newest.ended_at is None and newest.trigger in {"drift", "schedule"}
    report["monitor"]["retraining"] = running and bool(
        retraining_lock_holder(layout, database_url=store.database_url)
    )
    if "looked_at" in heartbeat:
        report["monitor"]["looked_at"] = heartbeat["looked_at"]
    return report


def _heartbeat(layout: Layout) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(layout.heartbeat.read_bytes())
    except (OSError, ValueError):
        return {}
    return content
