"""Requests that come in together are predicted together, and one that fails fails alone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from app.champion import DummyKeeper, Matrix
from app.metrics import PredictionMetrics
from app.prediction_writer import PredictionLog
from app.predictor import Predictor
from app.processes import Processes
from app.schemas import Prediction
from tableloop.model.intervals import Answers
from tableloop.state.database import Store
from tests.unit.app.conftest import EXAMPLE


def ask(predictor: Predictor, incomes: list[float]) -> list[Prediction | BaseException]:
    async def all_at_once() -> list[Prediction | BaseException]:
        asking = [
            predictor.one(EXAMPLE | {"MedInc": income}, {"request_id": f"request-{income}"}) for income in incomes
        ]
        return await asyncio.gather(*asking, return_exceptions=True)

    return asyncio.run(all_at_once())


def new_metrics() -> PredictionMetrics:
    registry = CollectorRegistry()
    return PredictionMetrics(registry, registry, Processes())


def value(answer: Prediction | BaseException) -> float:
    assert isinstance(answer, dict)
    return float(answer["predicted_median_house_value"])


def test_rows_that_come_together_are_one_call_and_each_gets_its_own_answer(place: Path | str) -> None:
    keeper = DummyKeeper()
    assert keeper.current is not None
    calls: list[int] = []
    predict = keeper.current.predict

    def counted(rows: Matrix) -> Answers:
        calls.append(len(rows))
        return predict(rows)

    keeper.current = replace(keeper.current, predict=counted)
    log = PredictionLog(Store(place))
    log.start()
    answers = ask(Predictor(keeper, log, new_metrics()), [1.0, 2.0, 3.0])
    log.stop()
    assert calls == [3]
    assert [value(answer) for answer in answers] == [1.0, 2.0, 3.0]


def test_a_row_that_the_model_fails_on_fails_alone() -> None:
    keeper = DummyKeeper()
    assert keeper.current is not None
    predict = keeper.current.predict

    def sick(rows: Matrix) -> Answers:
        return predict(np.where(rows == 2.0, np.nan, rows))

    keeper.current = replace(keeper.current, predict=sick)
    first, second, third = ask(Predictor(keeper, None, new_metrics()), [1.0, 2.0, 3.0])
    assert value(first) == 1.0
    assert isinstance(second, ArithmeticError)
    assert value(third) == 3.0


def test_a_model_in_a_process_of_its_own_does_not_hold_up_the_event_loop() -> None:
    keeper = DummyKeeper()
    assert keeper.current is not None
    predict = keeper.current.predict
    answering = threading.Event()

    def slow(rows: Matrix) -> Answers:
        assert answering.wait(10)
        return predict(rows)

    keeper.current = replace(keeper.current, predict=slow, engine="scikit-learn")
    predictor = Predictor(keeper, None, new_metrics())

    async def ask_while_it_hangs() -> Prediction:
        asked = asyncio.create_task(predictor.one(EXAMPLE, {"request_id": "r"}))
        await asyncio.sleep(0.05)
        assert not asked.done()
        answering.set()
        return await asked

    assert value(asyncio.run(ask_while_it_hangs())) == EXAMPLE["MedInc"]


def test_rows_that_come_during_a_commit_are_the_next_group(tmp_path: Path) -> None:
    keeper = DummyKeeper()
    assert keeper.current is not None
    calls: list[int] = []
    predict = keeper.current.predict

    def counted(rows: Matrix) -> Answers:
        calls.append(len(rows))
        return predict(rows)

    keeper.current = replace(keeper.current, predict=counted)
    log = PredictionLog(Store(tmp_path / "predictions.db"))
    log.start()
    predictor = Predictor(keeper, log, new_metrics())

    async def three() -> None:
        def ask_for(income: float) -> asyncio.Task[Prediction]:
            return asyncio.create_task(predictor.one(EXAMPLE | {"MedInc": income}, {"request_id": "r"}))

        with closing(sqlite3.connect(log.store.place, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the first commit has to wait
            first = ask_for(1.0)
            while not calls:
                await asyncio.sleep(0)
            later = [ask_for(2.0), ask_for(3.0)]
            await asyncio.sleep(0.1)
            assert calls == [1]
            other.execute("ROLLBACK")
        answers = await asyncio.gather(first, *later)
        assert [value(answer) for answer in answers] == [1.0, 2.0, 3.0]

    asyncio.run(three())
    log.stop()
    assert calls == [1, 2]
