"""The servers that the service is compared with, apart from MLflow's own: ``uvicorn bench.servers:empty``."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app.schemas import Batch, Features, Prediction, prediction

_ANSWER = prediction(2.0, {"low": 1.5, "high": 2.5, "coverage": 0.9}, "1", "00000000-0000-7000-8000-000000000000", [])

empty = FastAPI()


@empty.post("/predict")
async def answer(features: Features) -> Prediction:
    """Check the row, answer with what is known beforehand: what the framework itself costs."""
    return _ANSWER


@empty.post("/predict/batch")
async def answer_batch(batch: Batch) -> list[Prediction]:
    """Check a list of rows, and answer each in the same way."""
    return [_ANSWER] * len(batch)


@asynccontextmanager
async def _loaded(app: FastAPI) -> Any:
    import mlflow.pyfunc  # noqa: PLC0415 - not for the empty one

    app.state.model = mlflow.pyfunc.load_model(os.environ["BENCH_MODEL"])
    yield


pyfunc = FastAPI(lifespan=_loaded)


@pyfunc.post("/predict")
async def predict(features: Features) -> float:
    """Answer as tutorials do: the row in a data frame, the model as a pyfunc."""
    return _predict([features])[0]


@pyfunc.post("/predict/batch")
async def predict_batch(batch: Batch) -> list[float]:
    """Answer a list in the same way."""
    return _predict(batch)


def _predict(rows: list[Features]) -> list[float]:
    import pandas as pd  # noqa: PLC0415 - not for the empty one

    values: list[float] = pyfunc.state.model.predict(pd.DataFrame(rows)).tolist()
    return values
