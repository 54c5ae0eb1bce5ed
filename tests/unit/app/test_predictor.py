"""Requests that come in together are predicted together, and one that fails fails alone."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from app.champion import DummyKeeper, Matrix
from app.metrics import Metrics
from app.prediction_writer import PredictionLog
from app.predictor import Predictor
from app.schemas import HouseFeatures, Prediction
from tableloop.model.intervals import Answers
from tests.unit.app.conftest import EXAMPLE


def ask(predictor: Predictor, incomes: list[float]) -> list[Prediction | BaseException]:
    async def all_at_once() -> list[Prediction | BaseException]:
        lines: list[dict[str, Any]] = [{} for _ in incomes]
        asking = [
            predictor.one(HouseFeatures(**EXAMPLE | {"MedInc": income}), f"request-{income}", line)
            for income, line in zip(incomes, lines, strict=True)
        ]
        return await asyncio.gather(*asking, return_exceptions=True)

    return asyncio.run(all_at_once())


def test_rows_that_come_together_are_one_call_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    keeper = DummyKeeper()
    assert keeper.current is not None
    calls: list[int] = []
    predict = keeper.current.predict

    def counted(rows: Matrix) -> Answers:
        calls.append(len(rows))
        return predict(rows)

    keeper.current = replace(keeper.current, predict=counted)
    log = PredictionLog(tmp_path / "predictions.db")
    log.start()
    answers = ask(Predictor(keeper, log, Metrics(CollectorRegistry())), [1.0, 2.0, 3.0])
    log.stop()
    assert calls == [3]
    assert [answer.predicted_median_house_value for answer in answers if isinstance(answer, Prediction)] == [
        0.4 * 1,
        0.4 * 2,
        0.4 * 3,
    ]


def test_a_row_that_the_model_fails_on_fails_alone() -> None:
    keeper = DummyKeeper()
    assert keeper.current is not None
    predict = keeper.current.predict

    def sick(rows: Matrix) -> Answers:
        return predict(np.where(rows == 2.0, np.nan, rows))

    keeper.current = replace(keeper.current, predict=sick)
    first, second, third = ask(Predictor(keeper, None, Metrics(CollectorRegistry())), [1.0, 2.0, 3.0])
    assert isinstance(first, Prediction)
    assert isinstance(second, ArithmeticError)
    assert isinstance(third, Prediction)


def test_rows_that_come_during_a_commit_are_the_next_group(tmp_path: Path) -> None:
    keeper = DummyKeeper()
    assert keeper.current is not None
    calls: list[int] = []
    predict = keeper.current.predict

    def counted(rows: Matrix) -> Answers:
        calls.append(len(rows))
        return predict(rows)

    keeper.current = replace(keeper.current, predict=counted)
    log = PredictionLog(tmp_path / "predictions.db")
    log.start()
    predictor = Predictor(keeper, log, Metrics(CollectorRegistry()))

    async def three() -> None:
        def ask_for(income: float) -> asyncio.Task[Prediction]:
            return asyncio.create_task(predictor.one(HouseFeatures(**EXAMPLE | {"MedInc": income}), "request", {}))

        with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the first commit has to wait
            first = ask_for(1.0)
            while not calls:
                await asyncio.sleep(0)
            later = [ask_for(2.0), ask_for(3.0)]
            await asyncio.sleep(0.1)
            assert calls == [1]
            other.execute("ROLLBACK")
        answers = await asyncio.gather(first, *later)
        assert [answer.predicted_median_house_value for answer in answers] == pytest.approx([0.4, 0.8, 1.2])

    asyncio.run(three())
    log.stop()
    assert calls == [1, 2]
