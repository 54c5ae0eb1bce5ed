"""Why the model says of a row what it says: Shapley values, the neighbours it asked, and why its interval is so wide.

An explanation is some thousand predictions: a tenth of a second for California. So one is computed at a time, in a
thread, while others wait; only so many may wait, and the newest ones are remembered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from starlette.concurrency import run_in_threadpool

from app.bounds import Bound
from app.champion import Champion, Matrix
from app.errors import NotExplainableError
from app.likeness import Likeness
from app.processes import Processes
from app.schemas import TABLE
from tableloop.model.kriging import Neighbours
from tableloop.model.shapley import ShapleyValues, background_rows, representative, shapley_values

MOST: Final = 16  # explanations that are computed or wait
MOST_OF_ONE: Final = 4  # of them from one address
REMEMBERED: Final = 512
PLAYERS: Final = [input_.columns for input_ in TABLE.inputs]
CLOSEST: Final = 0.01  # share of the training rows that are like the usual row
UNUSUAL: Final = 0.75  # a fact that is further out than of such a share of the training rows makes intervals wider

FactName = Literal["nearest_km", "neighbour_spread", "rows_alike"]
Effect = Literal["wider", "narrower", "usual"]


class Fact(NamedTuple):
    """Something that makes an interval wide or narrow, beside what is usual in the training rows: their median."""

    name: FactName
    value: float
    usual: float
    effect: Effect


class Explained(NamedTuple):
    """An explained prediction; ``wider_than`` is the share of the training rows with a narrower interval."""

    shapley: ShapleyValues
    low: float
    high: float
    kilometres: float | None
    neighbours: Neighbours | None
    usual_width: float
    wider_than: float
    facts: list[Fact]


@dataclass(frozen=True)
class Ground:
    """What rows are compared with to explain a version's answers: rows of its training.

    ``background`` has the rows of the average prediction, (n, features). The others are of some training rows, each
    without itself, in order: widths of their intervals, and by name the numbers of `Fact`. ``alike`` is how unlike a
    row may be to be like another one.
    """

    champion: Champion
    background: Matrix
    likeness: Likeness
    alike: float
    widths: Matrix
    facts: dict[FactName, Matrix]

    @classmethod
    def of(cls, champion: Champion) -> Ground:
        """Return the ground of a version; it takes a quarter of a second.

        Raises
        ------
        NotExplainableError
            The version keeps no training rows.
        """
        rows = champion.reference
        if rows is None:
            raise NotExplainableError(
                f"version {champion.version} keeps no training rows of these columns to compare with: "
                "the next retraining makes one that does"
            )
        answers = champion.insight.left_out(rows) if champion.insight else champion.predict(rows)
        chosen = representative(champion.checked(rows).values, background_rows(len(PLAYERS)))
        background, likeness = rows[chosen], Likeness(TABLE, rows)
        apart = np.stack([likeness.apart(row) for row in background])
        # How unlike the rows are that for half of the rows belong to the closest hundredth.
        alike = float(np.median(np.quantile(apart, CLOSEST, axis=1)))
        facts: dict[FactName, Matrix] = {"rows_alike": (apart <= alike).mean(axis=1)}
        if answers.kilometres is not None:
            facts["nearest_km"] = answers.kilometres
        if champion.insight:
            found = [champion.insight.neighbours(row, left_out=True) for row in background]
            if spreads := [_spread(neighbours) for neighbours in found if neighbours is not None]:
                facts["neighbour_spread"] = np.array(spreads)
        return cls(
            champion,
            background,
            likeness,
            alike,
            widths=np.sort(answers.high - answers.low),
            facts={name: np.sort(values) for name, values in facts.items()},
        )

    def explain(self, row: Matrix) -> Explained:
        """Return the explanation of a row, (features,).

        Raises
        ------
        ArithmeticError
            A prediction is not a finite number.
        """
        champion = self.champion
        shapley = shapley_values(lambda rows: champion.checked(rows).values, row, self.background, PLAYERS)
        answer = champion.checked(row[np.newaxis])
        low, high = float(answer.low[0]), float(answer.high[0])
        kilometres = None if answer.kilometres is None else float(answer.kilometres[0])
        neighbours = champion.insight.neighbours(row) if champion.insight else None
        numbers: dict[FactName, float] = {}
        if kilometres is not None:
            numbers["nearest_km"] = kilometres
        if neighbours is not None:
            numbers["neighbour_spread"] = _spread(neighbours)
        numbers["rows_alike"] = float((self.likeness.apart(row) <= self.alike).mean())
        return Explained(
            *(shapley, low, high, kilometres, neighbours),
            usual_width=float(np.median(self.widths)),
            wider_than=_share_below(self.widths, high - low),
            facts=[self._fact(name, value) for name, value in numbers.items()],
        )

    def _fact(self, name: FactName, value: float) -> Fact:
        others = self.facts[name]
        share = _share_below(others, value)
        if name == "rows_alike":  # the more there are, the better a row is known
            share = 1.0 - share
        effect: Effect = "wider" if share > UNUSUAL else "narrower" if share < 1.0 - UNUSUAL else "usual"
        return Fact(name, value, float(np.median(others)), effect)


class Explanations:
    """Explains rows by the version that serves, one at a time."""

    def __init__(self, processes: Processes) -> None:
        self._bound = Bound(
            processes, most=MOST, most_of_one=MOST_OF_ONE, what="explanations are being computed or wait"
        )
        self._turn = asyncio.Semaphore(1)
        self._ground: Ground | None = None
        self._newest: OrderedDict[tuple[str, str, bytes], Explained] = OrderedDict()

    def one_of(self, client: str) -> AbstractContextManager[None]:
        """Take one more explanation of a client while the context lasts; 503 if there are too many."""
        return self._bound.one_of(client)

    def known(self, champion: Champion, row: Matrix) -> Explained | None:
        """Return the explanation of a row if it is remembered."""
        found = self._newest.get(key := _key(champion, row))
        if found is not None:
            self._newest.move_to_end(key)
        return found

    async def of(self, champion: Champion, row: Matrix) -> Explained:
        """Return the explanation of a row, (features,), when its turn has come.

        Raises
        ------
        NotExplainableError
            The version keeps no training rows.
        """
        async with self._turn:
            if found := self.known(champion, row):  # somebody asked for it meanwhile
                return found
            explained = await run_in_threadpool(self._explain, champion, row)
        self._newest[_key(champion, row)] = explained
        if len(self._newest) > REMEMBERED:
            self._newest.popitem(last=False)
        return explained

    def _explain(self, champion: Champion, row: Matrix) -> Explained:
        ground = self._ground
        if ground is None or _identity(ground.champion) != _identity(champion):
            ground = self._ground = Ground.of(champion)
        return ground.explain(row)


def _identity(champion: Champion) -> tuple[str, str]:
    return champion.version, champion.run_id


def _key(champion: Champion, row: Matrix) -> tuple[str, str, bytes]:
    return (*_identity(champion), row.tobytes())


def _spread(neighbours: Neighbours) -> float:
    """Return the standard deviation of the neighbours' values."""
    return float(neighbours.values.std())


def _share_below(ordered: Matrix, value: float) -> float:
    """Return the share of numbers that are smaller, and half of those that are the same."""
    below, up_to = (np.searchsorted(ordered, value, side) for side in ("left", "right"))
    return float(below + up_to) / 2 / len(ordered)
