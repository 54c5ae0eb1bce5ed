"""The store: what the processes tell each other about predictions, labels, drift, retrainings and what serves.

`Store` is the way to all of it but the hot inserts of the service, which are in `tableloop.state.prediction_rows`.
A SQLite file in WAL mode. Whoever opens a file that is missing, or older than this code, brings it up to date first.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool, StaticPool

from tableloop.state.prediction_rows import ROWS_PER_STATEMENT, TEXTS, Labelled, columns
from tableloop.table import load_table

VERSION: Final = 1  # of the schema; the one without a number is that of the prediction log before there was a store
KEPT_REPORTS: Final = 10
KILLED: Final = "it was killed before it could say how it ended"
BEGAN_BY: Final = {"start": "the first start", "drift": "the drift monitor"}  # by trigger; a user has a name
PROMOTED, ROLLED_BACK, SERVES, REFUSED = "promoted", "rolled back", "serves", "refused"

_FIXED: Final = {"id", *columns(())}  # columns of predictions in every table
_COMMON = sa.MetaData()
_version = sa.Table("schema_version", _COMMON, sa.Column("version", sa.Integer, nullable=False))
_labels = sa.Table(
    "feedback",
    _COMMON,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("prediction_id", sa.Text, nullable=False, unique=True),
    sa.Column("actual_value", sa.Float, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("batch", sa.Text),
)
sa.Index("feedback_waiting", _labels.c.id, sqlite_where=_labels.c.batch.is_(None))
_reports = sa.Table(
    "drift_reports",
    _COMMON,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
)
_memory = sa.Table(
    "monitor_memory",
    _COMMON,
    sa.Column("id", sa.Integer, primary_key=True),  # 1: there is one row
    sa.Column("memory", sa.JSON, nullable=False),
)
retrainings = sa.Table(
    "retrainings",
    _COMMON,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("version", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("seconds", sa.JSON, nullable=False),
)
_serving = sa.Table(
    "serving",
    _COMMON,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)


class StoreError(Exception):
    """The store cannot be read or written; the message is the database's own."""


class Predicted(NamedTuple):
    """A prediction in the store, with its features in the order of the contract; time in unix seconds."""

    id: int
    requested_at: float
    model_version: str
    prediction: float
    features: Sequence[float]


class Serving(NamedTuple):
    """Something that happened to what serves. ``event`` is a constant of this module, ``at`` in unix seconds."""

    id: int
    at: float
    model: str
    version: str
    run_id: str
    event: str
    detail: str


class Retraining(NamedTuple):
    """One retraining; times in unix seconds. One that runs, or was killed, has no end, outcome and reason.

    ``trigger`` is "start", "user" or "drift", ``cause`` why it began, ``by`` who began it. ``outcome`` is "promoted",
    "rejected", "unchanged" or "failed", ``reason`` why; ``version`` is None after a failure. ``seconds`` by stage.
    """

    id: int
    started_at: float
    ended_at: float | None
    trigger: str
    cause: str
    by: str
    outcome: str | None
    version: str | None
    reason: str | None
    seconds: dict[str, float]


class Store:
    """The store in the SQLite file ``path``.

    A file that is missing is read as an empty store and made by the first write. ``timeout``: seconds to wait for
    somebody else's write to end. Every method raises `StoreError`.
    """

    def __init__(self, path: Path, feature_names: Sequence[str] | None = None, *, timeout: float = 30.0) -> None:
        self.path = path.absolute()
        self._names = feature_names
        self._timeout = timeout
        self._ready = 0  # inode of the file that is known to be up to date
        self._engine = sa.create_engine("sqlite://", creator=self._open, poolclass=NullPool)
        sa.event.listen(self._engine, "begin", _begin)

    @property
    def feature_names(self) -> Sequence[str]:
        """The columns of a prediction that are features of the table."""
        return self._names if self._names is not None else load_table().feature_names

    def prepare(self) -> None:
        """Make the file, or bring it up to date; killed meanwhile, it is as it was before."""
        with _as_store_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._is_ready():
                return
            with self._engine.execution_options(write=True).begin() as connection:
                _migrate(connection, self.feature_names)
            self._ready = self.path.stat().st_ino

    # -- predictions and labels -----------------------------------------------------------------------------------

    def newest_predictions(self, limit: int) -> list[Predicted]:
        """Return the newest predictions whose features are all known, the newest first."""
        table = self._predictions
        fixed = (table.c.id, table.c.requested_at, table.c.model_version, table.c.prediction)
        query = sa.select(*fixed, *self._features).order_by(table.c.id.desc()).limit(limit)
        with self.reading() as connection:
            rows = connection.execute(query).fetchall()
        return [
            Predicted(number, at, version, value, row) for number, at, version, value, *row in rows if None not in row
        ]

    def count_predictions(self) -> int:
        """Return how many predictions there are."""
        return self._count(sa.select(sa.func.count()).select_from(self._predictions))

    def newest_labelled(self, limit: int, version: str | None = None, *, among: int | None = None) -> list[Labelled]:
        """Return the predictions that were labelled last, the newest first: of one version, among so many labels."""
        newest = sa.select(_labels).order_by(_labels.c.id.desc()).limit(among or limit).subquery()
        made, label = self._predictions.c, newest.c
        query = (
            sa.select(
                *(label.prediction_id, label.actual_value, label.received_at),
                *(made.model_version, made.prediction, made.low, made.high),
            )
            .join_from(newest, self._predictions, label.prediction_id == made.prediction_id)
            .order_by(label.id.desc())
            .limit(limit)
        )
        if version is not None:
            query = query.where(made.model_version == version)
        with self.reading() as connection:
            return [Labelled(*row) for row in connection.execute(query)]

    def count_unused_labels(self) -> int:
        """Return how many labels no batch holds yet."""
        return self._count(sa.select(sa.func.count()).select_from(_labels).where(_labels.c.batch.is_(None)))

    def labelled_rows(self, target: str) -> list[dict[str, Any]]:
        """Return every labelled prediction whose features are all known, the oldest prediction first.

        Each with its features, the true value as ``target``, ``predicted_at``, ``received_at``, ``prediction_id``.
        """
        made = self._predictions.c
        query = (
            sa.select(
                *self._features,
                _labels.c.actual_value.label(target),
                made.requested_at.label("predicted_at"),
                _labels.c.received_at,
                _labels.c.prediction_id,
            )
            .join_from(_labels, self._predictions, _labels.c.prediction_id == made.prediction_id)
            .where(*(feature.is_not(None) for feature in self._features))
            .order_by(made.requested_at, made.id)
        )
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def mark_labels(self, batches: Mapping[str, str]) -> None:
        """Note the batch of each prediction id, where that is not noted yet."""
        unused = sa.select(_labels.c.prediction_id).where(_labels.c.batch.is_(None))
        mark = (
            _labels.update()
            .where(_labels.c.prediction_id == sa.bindparam("label"))
            .values(batch=sa.bindparam("name"))
        )
        with self.writing() as connection:
            found = [name for name in connection.scalars(unused) if name in batches]
            if found:
                connection.execute(mark, [{"label": label, "name": batches[label]} for label in found])

    # -- drift ------------------------------------------------------------------------------------------------------

    def add_drift_report(self, report: Mapping[str, Any], memory: Mapping[str, Any]) -> None:
        """Keep a report, and what the monitor remembers after it; old reports are removed."""
        with self.writing() as connection:
            number = connection.execute(
                _reports.insert().values(at=time.time(), report=dict(report)).returning(_reports.c.id)
            ).scalar_one()
            connection.execute(_reports.delete().where(_reports.c.id <= number - KEPT_REPORTS))
            connection.execute(_memory.delete())
            connection.execute(_memory.insert().values(id=1, memory=dict(memory)))

    def drift_report(self) -> dict[str, Any] | None:
        """Return the newest report, None while there is none."""
        with self.reading() as connection:
            report: dict[str, Any] | None = connection.scalar(
                sa.select(_reports.c.report).order_by(_reports.c.id.desc()).limit(1)
            )
            return report

    def monitor_memory(self) -> dict[str, Any]:
        """Return what the drift monitor remembers, nothing at first."""
        with self.reading() as connection:
            return dict(connection.scalar(sa.select(_memory.c.memory)) or {})

    # -- what serves --------------------------------------------------------------------------------------------

    def record_serving(self, model: str, version: str, run_id: str, event: str, detail: str = "") -> None:
        """Add an event; that a version serves is not said twice in a row, as several services say it."""
        with self.writing() as connection:
            for newest in _newest_serving(connection, model, 1):
                if event == SERVES and (newest.version, newest.run_id, newest.event) == (version, run_id, SERVES):
                    return
            values = {"model": model, "version": version, "run_id": run_id, "event": event, "detail": detail}
            connection.execute(_serving.insert().values(at=time.time(), **values))

    def serving_champion(self, model: str) -> Serving | None:
        """Return the newest event of the version that serves, or should: one that was not refused since."""
        with self.reading() as connection:
            refused = set()
            for event in _newest_serving(connection, model):
                # The same number may be another version, of another registry.
                if event.event == REFUSED:
                    refused.add((event.version, event.run_id))
                elif (event.version, event.run_id) not in refused:
                    return event
        return None

    def serving_history(self, model: str, limit: int) -> list[Serving]:
        """Return the newest events, the newest first."""
        with self.reading() as connection:
            return _newest_serving(connection, model, limit)

    # -- retrainings --------------------------------------------------------------------------------------------

    def begin_retraining(self, trigger: str, cause: str, by: str) -> int:
        """Note that a retraining begins and return its id; the caller holds the lock of retrainings.

        One that has not said how it ended was killed, because its lock is free: that is noted too.
        """
        now = time.time()
        with self.writing() as connection:
            killed = {"ended_at": now, "outcome": "failed", "reason": KILLED}
            connection.execute(retrainings.update().where(retrainings.c.ended_at.is_(None)).values(killed))
            values = {"trigger": trigger, "cause": cause, "by": by, "seconds": {}}
            adding = retrainings.insert().values(started_at=now, **values).returning(retrainings.c.id)
            return int(connection.execute(adding).scalar_one())

    def end_retraining(
        self, number: int, outcome: str, version: str | None, reason: str, seconds_by_stage: Mapping[str, float]
    ) -> None:
        """Note how a retraining ended, and how long each of its stages took."""
        ended = {"ended_at": time.time(), "outcome": outcome, "version": version, "reason": reason}
        with self.writing() as connection:
            connection.execute(
                retrainings.update().where(retrainings.c.id == number).values(seconds=dict(seconds_by_stage), **ended)
            )

    def retrainings(self, limit: int) -> list[Retraining]:
        """Return the newest retrainings, the newest first, one that runs included."""
        query = sa.select(retrainings).order_by(retrainings.c.id.desc()).limit(limit)
        with self.reading() as connection:
            return [Retraining(*row) for row in connection.execute(query)]

    def retraining_counts(self) -> dict[str, int]:
        """Return how many retrainings have ended with each outcome."""
        outcome = retrainings.c.outcome
        query = sa.select(outcome, sa.func.count()).where(outcome.is_not(None)).group_by(outcome)
        with self.reading() as connection:
            return {str(row[0]): int(row[1]) for row in connection.execute(query)}

    # -- connections --------------------------------------------------------------------------------------------

    def connect(self) -> sqlite3.Connection:
        """Return a connection for the hot inserts of `prediction_rows`, to be used by one thread at a time.

        ``synchronous=NORMAL``: see `app.prediction_writer`.
        """
        self.prepare()
        with _as_store_errors():
            connection = self._open(check_same_thread=False, cached_statements=2 * ROWS_PER_STATEMENT)
            connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that is committed at the end; for the modules of this package."""
        self.prepare()
        with _as_store_errors(), self._engine.execution_options(write=True).begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection that sees the store as of one moment; for the modules of this package."""
        if self.path.exists():
            self.prepare()
            with _as_store_errors(), self._engine.begin() as connection:
                yield connection
            return
        engine = sa.create_engine("sqlite://", poolclass=StaticPool)
        with _as_store_errors(), engine.begin() as connection:
            _migrate(connection, self.feature_names)
            yield connection

    def _open(self, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(
            self.path, timeout=self._timeout, isolation_level=None, **options
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _count(self, query: sa.Select[Any]) -> int:
        with self.reading() as connection:
            return int(connection.scalar(query) or 0)

    @cached_property
    def _predictions(self) -> sa.Table:
        return _predictions(self.feature_names)

    @property
    def _features(self) -> list[sa.Column[Any]]:
        return [self._predictions.c[name] for name in self.feature_names]

    def _is_ready(self) -> bool:
        try:
            return self.path.stat().st_ino == self._ready
        except FileNotFoundError:
            return False


def _predictions(feature_names: Sequence[str]) -> sa.Table:
    """Return the table of predictions; features may be missing, in rows from before the contract had them."""
    return sa.Table(
        "predictions",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        *(
            sa.Column(
                name,
                sa.Text if name in TEXTS else sa.Float,
                nullable=name in feature_names,
                unique=name == "prediction_id",
            )
            for name in columns(feature_names)
        ),
    )


def _migrate(connection: sa.Connection, feature_names: Sequence[str]) -> None:
    """Bring the schema up to `VERSION` and to the features of the contract, in the caller's transaction."""
    inspector = sa.inspect(connection)
    found = connection.scalar(sa.select(_version.c.version)) if inspector.has_table("schema_version") else None
    if found is not None and found > VERSION:
        raise StoreError(f"its schema is version {found}, this code knows {VERSION}: start the newer version again")
    table = _predictions(feature_names)
    if not inspector.has_table("predictions"):
        table.create(connection)
        present = set(feature_names)
    else:
        present = {column["name"] for column in inspector.get_columns("predictions")}
        if found is None:
            _make_nullable(connection, present - _FIXED)
    for name in feature_names:
        if name not in present:
            column = sa.schema.CreateColumn(table.c[name]).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE predictions ADD COLUMN {column}")
    _COMMON.create_all(connection)
    if found is None:
        connection.execute(_version.insert().values(version=VERSION))


def _make_nullable(connection: sa.Connection, feature_names: set[str]) -> None:
    """Rebuild the table of predictions, whose features once had to be given, so that one may leave the contract."""
    connection.exec_driver_sql("ALTER TABLE predictions RENAME TO former_predictions")
    table = _predictions(sorted(feature_names))
    table.create(connection)
    names = list(table.c.keys())
    former = sa.table("former_predictions", *map(sa.column, names))
    connection.execute(table.insert().from_select(names, sa.select(*former.c).order_by(former.c.id)))
    connection.exec_driver_sql("DROP TABLE former_predictions")


def _newest_serving(connection: sa.Connection, model: str, limit: int | None = None) -> list[Serving]:
    query = sa.select(_serving).where(_serving.c.model == model).order_by(_serving.c.id.desc()).limit(limit)
    return [Serving(*row) for row in connection.execute(query)]


def _begin(connection: sa.Connection) -> None:
    """Begin what Python's module for SQLite leaves to us; a writer waits for others here and not at its first row."""
    writes = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _as_store_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(str(getattr(error, "orig", None) or error)) from error
    except (sqlite3.Error, OSError) as error:
        raise StoreError(str(error)) from error
