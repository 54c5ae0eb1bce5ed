"""What the stages of the pipeline share: their parameters, how they log, and how they fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from loguru import logger

from tableloop.table import DATA, Table

PROCESSED = Path("data/processed")
MODELS = Path("models")
REPORTS = Path("reports")


class StageError(Exception):
    """A stage cannot go on; the message is all that its reader needs."""


def run_stage(work: Callable[[], None]) -> None:
    """Run a stage with its log on stderr, and end the process with 1 and an ERROR line when it fails."""
    logger.remove()
    logger.add(sys.stderr, format="{time:HH:mm:ss} | {level: <7} | {message}", level="INFO", diagnose=False)
    try:
        work()
    except StageError as error:
        logger.error(str(error))
        sys.exit(1)
    except Exception as error:
        logger.opt(exception=error).error(f"{type(error).__name__}: {error}")
        sys.exit(1)


def load_params() -> dict[str, Any]:
    """Return params.yaml of the current directory: a section for each stage."""
    params: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())
    return params


def raw_data(table: Table) -> Path:
    """Return the file of the raw data."""
    return DATA / table.path


def best_of(metrics: dict[str, dict[str, float]]) -> str:
    """Return the candidate with the lowest custom_rmse; ties go to the highest custom_r2_score."""
    return min(metrics, key=lambda name: (metrics[name]["custom_rmse"], -metrics[name]["custom_r2_score"]))
