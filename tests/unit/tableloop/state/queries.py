"""What the drift monitor and a retraining ask a store, as statements with their values."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tableloop.state.database import Store
from tableloop.state.prediction_rows import NEWEST


def queries_of_drift_and_retraining(store: Store) -> list[tuple[str, Any]]:
    """Ask all of it, and return the statements that read predictions or labels."""
    asked: list[tuple[str, Any]] = []

    @sa.event.listens_for(store._database.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    store.newest_predictions(2000)
    store.count_unused_labels()
    store.newest_labelled(500, "1", among=5000)
    store.labelled_after(100, 2500)
    store.labelled_rows("value")
    store.mark_labels({"unknown": "batch"})
    store.revoked()
    found = [(sql, values) for sql, values in asked if "FROM predictions" in sql or "FROM feedback" in sql]
    assert len(found) == 7
    return [*found, (NEWEST, ())]
