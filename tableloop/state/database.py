"""The store: what the processes tell each other about predictions, labels, drift, retrainings and what serves.

`Store` is the way to all of it but the hot inserts of the service, which are in `tableloop.state.prediction_rows`.
It lies in a SQLite file or, with DATABASE_URL, in PostgreSQL; `tableloop.state.engines` has what differs. Whoever
finds it missing, or older than this code, brings it up to date first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from tableloop.senders import NO_SENDER
from tableloop.state.engines import as_store_errors, database
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.prediction_rows import REST, TEXTS, Labelled, RowWriter, columns
from tableloop.table import Value, load_table

if TYPE_CHECKING:
    from tableloop.settings import RegistrySettings

VERSION: Final = 2  # of the schema; the one without a number is that of the prediction log before there was a store
KEPT_REPORTS: Final = 10
EXPORTED_AT_ONCE: Final = 10_000
KILLED: Final = "it was killed before it could say how it ended"
# By trigger; a user has a name.
BEGAN_BY: Final = {"start": "the first start", "drift": "the drift monitor", "schedule": "the schedule"}
PROMOTED, ROLLED_BACK, SERVES, REFUSED = "promoted", "rolled back", "serves", "refused"

_FIXED: Final = {"id", *columns(())}  # columns of predictions in every table
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # there, only an integer is the number of a row
COMMON = sa.MetaData()
_version = sa.Table("schema_version", COMMON, sa.Column("version", sa.Integer, nullable=False))
labels = sa.Table(
    "feedback",
    COMMON,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("prediction_id", sa.Text, nullable=False, unique=True),
    sa.Column("actual_value", sa.Float, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("batch", sa.Text),
    sa.Column("sender", sa.Text),  # none: it came before senders were noted
    sa.Column("revocation", sa.Integer),  # the id of the one that takes it out of trainings
)
for _name, _column, _where in (
    ("feedback_waiting", labels.c.id, labels.c.batch.is_(None)),
    ("feedback_revoked", labels.c.revocation, labels.c.revocation.is_not(None)),
):
    sa.Index(_name, _column, sqlite_where=_where, postgresql_where=_where)
_revocations = sa.Table(
    "revocations",
    COMMON,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
_reports = sa.Table(
    "drift_reports",
    COMMON,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("report", sa.JSON, nullable=False),
)
_memory = sa.Table(
    "monitor_memory",
    COMMON,
    sa.Column("id", sa.Integer, primary_key=True),  # 1: there is one row
    sa.Column("memory", sa.JSON, nullable=False),
)
retrainings = sa.Table(
    "retrainings",
    COMMON,
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
    COMMON,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)
# Of `tableloop.state.shadows`.
shadows = sa.Table(
    "shadows",
    COMMON,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("began_at", sa.Float, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("scored_to", sa.BigInteger, nullable=False),
    sa.Column("looks", sa.Integer, nullable=False, default=0),
    sa.Column("looked_at", sa.Integer, nullable=False, default=0),
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.Column("problem", sa.Text, nullable=False, default=""),
    sa.Column("ended_at", sa.Float),
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("first_label", sa.BigInteger, nullable=False),
    sa.Column("scored", sa.BigInteger, nullable=False, default=0),
    sa.Column("last_label", sa.BigInteger),
)
shadow_values = sa.Table(
    "shadow_values",
    COMMON,
    sa.Column("id", _Id, primary_key=True, autoincrement=False),  # that of the prediction
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("low", sa.Float, nullable=False),
    sa.Column("high", sa.Float, nullable=False),
    sa.Column("scored_at", sa.Float, nullable=False, index=True),
)


class Predicted(NamedTuple):
    """A prediction in the store, with its features in the order of the contract; time in unix seconds."""

    id: int
    requested_at: float
    model_version: str
    prediction: float
    features: Sequence[Value]


class Revoked(NamedTuple):
    """What a revocation takes out: how many labels of each sender, and how many of all are in batches already."""

    by_sender: dict[str, int]
    in_batches: int


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

    ``trigger`` is "start", "user", "drift" or "schedule", ``cause`` why it began, ``by`` who began it. ``outcome`` is
    "promoted", "waiting", "rejected", "unchanged" or "failed", ``reason`` why; ``version`` is None after a failure.
    ``seconds`` by stage.
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
    """The store in the SQLite file at a path, or in the PostgreSQL database at an address.

    A store that is missing is read as an empty one and made by the first write. ``timeout``: seconds to wait for
    somebody else's write to end. Every method raises `StoreError`.
    """

    def __init__(
        self, place: Path | str, feature_names: Sequence[str] | None = None, *, timeout: float = 30.0
    ) -> None:
        self._names = feature_names
        self.database_url = place if isinstance(place, str) else ""
        with as_store_errors():
            self._database = database(place, timeout)
        self.place = self._database.place  # in words

    @classmethod
    def of(cls, settings: RegistrySettings, *, timeout: float = 30.0) -> Store:
        """Return the store that the settings name."""
        return cls(settings.database_url.get_secret_value() or Layout(settings.state_dir).database, timeout=timeout)

    @property
    def feature_names(self) -> Sequence[str]:
        """The columns of a prediction that are features of the table."""
        return self._names if self._names is not None else load_table().feature_names

    def exists(self) -> bool:
        """Return whether there is anything to read; looking makes no file."""
        return self._database.exists()

    def check_room(self) -> None:
        """Raise a `StoreError` when there is no room for rows, as far as can be seen from here."""
        with as_store_errors():
            self._database.check_room()

    def remedy(self, error: StoreError) -> str:
        """Return what helps when the store cannot be written."""
        return self._database.remedy(str(error))

    def prepare(self) -> None:
        """Make the store, or bring it up to date; killed meanwhile, it is as it was before."""
        with as_store_errors():
            if self._database.is_ready():
                return
            with self._database.engine.execution_options(write=True).begin() as connection:
                _migrate(connection, self.predictions)
            self._database.set_ready()

    # -- predictions and labels -----------------------------------------------------------------------------------

    def newest_predictions(self, limit: int, *, after: int = 0) -> list[Predicted]:
        """Return the newest predictions with all features that a row must have, the newest first.

        Only those with an id after the one given.
        """
        table = self.predictions
        fixed = (table.c.id, table.c.requested_at, table.c.model_version, table.c.prediction)
        query = sa.select(*fixed, *self._features).where(table.c.id > after).order_by(table.c.id.desc()).limit(limit)
        with self.reading() as connection:
            rows = connection.execute(query).fetchall()
        return [
            Predicted(number, at, version, value, row)
            for number, at, version, value, *row in rows
            if None not in row or not any(row[place] is None for place in self._needed)
        ]

    def prediction(self, prediction_id: str) -> Predicted | None:
        """Return a prediction, whatever features it has; None when there is none of this id."""
        table = self.predictions
        fixed = (table.c.id, table.c.requested_at, table.c.model_version, table.c.prediction)
        query = sa.select(*fixed, *self._features).where(table.c.prediction_id == prediction_id)
        with self.reading() as connection:
            found = connection.execute(query).first()
        if found is None:
            return None
        number, at, version, value, *row = found
        return Predicted(number, at, version, value, row)

    def count_predictions(self) -> int:
        """Return how many predictions there are."""
        return self._count(sa.select(sa.func.count()).select_from(self.predictions))

    def newest_labelled(self, limit: int, version: str | None = None, *, among: int | None = None) -> list[Labelled]:
        """Return at most ``limit`` labelled predictions, those labelled last first.

        Only those of ``version``, and only among the ``among`` newest labels, where these are given.
        """
        query = self._newest_labelled(among or limit).limit(limit)
        if version is not None:
            query = query.where(self.predictions.c.model_version == version)
        with self.reading() as connection:
            return [Labelled(*row[1:]) for row in connection.execute(query)]

    def labelled_after(self, label: int, limit: int) -> tuple[int, list[Labelled]]:
        """Return the newest predictions whose label came after one, at most so many, the last one last; and its id.

        The id is that of the label; of the one given where there are none after it.
        """
        with self.reading() as connection:
            rows = connection.execute(self._newest_labelled(limit, after=label)).all()
        return rows[0].id if rows else label, [Labelled(*row[1:]) for row in reversed(rows)]

    def count_unused_labels(self) -> int:
        """Return how many labels no batch holds yet."""
        unused = labels.c.batch.is_(None) & labels.c.revocation.is_(None)
        return self._count(sa.select(sa.func.count()).select_from(labels).where(unused))

    def labelled_rows(self, target: str) -> list[dict[str, Any]]:
        """Return every labelled prediction with all features that a row must have, the oldest prediction first.

        Each with its features, the true value as ``target``, ``predicted_at``, ``received_at``, ``prediction_id`` and
        ``sender``; without those that were revoked.
        """
        made = self.predictions.c
        query = (
            sa.select(
                *self._features,
                labels.c.actual_value.label(target),
                made.requested_at.label("predicted_at"),
                labels.c.received_at,
                labels.c.prediction_id,
                labels.c.sender,
            )
            .join_from(labels, self.predictions, labels.c.prediction_id == made.prediction_id)
            .where(labels.c.revocation.is_(None))
            .order_by(made.requested_at, made.id)
        )
        with self.reading() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        # Not in the query: with conditions on predictions, SQLite would read all of these and look for their labels.
        needed = [self.feature_names[place] for place in self._needed]
        return [row for row in rows if not any(row[name] is None for name in needed)]

    def predictions_with_labels(self, since: float | None, until: float | None) -> Iterator[list[dict[str, Any]]]:
        """Yield every prediction asked for in ``[since, until)``, the oldest first, in parts, each as of one moment.

        Each with its columns, its features and, if it has a label, `actual_value`, `labelled_at`, `sender`; `revoked`
        is whether that label was taken out of trainings. Times in unix seconds. `shadow_version` was in the shadow
        then, if one was, and would have answered `shadow_prediction` with the interval `shadow_low`, `shadow_high`.
        """
        made, shadow = self.predictions.c, shadow_values.c
        query = (
            sa.select(
                self.predictions,
                *(labels.c.actual_value, labels.c.received_at.label("labelled_at"), labels.c.sender),
                labels.c.revocation.is_not(None).label("revoked"),
                *(shadow.version.label("shadow_version"), shadow.value.label("shadow_prediction")),
                *(shadow.low.label("shadow_low"), shadow.high.label("shadow_high")),
            )
            .join_from(self.predictions, labels, made.prediction_id == labels.c.prediction_id, isouter=True)
            .join(shadow_values, shadow.id == made.id, isouter=True)
            .where(made.id > sa.bindparam("after"))
            .order_by(made.id)
            .limit(EXPORTED_AT_ONCE)
        )
        if since is not None:
            query = query.where(made.requested_at >= since)
        if until is not None:
            query = query.where(made.requested_at < until)
        after = 0
        while True:
            with self.reading() as connection:
                found = connection.execute(query, {"after": after})
                names = list(found.keys())
                # dict() of each mapping takes half as long again.
                rows = [dict(zip(names, row, strict=True)) for row in found]
            if not rows:
                return
            yield rows
            after = rows[-1]["id"]

    def mark_labels(self, batches: Mapping[str, str]) -> None:
        """Note the batch of each prediction id, where that is not noted yet."""
        unused = sa.select(labels.c.prediction_id).where(labels.c.batch.is_(None))
        mark = (
            labels.update().where(labels.c.prediction_id == sa.bindparam("label")).values(batch=sa.bindparam("name"))
        )
        with self.writing() as connection:
            found = [name for name in connection.scalars(unused) if name in batches]
            if found:
                connection.execute(mark, [{"label": label, "name": batches[label]} for label in found])

    def revoke_labels(
        self,
        by: str,
        reason: str,
        *,
        sender: str | None = None,
        since: float | None = None,
        until: float | None = None,
        batch: str | None = None,
        dry_run: bool = False,
    ) -> Revoked:
        """Take the labels that meet all conditions out of later trainings, and return what they were.

        ``since`` and ``until`` are of when they were received, in unix seconds. The labels stay in the store.
        """
        column = labels.c
        conditions: list[sa.ColumnElement[bool]] = [column.revocation.is_(None)]
        if sender is not None:
            conditions.append(column.sender.is_(None) if sender == NO_SENDER else column.sender == sender)
        conditions += [column.received_at >= since] if since is not None else []
        conditions += [column.received_at < until] if until is not None else []
        conditions += [column.batch == batch] if batch is not None else []
        with self.writing() as connection:
            counted = (
                sa.select(sa.func.coalesce(column.sender, NO_SENDER), sa.func.count(), sa.func.count(column.batch))
                .where(*conditions)
                .group_by(column.sender)
            )
            found = connection.execute(counted).fetchall()
            if found and not dry_run:
                values = {"at": time.time(), "by": by, "reason": reason}
                adding = _revocations.insert().values(**values).returning(_revocations.c.id)
                number = connection.execute(adding).scalar_one()
                connection.execute(labels.update().where(*conditions).values(revocation=number))
        return Revoked({str(name): int(count) for name, count, _ in found}, sum(int(used) for *_, used in found))

    def revoked(self) -> dict[int, list[str]]:
        """Return the prediction ids of each revocation that has labels in batches, by its number."""
        query = (
            sa.select(labels.c.revocation, labels.c.prediction_id)
            .where(labels.c.revocation.is_not(None), labels.c.batch.is_not(None))
            .order_by(labels.c.revocation, labels.c.id)
        )
        numbers: dict[int, list[str]] = {}
        with self.reading() as connection:
            for number, prediction_id in connection.execute(query):
                numbers.setdefault(int(number), []).append(str(prediction_id))
        return numbers

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

    def writer(self) -> RowWriter:
        """Return a connection for the rows of predictions and their labels."""
        self.prepare()
        texts = [isinstance(self.predictions.c[name].type, sa.Text) for name in columns(self.feature_names)]
        return self._database.writer(tuple(self.feature_names), texts)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that is committed at the end; for the modules of this package."""
        self.prepare()
        with as_store_errors(), self._database.engine.execution_options(write=True).begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection that sees the store as of one moment; for the modules of this package."""
        if self.exists():
            self.prepare()
            with as_store_errors(), self._database.engine.begin() as connection:
                yield connection
            return
        engine = sa.create_engine("sqlite://", poolclass=StaticPool)
        with as_store_errors(), engine.begin() as connection:
            _migrate(connection, self.predictions)
            yield connection

    def _newest_labelled(self, count: int, *, after: int = 0) -> sa.Select[Any]:
        """Return a query of the newest labels, as their ids and the fields of `Labelled`, the newest first."""
        valid = sa.select(labels).where(labels.c.id > after, labels.c.revocation.is_(None))
        newest = valid.order_by(labels.c.id.desc()).limit(count).subquery()
        made, label = self.predictions.c, newest.c
        return (
            sa.select(
                *(label.id, label.prediction_id, label.actual_value, label.received_at),
                *(made.model_version, made.prediction, made.low, made.high),
            )
            .join_from(newest, self.predictions, label.prediction_id == made.prediction_id)
            .order_by(label.id.desc())
        )

    def _count(self, query: sa.Select[Any]) -> int:
        with self.reading() as connection:
            return int(connection.scalar(query) or 0)

    @cached_property
    def predictions(self) -> sa.Table:
        """The table of predictions, for the modules of this package."""
        return _predictions(self.feature_names, is_partitioned=self._database.is_partitioned)

    @property
    def _features(self) -> list[sa.Column[Any]]:
        return [self.predictions.c[name] for name in self.feature_names]

    @cached_property
    def _needed(self) -> list[int]:
        """Where the features stand that a row must have."""
        optional = {column.name for column in load_table().features if not column.required}
        return [place for place, name in enumerate(self.feature_names) if name not in optional]


def _predictions(feature_names: Sequence[str], *, is_partitioned: bool = False) -> sa.Table:
    """Return the table of predictions; features may be missing, in rows from before the contract had them.

    In one that is partitioned by time, a key has to have the time in it. Ids of predictions are random, so that it
    makes no difference.
    """
    texts = {column.name for column in load_table().features if column.is_text}
    key = ("id", "requested_at") if is_partitioned else ("id",)
    unique = ("prediction_id", "requested_at") if is_partitioned else ("prediction_id",)
    return sa.Table(
        "predictions",
        sa.MetaData(),
        sa.Column("id", _Id, autoincrement=True),
        *(
            sa.Column(name, sa.Text if name in TEXTS or name in texts else sa.Float, nullable=name in feature_names)
            for name in columns(feature_names)
        ),
        sa.PrimaryKeyConstraint(*key),
        sa.UniqueConstraint(*unique),
        postgresql_partition_by="RANGE (requested_at)" if is_partitioned else None,
    )


def _migrate(connection: sa.Connection, table: sa.Table) -> None:
    """Bring the schema up to `VERSION` and to the table of predictions, in the caller's transaction."""
    inspector = sa.inspect(connection)
    found = connection.scalar(sa.select(_version.c.version)) if inspector.has_table("schema_version") else None
    if found is not None and found > VERSION:
        raise StoreError(f"its schema is version {found}, this code knows {VERSION}: start the newer version again")
    if not inspector.has_table("predictions"):
        table.create(connection)
        if table.dialect_options["postgresql"]["partition_by"]:
            connection.exec_driver_sql(f"CREATE TABLE {REST} PARTITION OF predictions DEFAULT")
    else:
        if found is None:
            present = {column["name"] for column in inspector.get_columns("predictions")}
            _make_nullable(connection, present - _FIXED)
        _add_missing_columns(connection, table)
    if inspector.has_table(labels.name):
        _add_missing_columns(connection, labels)
    COMMON.create_all(connection)
    for index in labels.indexes:  # create_all leaves a table that is there as it is
        index.create(connection, checkfirst=True)
    if found is None:
        connection.execute(_version.insert().values(version=VERSION))
    elif found < VERSION:
        connection.execute(_version.update().values(version=VERSION))


def _add_missing_columns(connection: sa.Connection, table: sa.Table) -> None:
    present = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in present:
            described = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {described}")


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
