"""The hot path into the store: rows of predictions and their labels, as the service writes them.

Without SQLAlchemy, because the service writes thousands of rows a second: `RowWriter` is what it needs of a database,
`tableloop.state.sqlite_rows` and `tableloop.state.postgres_rows` are the two there are. Everything else that is asked
of the store goes through `tableloop.state.database`.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:  # the drift monitor imports this for ever, and has no need of pydantic
    from tableloop.table import Table, Value

REST: Final = "predictions_rest"  # of partitioned predictions, the partition of every time that has none
TEXTS: Final = ("prediction_id", "request_id", "model_version")  # the columns that are no numbers

# What changes when there is something new: a prediction, a label, an event of what serves, the end of a retraining.
NEWEST: Final = """
SELECT (SELECT max(id) FROM predictions), (SELECT max(id) FROM feedback), (SELECT max(id) FROM serving),
    (SELECT max(ended_at) FROM retrainings)"""

Row = tuple[Any, ...]


class Labelled(NamedTuple):
    """A prediction whose true value is known; ``received_at`` in unix seconds."""

    prediction_id: str
    actual_value: float
    received_at: float
    model_version: str
    prediction: float
    low: float
    high: float


class Sent(NamedTuple):
    """A label as it was sent; ``sure``: its value is stored also when it is unusual."""

    prediction_id: str
    actual_value: float
    sure: bool = False


class Label(NamedTuple):
    """What became of one label: ``labelled`` is what the store holds now, None when it has no such prediction.

    ``unusual``: it was not stored because of its value, and ``labelled`` is as if it had been.
    """

    labelled: Labelled | None
    stored: bool
    unusual: bool = False


class RowWriter(ABC):
    """A connection to the store for one thread at a time. Every method raises `StoreError`."""

    def insert_labels(self, labels: Sequence[Sent], sender: str, table: Table) -> list[Label]:
        """Insert the labels that are the first of a known prediction and not unusual; return what became of each."""
        with self._alone():
            known = {found.prediction_id: found for found in self._known([label.prediction_id for label in labels])}
            labelled_before = {name for name, found in known.items() if not math.isnan(found.actual_value)}
            now = time.time()
            outcomes: list[Label] = []
            for prediction_id, actual_value, sure in labels:
                found = known.get(prediction_id)
                if found is None or prediction_id in labelled_before:
                    outcomes.append(Label(found, stored=False))
                    continue
                new = found._replace(actual_value=actual_value, received_at=now)
                unusual = not sure and table.is_unusual(actual_value, found.low, found.high)
                if not unusual:
                    known[prediction_id] = new
                    labelled_before.add(prediction_id)
                outcomes.append(Label(new, not unusual, unusual))
            stored = [outcome.labelled for outcome in outcomes if outcome.stored and outcome.labelled is not None]
            if stored:
                self._add_labels([(*labelled[:3], sender) for labelled in stored])
        return outcomes

    @abstractmethod
    def insert(self, rows: Sequence[Row]) -> None:
        """Insert the rows in one transaction, all or none."""

    @abstractmethod
    def tidy(self, before: float | None) -> bool:
        """Delete some predictions without a label that were made ``before``; return whether there may be more."""

    @abstractmethod
    def try_to_write(self) -> None:
        """Write nothing new, which fails as a write of rows would."""

    @abstractmethod
    def is_current(self) -> bool:
        """Return whether this still writes to the store; it takes no time worth mentioning."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def _alone(self) -> AbstractContextManager[object]:
        """Return a transaction in which nobody else labels; it is rolled back when something is raised in it."""

    @abstractmethod
    def _known(self, prediction_ids: list[str]) -> list[Labelled]:
        """Return the predictions of these ids that there are; without a label, its value and time are NaN."""

    @abstractmethod
    def _add_labels(self, labels: Sequence[tuple[str, float, float, str]]) -> None: ...


def row(  # noqa: PLR0917 - by position, as names would cost as much again
    prediction_id: str,
    request_id: str,
    requested_at: float,
    model_version: str,
    features: Sequence[Value],
    value: float,
    low: float,
    high: float,
) -> Row:
    """Return a row for `RowWriter.insert`; ``features`` in the order of the contract."""
    return (prediction_id, request_id, requested_at, model_version, *features, value, low, high)


def columns(feature_names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a `row`."""
    return (
        *("prediction_id", "request_id", "requested_at", "model_version"),
        *feature_names,
        *("prediction", "low", "high"),
    )


def quoted(names: Sequence[str]) -> str:
    """Return the names of columns for a statement."""
    return ", ".join(f'"{name}"' for name in names)
