"""A prediction, from the request to the committed row of the log: where model, log and metrics meet."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool

from app.champion import Champion, Keeper, Matrix
from app.errors import NoModelError
from app.identifiers import new_ids
from app.metrics import PredictionMetrics
from app.prediction_writer import PredictionLog, PredictionLogError, settle
from app.schemas import TABLE, Features, Interval, Prediction, prediction, row_of
from tableloop.model.intervals import Answers
from tableloop.state.prediction_rows import Row, row
from tableloop.table import Value

CHUNK_ROWS = 2_000
_Numbers = tuple[float, float, float, float | None]  # value, ends of the interval, kilometres to the nearest place


class _Waiting:
    """The row of one request, and later its answer and the version that made it."""

    __slots__ = ("answer", "done", "request_id", "requested_at", "row", "value")

    def __init__(self, row: tuple[Value, ...], request_id: str, done: asyncio.Future[None]) -> None:
        self.row = row
        self.request_id = request_id
        self.requested_at = time.time()
        self.done = done
        self.value = 0.0
        self.answer: Prediction = {}


class Predictor:
    """Predicts, logs and counts. Without a log (`PREDICTION_LOG=off`) it answers at once."""

    def __init__(self, keeper: Keeper, log: PredictionLog | None, metrics: PredictionMetrics) -> None:
        self.keeper = keeper
        self.log = log
        self.metrics = metrics
        self._waiting: list[_Waiting] = []
        self._busy = False
        # Batches of files in work at the same time: more would only slow down single rows.
        self.files = asyncio.Semaphore(2)

    async def one(self, features: Features, line: dict[str, Any]) -> Prediction:
        """Return the prediction of one row; ``line`` is the request's line in the log.

        All requests that have arrived are predicted by one call of the model and logged by one commit: a model takes
        hardly longer for sixteen rows than for one. A request is never delayed to form a larger group. Requests that
        arrive while a group is being committed form the next group. A compiled model runs on the event loop, because
        handing a row to a thread costs more than the model. One that answers from another process runs in a thread.

        Raises
        ------
        NoModelError, PredictionLogError
        """
        self.champion()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(row_of(features), line["request_id"], loop.create_future())
        self._waiting.append(waiting)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._predict_waiting)
        await waiting.done
        answer = waiting.answer
        self.metrics.count_one(answer["model_version"], waiting.value)
        line["model_version"] = answer["model_version"]
        line["prediction_id"] = answer["prediction_id"]
        return answer

    def _predict_waiting(self) -> None:
        """Predict and log the waiting rows, then take the next group when they are answered."""
        group, self._waiting = self._waiting, []
        self._busy = bool(group)
        if not group:
            return
        done = group[-1].done
        done.add_done_callback(self._go_on)
        champion = self.champion()
        if champion.engine != "scikit-learn":
            self._answer(champion, group, _predict(champion, group))
            return
        predicting = done.get_loop().run_in_executor(None, _predict, champion, group)
        predicting.add_done_callback(lambda predicted: self._answer(champion, group, predicted.result()))

    def _go_on(self, done: asyncio.Future[None]) -> None:
        # Two turns of the loop later, clients that were just answered have sent their next request. Without this
        # wait, the clients would split into two groups that take turns for ever, at a higher cost per row.
        loop = done.get_loop()
        loop.call_soon(loop.call_soon, self._predict_waiting)

    def _answer(self, champion: Champion, group: list[_Waiting], predicted: list[_Numbers | Exception]) -> None:
        version = champion.version
        rows: list[Row] = []
        answered: list[asyncio.Future[None]] = []
        for waiting, prediction_id, numbers in zip(group, new_ids(len(group)), predicted, strict=True):
            if isinstance(numbers, Exception):
                settle(waiting.done, numbers)
                continue
            value, low, high, kilometres = numbers
            waiting.value = value
            interval: Interval = {"low": low, "high": high, "coverage": champion.coverage}
            warnings = champion.warnings(waiting.row, kilometres)
            waiting.answer = prediction(value, interval, version, prediction_id, warnings)
            rows.append(
                row(prediction_id, waiting.request_id, waiting.requested_at, version, waiting.row, value, low, high)
            )
            answered.append(waiting.done)
        if self.log is None:
            for done in answered:
                settle(done, None)
        elif rows:
            try:
                self.log.enqueue(rows, answered)
            except PredictionLogError as error:
                for done in answered:
                    settle(done, error)

    async def many(self, batch: list[Features], line: dict[str, Any]) -> list[Prediction]:
        """Return the predictions of many rows, in their order, all by the same version; errors as of `one`."""
        champion = self.champion()
        parts = await run_in_threadpool(_predict_batch, champion, batch, line["request_id"])
        await self.committed([logged for rows, _, _ in parts for logged in rows])
        for _, _, values in parts:
            self.metrics.count(champion.version, values)
        answers = [answer for _, answers, _ in parts for answer in answers]
        line["model_version"] = champion.version
        line["rows"] = len(answers)
        line["prediction_id"] = answers[0]["prediction_id"]
        return answers

    def committed(self, rows: list[Row]) -> asyncio.Future[None]:
        """Queue rows for the log, and return a future that is done when they are committed; at once without a log."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.log is None:
            done.set_result(None)
        else:
            self.log.enqueue(rows, [done])
        return done

    def champion(self) -> Champion:
        """Return the model that serves, or raise `NoModelError`."""
        champion = self.keeper.current
        if champion is None:
            raise NoModelError(f"there is no model to predict with yet: {self.keeper.state}")
        return champion


def predict_rows(
    champion: Champion, matrix: Matrix, values: Iterable[Sequence[Value]], request_id: str
) -> tuple[Answers, list[str], list[Row]]:
    """Return the predictions of rows of shape (n, features), their new ids, and their rows for the log.

    ``values`` are those of the same rows as they are logged.

    Raises
    ------
    ArithmeticError
        A prediction is not a finite number.
    """
    answers = champion.checked(matrix)
    ids = new_ids(len(matrix))
    now = time.time()
    rows = [
        row(prediction_id, request_id, now, champion.version, features, value, low, high)
        for prediction_id, features, value, low, high in zip(
            ids, values, *(numbers.tolist() for numbers in answers[:3]), strict=True
        )
    ]
    return answers, ids, rows


def _predict(champion: Champion, group: list[_Waiting]) -> list[_Numbers | Exception]:
    """Return for each waiting row what the model says, or why it says nothing."""
    try:
        return _finite(champion, TABLE.coding.rows([waiting.row for waiting in group]))
    except Exception as error:
        if len(group) == 1:
            return [error]
        # A single row may be the cause, so each is tried alone.
        return [numbers for waiting in group for numbers in _predict(champion, [waiting])]


def _finite(champion: Champion, rows: Matrix) -> list[_Numbers | Exception]:
    values, low, high, kilometres = _as_lists(champion.predict(rows))
    # For a few rows `Champion.checked` takes longer than this.
    if not math.isfinite(sum(values) + sum(low) + sum(high)):
        raise ArithmeticError(f"version {champion.version} predicts values that are not finite")
    return list(zip(values, low, high, kilometres, strict=True))


def _as_lists(answers: Answers) -> tuple[list[float], list[float], list[float], list[float] | list[None]]:
    values, low, high, kilometres = answers
    return (
        *(values.tolist(), low.tolist(), high.tolist()),
        [None] * len(values) if kilometres is None else kilometres.tolist(),
    )


def _predict_batch(
    champion: Champion, batch: list[Features], request_id: str
) -> list[tuple[list[Row], list[Prediction], Matrix]]:
    """Return rows for the log, answers and values, in chunks: the model's memory does not grow with the batch."""
    parts = []
    coverage, version = champion.coverage, champion.version
    for start in range(0, len(batch), CHUNK_ROWS):
        chunk = [row_of(features) for features in batch[start : start + CHUNK_ROWS]]
        matrix = TABLE.coding.rows(chunk)
        predicted, ids, rows = predict_rows(champion, matrix, chunk, request_id)
        unusual = champion.unusual(matrix, predicted.kilometres).tolist()
        answers = [
            prediction(
                value,
                {"low": low, "high": high, "coverage": coverage},
                version,
                prediction_id,
                champion.warnings(values, kilometres) if warned else [],
            )
            for values, warned, prediction_id, value, low, high, kilometres in zip(
                chunk, unusual, ids, *_as_lists(predicted), strict=True
            )
        ]
        parts.append((rows, answers, predicted.values))
    return parts
