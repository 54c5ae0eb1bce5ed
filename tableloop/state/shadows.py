"""Versions in the shadow, in the store: what they say of requests that another version answers, and what came of it.

A version is in the shadow while the registry's alias `Shadow` names it. Its values lie beside the predictions whose
features they are of; a label of such a prediction judges both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tableloop.senders import NO_SENDER
from tableloop.state.database import Store, labels, shadow_values, shadows
from tableloop.table import Value as Feature

ALIAS: Final = "Shadow"  # in the registry
WITHDRAWN: Final = "withdrawn"  # somebody moved the alias; the other ends are the gate's words
FORGOTTEN_AT_ONCE: Final = 1_000
MOST_FORGOTTEN: Final = 20_000  # of one call: what is left waits for the next
LOOKED_THROUGH: Final = 10  # times the labels that are wanted, among which they are looked for
PAUSE_SECONDS: Final = 0.05  # for those who wait to write


class Shadow(NamedTuple):
    """A version's time in the shadow; times in unix seconds.

    It scores the predictions with ids after ``first``, has come to ``scored_to``, and has scored ``scored`` of them;
    the labels that may judge it have ids after ``first_label``, up to ``last_label`` once it is over. ``looks`` at
    the evidence have not decided, the last one at ``looked_at`` labels; ``failures`` times in a row it could not
    score, the last time because of ``problem``. ``outcome`` is "promoted", "rejected" or "withdrawn", None while it
    lasts.
    """

    id: int
    model: str
    version: str
    run_id: str
    began_at: float
    first: int
    scored_to: int
    looks: int
    looked_at: int
    failures: int
    problem: str
    ended_at: float | None
    outcome: str | None
    reason: str
    first_label: int = 0
    scored: int = 0
    last_label: int | None = None


class Value(NamedTuple):
    """What a version in the shadow says of the prediction with an id."""

    id: int
    value: float
    low: float
    high: float


class Compared(NamedTuple):
    """A labelled prediction, and what the version in the shadow says of the same row."""

    actual: float
    prediction: float
    low: float
    high: float
    shadow: float
    shadow_low: float
    shadow_high: float
    sender: str
    row: tuple[Feature, ...]  # its features


def begin(store: Store, model: str, version: str, run_id: str) -> Shadow:
    """Return the version's time in the shadow: the one that lasts, or a new one; that of another version is over."""
    with store.writing() as connection:
        return _begin(store, connection, model, version, run_id)


def begin_unless_changed(store: Store, model: str, version: str, run_id: str, seen: Shadow | None) -> Shadow | None:
    """Do the same for who saw in the registry that a version has the alias, and the newest time in the store before.

    Returns None where another time has begun or ended since: what was seen in the registry may be old.
    """
    with store.writing() as connection:
        now = _newest(connection, model)
        if (now and (now.id, now.ended_at)) != (seen and (seen.id, seen.ended_at)):
            return None
        return _begin(store, connection, model, version, run_id)


def end(store: Store, model: str, outcome: str, reason: str, *, decided: Shadow | None = None) -> None:
    """Note that the version in the shadow has left it, if there is one.

    ``decided`` is the time that this was decided of: also where somebody has noted meanwhile that its alias is gone.
    """
    with store.writing() as connection:
        condition = _lasting(model) if decided is None else shadows.c.id == decided.id
        _end(connection, condition, outcome, reason)


def current(store: Store, model: str) -> Shadow | None:
    """Return the version in the shadow, None when there is none."""
    with store.reading() as connection:
        return _current(connection, model)


def history(store: Store, model: str, limit: int) -> list[Shadow]:
    """Return the newest times in the shadow, the newest first."""
    query = sa.select(shadows).where(shadows.c.model == model).order_by(shadows.c.id.desc()).limit(limit)
    with store.reading() as connection:
        return [Shadow(*row) for row in connection.execute(query)]


def add_values(store: Store, shadow: Shadow, values: Sequence[Value], scored_to: int) -> None:
    """Keep what it says of predictions, and that all up to an id have had their turn; nothing once it has left."""
    now = time.time()
    rows = [{**value._asdict(), "version": shadow.version, "scored_at": now} for value in values]
    numbers = [value.id for value in values]
    with store.writing() as connection:
        found = connection.execute(sa.select(shadows).where(shadows.c.id == shadow.id)).first()
        if found is None or (lasting := Shadow(*found)).ended_at is not None:
            return
        known = set[int]()
        if rows:  # two looks at once have the same ones
            ids = shadow_values.c.id
            known = set(connection.scalars(sa.select(ids).where(ids.between(min(numbers), max(numbers)))))
        if fresh := [row for row in rows if row["id"] not in known]:
            connection.execute(shadow_values.insert(), fresh)
        progress = {"scored_to": max(lasting.scored_to, scored_to), "scored": lasting.scored + len(fresh)}
        _set(connection, shadow, **progress)


def note_problem(store: Store, shadow: Shadow, failures: int, problem: str) -> None:
    """Note how often in a row it could not score, and why; who begins to score notes it for the case of a kill."""
    with store.writing() as connection:
        _set(connection, shadow, failures=failures, problem=problem)


def note_look(store: Store, shadow: Shadow, labels_there: int) -> None:
    """Note that its evidence was looked at, so many labels, and did not decide."""
    with store.writing() as connection:
        _set(connection, shadow, looks=shadow.looks + 1, looked_at=labels_there)


def forget_values(store: Store, before: float) -> None:
    """Delete values that were made before a time (unix seconds), of times that are over.

    A few at once, as predictions are written meanwhile, and not all of very many: the next call goes on.
    """
    value = shadow_values.c
    with store.reading() as connection:
        kept_after = connection.scalar(sa.select(sa.func.min(shadows.c.first)).where(shadows.c.ended_at.is_(None)))
    some = sa.select(value.id).where(value.scored_at < before).limit(FORGOTTEN_AT_ONCE)
    if kept_after is not None:
        some = some.where(value.id <= kept_after)
    for _ in range(MOST_FORGOTTEN // FORGOTTEN_AT_ONCE):
        with store.reading() as connection:
            ids = connection.scalars(some).all()
        if not ids:
            return
        with store.writing() as connection:
            connection.execute(shadow_values.delete().where(value.id.in_(ids)))
        if len(ids) < FORGOTTEN_AT_ONCE:
            return
        time.sleep(PAUSE_SECONDS)


def compared(store: Store, shadow: Shadow, champion: str | None, limit: int) -> list[Compared]:
    """Return labelled predictions of the version ``champion`` that it has scored, those labelled last first.

    Those of every version that has answered meanwhile where ``champion`` is None; of a time that is over, what was
    labelled before its end. They are looked for among the newest labels, ten times as many.
    """
    made, value = store.predictions.c, shadow_values.c
    by_champion = sa.true() if champion is None else made.model_version == champion
    during = labels.c.id > shadow.first_label
    if shadow.last_label is not None:
        during &= labels.c.id <= shadow.last_label
    # From the labels, of which there are far fewer than values: both databases would begin with a range of these.
    valid = sa.select(labels).where(during, labels.c.revocation.is_(None))
    newest = valid.order_by(labels.c.id.desc()).limit(LOOKED_THROUGH * limit).subquery()
    query = (
        sa.select(
            *(newest.c.actual_value, made.prediction, made.low, made.high, value.value, value.low, value.high),
            sa.func.coalesce(newest.c.sender, NO_SENDER),
            *(made[name] for name in store.feature_names),
        )
        .select_from(newest)
        .join(store.predictions, made.prediction_id == newest.c.prediction_id)
        .join(shadow_values, value.id == made.id)
        .where(by_champion, value.version == shadow.version, made.id > shadow.first)
        .order_by(newest.c.id.desc())
        .limit(limit)
    )
    with store.reading() as connection:
        return [Compared._make([*found[:8], tuple(found[8:])]) for found in connection.execute(query)]


def errors(labelled: Sequence[Compared]) -> tuple[float, float]:
    """Return its RMSE, and that of the version that answered, on the same labels, of which there are some."""
    own = sum((row.shadow - row.actual) ** 2 for row in labelled) / len(labelled)
    other = sum((row.prediction - row.actual) ** 2 for row in labelled) / len(labelled)
    return math.sqrt(own), math.sqrt(other)


def newest_pairs(store: Store, shadow: Shadow, limit: int) -> list[tuple[float, float]]:
    """Return the newest predictions that it has scored, each with its own value, the newest first."""
    made, value = store.predictions.c, shadow_values.c
    query = (
        sa.select(made.prediction, value.value)
        .select_from(shadow_values)
        .join(store.predictions, made.id == value.id)
        .where(value.id > shadow.first, value.version == shadow.version)
        .order_by(value.id.desc())
        .limit(limit)
    )
    with store.reading() as connection:
        return [(float(answered), float(own)) for answered, own in connection.execute(query)]


def _begin(store: Store, connection: sa.Connection, model: str, version: str, run_id: str) -> Shadow:
    found = _current(connection, model)
    if found is not None and (found.version, found.run_id) == (version, run_id):
        return found
    _end(connection, _lasting(model), WITHDRAWN, f"version {version} took its place")
    newest = connection.scalar(sa.select(sa.func.max(store.predictions.c.id))) or 0
    label = connection.scalar(sa.select(sa.func.max(labels.c.id))) or 0
    where = {"first": newest, "scored_to": newest, "first_label": label}
    values = {"model": model, "version": version, "run_id": run_id}
    connection.execute(shadows.insert().values(began_at=time.time(), **values, **where))
    begun = _current(connection, model)
    assert begun is not None
    return begun


def _lasting(model: str) -> sa.ColumnElement[bool]:
    return (shadows.c.model == model) & shadows.c.ended_at.is_(None)


def _current(connection: sa.Connection, model: str) -> Shadow | None:
    newest = _newest(connection, model)
    return newest if newest is not None and newest.ended_at is None else None


def _newest(connection: sa.Connection, model: str) -> Shadow | None:
    query = sa.select(shadows).where(shadows.c.model == model).order_by(shadows.c.id.desc()).limit(1)
    found = connection.execute(query).first()
    return None if found is None else Shadow(*found)


def _end(connection: sa.Connection, which: sa.ColumnElement[bool], outcome: str, reason: str) -> None:
    newest = sa.select(sa.func.coalesce(sa.func.max(labels.c.id), 0)).scalar_subquery()
    values = {"ended_at": time.time(), "outcome": outcome, "reason": reason, "last_label": newest}
    connection.execute(shadows.update().where(which).values(values))


def _set(connection: sa.Connection, shadow: Shadow, **values: Any) -> None:
    connection.execute(shadows.update().where(shadows.c.id == shadow.id).values(values))
