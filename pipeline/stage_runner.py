"""What the stages of the pipeline share: their parameters, how they log, and how they hand on how they ended."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from loguru import logger

from tableloop.table import Table

PROCESSED = Path("data/processed")
MODELS = Path("models")
REPORTS = Path("reports")
FORCED = "RETRAIN_FORCED"  # environment variable of a retraining that somebody forces: who and why, as JSON
RESULTS = "STAGE_RESULTS"  # environment variable: the directory for what the stages hand on


class StageError(Exception):
    """A stage cannot go on; the message is all that its reader needs."""


@dataclass(frozen=True)
class StageResult:
    """How a stage ended: after how many seconds, and why it failed, if it did.

    ``seconds`` is None of one that has not ended, ``started`` in unix seconds.
    """

    started: float
    seconds: float | None = None
    failure: str | None = None


def run_stage(work: Callable[[], None]) -> None:
    """Run a stage with its log on stderr, hand on how it ended, and end the process with 1 when it failed."""
    logger.remove()
    logger.add(sys.stderr, format="{time:HH:mm:ss} | {level: <7} | {message}", level="INFO", diagnose=False)
    started = time.time()
    _hand_on(StageResult(started))
    failure = None
    try:
        work()
    except StageError as error:
        failure = str(error)
        logger.error(failure)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        logger.opt(exception=error).error(failure)
    _hand_on(StageResult(started, time.time() - started, failure))
    if failure is not None:
        sys.exit(1)


def read_results(directory: Path) -> dict[str, StageResult]:
    """Return what the stages in a directory have handed on, by name, in the order in which they began."""
    results = {file.stem: StageResult(**json.loads(file.read_bytes())) for file in directory.glob("*.json")}
    return dict(sorted(results.items(), key=lambda item: item[1].started))


def _hand_on(result: StageResult) -> None:
    """Write the result of the stage that this process is, ``python -m pipeline.<stage>``."""
    if RESULTS not in os.environ:
        return
    file = Path(os.environ[RESULTS]) / f"{Path(sys.argv[0]).stem}.json"
    new = file.with_suffix(".new")
    new.write_text(json.dumps(asdict(result)) + "\n")
    new.replace(file)


def load_params() -> dict[str, Any]:
    """Return params.yaml of the current directory: a section for each stage."""
    params: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())
    return params


def raw_data(table: Table) -> Path:
    """Return the file of the raw data."""
    return Path("data") / table.path  # relative: DVC and the records of a run name it so


def best_of(metrics: dict[str, dict[str, float]]) -> str:
    """Return the candidate with the lowest custom_rmse; ties go to the highest custom_r2_score."""
    return min(metrics, key=lambda name: (metrics[name]["custom_rmse"], -metrics[name]["custom_r2_score"]))
