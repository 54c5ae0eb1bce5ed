"""A prediction from request to committed log row: the only place where model, log and metrics meet."""

from __future__ import annotations

import math
import time
from typing import Any, Protocol

import numpy as np
from starlette.concurrency import run_in_threadpool

from app.champion import Champion, Matrix
from app.errors import NoModelError
from app.identifiers import new_id
from app.metrics import Metrics
from app.prediction_log import PredictionLog, Row
from app.schemas import HouseFeatures, Interval, Prediction

CHUNK_ROWS = 2_000


class Keeper(Protocol):
    """Who knows the model of the moment: `app.champion.ChampionKeeper`, or its dummy."""

    @property
    def current(self) -> Champion | None:
        """The model that serves, None while there is none."""

    @property
    def state(self) -> str:
        """What is going on, in words."""


class Predictor:
    """Predicts, logs and counts. Without a log (`PREDICTION_LOG=off`) it answers at once."""

    def __init__(self, keeper: Keeper, log: PredictionLog | None, metrics: Metrics) -> None:
        self.keeper = keeper
        self.log = log
        self._metrics = metrics

    async def one(self, features: HouseFeatures, request_id: str, line: dict[str, Any]) -> Prediction:
        """Return the prediction of one row, made on the event loop: a thread would cost more than the model.

        Raises
        ------
        NoModelError, PredictionLogError
        """
        champion = self._champion()
        requested_at = time.time()
        row = features.row()
        values, lows, highs = champion.predict_interval(np.array((row,)))
        value, low, high = float(values[0]), float(lows[0]), float(highs[0])
        if not math.isfinite(value + low + high):
            raise ArithmeticError(f"version {champion.version} predicts {value} [{low}, {high}] for {row}")
        prediction_id = new_id()
        if self.log is not None:
            await self.log.write(
                [(prediction_id, request_id, requested_at, champion.version, *row, value, low, high)]
            )
        self._metrics.count(champion.version, (value,))
        line["model_version"] = champion.version
        line["prediction_id"] = prediction_id
        return Prediction(
            predicted_median_house_value=value,
            interval=Interval(low=low, high=high, coverage=champion.coverage),
            model_version=champion.version,
            prediction_id=prediction_id,
            warnings=champion.warnings(row),
        )

    async def many(self, batch: list[HouseFeatures], request_id: str, line: dict[str, Any]) -> list[Prediction]:
        """Return the predictions of many rows, in their order, all by one version, made in a thread.

        Raises
        ------
        NoModelError, PredictionLogError
        """
        champion = self._champion()
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

    def _champion(self) -> Champion:
        champion = self.keeper.current
        if champion is None:
            raise NoModelError(f"there is no model to predict with yet: {self.keeper.state}")
        return champion


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
        interval = champion.predict_interval(matrix)
        if not np.isfinite(interval).all():
            raise ArithmeticError(f"version {champion.version} predicts values that are not finite")
        for row, value, low, high in zip(features, *(ends.tolist() for ends in interval), strict=True):
            prediction_id = new_id()
            rows.append((prediction_id, request_id, requested_at, champion.version, *row, value, low, high))
            answers.append(
                Prediction(
                    predicted_median_house_value=value,
                    interval=Interval(low=low, high=high, coverage=champion.coverage),
                    model_version=champion.version,
                    prediction_id=prediction_id,
                    warnings=champion.warnings(row),
                )
            )
    return rows, answers
