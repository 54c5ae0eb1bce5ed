"""A prediction from request to committed log row: the only place where model, log and metrics meet."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, NamedTuple, Protocol

import numpy as np
from starlette.concurrency import run_in_threadpool

from app.champion import Champion, Matrix
from app.errors import NoModelError
from app.identifiers import new_id
from app.metrics import Metrics
from app.prediction_writer import PredictionLog
from app.schemas import HouseFeatures, Interval, Prediction
from tableloop.model.intervals import Answers
from tableloop.state.prediction_rows import Row

CHUNK_ROWS = 2_000


class Keeper(Protocol):
    """Who knows the model of the moment: `app.champion.ChampionKeeper`, or its dummy."""

    @property
    def current(self) -> Champion | None:
        """The model that serves, None while there is none."""

    @property
    def state(self) -> str:
        """What is going on, in words."""


class _Waiting:
    """A row of a request, and what becomes of it."""

    __slots__ = ("answer", "done", "request_id", "requested_at", "row")

    def __init__(self, row: tuple[float, ...], request_id: str, done: asyncio.Future[None]) -> None:
        self.row = row
        self.request_id = request_id
        self.requested_at = time.time()
        self.done = done
        self.answer: _Answer | None = None


class _Answer(NamedTuple):
    champion: Champion
    prediction_id: str
    value: float
    low: float
    high: float
    kilometres: float | None


class Predictor:
    """Predicts, logs and counts. Without a log (`PREDICTION_LOG=off`) it answers at once."""

    def __init__(self, keeper: Keeper, log: PredictionLog | None, metrics: Metrics) -> None:
        self.keeper = keeper
        self.log = log
        self._metrics = metrics
        self._waiting: list[_Waiting] = []
        self._at_work = False
        # Batches of files that are worked on at a time: more of them would only slow single rows down.
        self.files = asyncio.Semaphore(2)

    async def one(self, features: HouseFeatures, request_id: str, line: dict[str, Any]) -> Prediction:
        """Return the prediction of one row.

        The rows of all requests that came in together are predicted by one call and logged by one commit, as a
        model takes hardly longer for sixteen rows than for one. It happens on the event loop, at its next turn or
        when the group before is committed, which it would have to wait for anyway: a request never waits for others
        to come (one that waited already lets those in that can be read by then), and a thread would cost more than
        the model.

        Raises
        ------
        NoModelError, PredictionLogError
        """
        self.champion()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(features.row(), request_id, loop.create_future())
        self._waiting.append(waiting)
        if not self._at_work:
            self._at_work = True
            loop.call_soon(self._predict_waiting)
        await waiting.done
        assert waiting.answer is not None
        champion, prediction_id, value, low, high, kilometres = waiting.answer
        self._metrics.count(champion.version, (value,))
        line["model_version"] = champion.version
        line["prediction_id"] = prediction_id
        return Prediction(
            predicted_median_house_value=value,
            interval=Interval(low=low, high=high, coverage=champion.coverage),
            model_version=champion.version,
            prediction_id=prediction_id,
            warnings=champion.warnings(waiting.row, kilometres),
        )

    def _predict_waiting(self) -> None:
        """Predict and log the rows that are waiting; the next ones have their turn when these are answered."""
        group, self._waiting = self._waiting, []
        self._at_work = bool(group)
        if not group:
            return
        group[-1].done.add_done_callback(self._go_on)
        try:
            self._predict_group(self.champion(), group)
        except Exception as failure:
            if len(group) == 1:
                _fail(group[0], failure)
                return
            for waiting in group:  # one row may be to blame: each has its own try
                try:
                    self._predict_group(self.champion(), [waiting])
                except Exception as error:
                    _fail(waiting, error)

    def _go_on(self, done: asyncio.Future[None]) -> None:
        # One turn of the loop later: by then those just answered have asked again, and groups that would go on taking
        # turns for ever become one, whose rows cost less.
        loop = done.get_loop()
        loop.call_soon(loop.call_soon, self._predict_waiting)

    def _predict_group(self, champion: Champion, group: list[_Waiting]) -> None:
        matrix: Matrix = np.array([waiting.row for waiting in group])
        answers = _as_lists(champion.predict(matrix))
        rows: list[Row] = []
        for waiting, value, low, high, kilometres in zip(group, *answers, strict=True):
            if not math.isfinite(value + low + high):
                raise ArithmeticError(
                    f"version {champion.version} predicts {value} [{low}, {high}] for {waiting.row}"
                )
            answer = _Answer(champion, new_id(), value, low, high, kilometres)
            waiting.answer = answer
            rows.append(
                (
                    *(answer.prediction_id, waiting.request_id, waiting.requested_at, champion.version),
                    *waiting.row,
                    *(value, low, high),
                )
            )
        if self.log is not None:
            self.log.enqueue(rows, [waiting.done for waiting in group])
            return
        for waiting in group:
            if not waiting.done.done():
                waiting.done.set_result(None)

    async def many(self, batch: list[HouseFeatures], request_id: str, line: dict[str, Any]) -> list[Prediction]:
        """Return the predictions of many rows, in their order, all by one version, made in a thread.

        Raises
        ------
        NoModelError, PredictionLogError
        """
        champion = self.champion()
        rows, answers = await run_in_threadpool(_predict_batch, champion, batch, request_id)
        if self.log is not None:
            await self.log.write(rows)
        await run_in_threadpool(
            self._metrics.count, champion.version, [answer.predicted_median_house_value for answer in answers]
        )
        line["model_version"] = champion.version
        line["rows"] = len(answers)
        line["prediction_id"] = answers[0].prediction_id
        return answers

    def committed(self, rows: list[Row]) -> asyncio.Future[None]:
        """Have rows written to the log, and return what is done when they are; at once without a log.

        Raises
        ------
        PredictionLogError
            As `PredictionLog.enqueue` does.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.log is None:
            done.set_result(None)
        else:
            self.log.enqueue(rows, [done])
        return done

    def count(self, model_version: str, values: list[float]) -> None:
        """Count answered predictions in the metrics."""
        self._metrics.count(model_version, values)

    def champion(self) -> Champion:
        """Return the model of the moment.

        Raises
        ------
        NoModelError
        """
        champion = self.keeper.current
        if champion is None:
            raise NoModelError(f"there is no model to predict with yet: {self.keeper.state}")
        return champion


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(error)


def _as_lists(answers: Answers) -> tuple[list[float], list[float], list[float], list[float] | list[None]]:
    values, low, high, kilometres = answers
    return (
        *(values.tolist(), low.tolist(), high.tolist()),
        [None] * len(values) if kilometres is None else kilometres.tolist(),
    )


def _predict_batch(
    champion: Champion, batch: list[HouseFeatures], request_id: str
) -> tuple[list[Row], list[Prediction]]:
    """Return the log's rows and the answers, worked through in chunks so that memory does not grow with the model."""
    requested_at = time.time()
    rows: list[Row] = []
    answers: list[Prediction] = []
    for start in range(0, len(batch), CHUNK_ROWS):
        features = [item.row() for item in batch[start : start + CHUNK_ROWS]]
        matrix: Matrix = np.array(features, dtype=np.float64)
        predicted = champion.checked(matrix)
        unusual = champion.unusual(matrix, predicted.kilometres).tolist()
        for row, warned, value, low, high, kilometres in zip(features, unusual, *_as_lists(predicted), strict=True):
            prediction_id = new_id()
            rows.append((prediction_id, request_id, requested_at, champion.version, *row, value, low, high))
            answers.append(
                Prediction(
                    predicted_median_house_value=value,
                    interval=Interval(low=low, high=high, coverage=champion.coverage),
                    model_version=champion.version,
                    prediction_id=prediction_id,
                    warnings=champion.warnings(row, kilometres) if warned else [],
                )
            )
    return rows, answers
