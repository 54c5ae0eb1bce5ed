"""Write all files of a version into one directory: the model, its code, its table, and what checks it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from mlflow.models import Model, infer_signature
from mlflow.sklearn import save_model

import tableloop
from tableloop.drift.reference import REFERENCE_FILE, Reference
from tableloop.model import manifest
from tableloop.model.conformal import ConformalRegressor, as_matrix
from tableloop.model.onnx_export import NotCompilableError, write_scorer
from tableloop.model.onnx_scorer import TOLERANCE, BrokenScorerError, Scorer
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import DATA, FILE
from tableloop.version_files import SCORER

LIBRARY = Path(tableloop.__file__).parent
SHIPPED = ("__init__.py", "model")  # of the library: what a model is made of
CHECKED_ROWS = 5_000  # of the test rows, about: each is asked for alone too
EXAMPLE_ROWS = 50  # kept with the scorer, so that whoever loads it can see that it still answers the same


@dataclass(frozen=True)
class ScorerCheck:
    """Whether a version has a compiled scorer: "passed", "failed", or "none" for a family that has none; and why."""

    outcome: Literal["passed", "failed", "none"]
    reason: str
    difference: float | None = None

    def tags(self) -> dict[str, str]:
        """Return the outcome as tags of a run or of a model version."""
        return {"scorer": self.outcome, "scorer_reason": self.reason}


def build_version(
    directory: Path,
    model: ConformalRegressor,
    described: Model,
    *,
    example: pd.DataFrame,
    requirements: list[str],
    reference: Reference,
    test: pd.DataFrame,
    made_by: Mapping[str, str],
) -> ScorerCheck:
    """Write the version into ``directory``, which must not exist; return what became of its compiled scorer.

    ``described`` is what MLflow is to say of the model: its ids and its metadata.
    """
    with tempfile.TemporaryDirectory() as parent:
        code = Path(parent) / LIBRARY.name
        _copy_code(code)
        save_model(
            model,
            str(directory),
            mlflow_model=described,
            serialization_format="skops",
            skops_trusted_types=list(TRUSTED_TYPES),
            code_paths=[str(code)],
            signature=infer_signature(example, model.predict(example)),
            input_example=example,
            # Named, not inferred: inference loads the model in a fresh process, ten seconds each.
            pip_requirements=requirements,
        )
    shutil.copyfile(DATA / FILE, directory / FILE)
    reference.save(directory / REFERENCE_FILE)
    checked = _add_scorer(directory / SCORER, model, test)
    manifest.write(directory, made_by)
    return checked


def _copy_code(target: Path) -> None:
    target.mkdir()
    for name in SHIPPED:
        if (LIBRARY / name).is_dir():
            shutil.copytree(LIBRARY / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(LIBRARY / name, target / name)


def _add_scorer(directory: Path, model: ConformalRegressor, test: pd.DataFrame) -> ScorerCheck:
    """Write the compiled scorer if it answers the test rows as the model does."""
    rows = as_matrix(test.iloc[:: max(1, len(test) // CHECKED_ROWS)], model.columns, model.kinds)
    try:
        write_scorer(model, rows[:EXAMPLE_ROWS], directory)
    except NotCompilableError as error:
        return ScorerCheck("none", str(error))
    try:
        difference = Scorer.load(directory).difference(rows, np.stack(model.predict_interval(rows), axis=1))
    except BrokenScorerError as error:
        shutil.rmtree(directory)
        return ScorerCheck("failed", f"the compiled scorer is not sound: {error}")
    reason = (
        f"the compiled scorer is at most {difference:.1e} of the largest value from scikit-learn "
        f"on {len(rows):,} test rows"
    )
    if not difference <= TOLERANCE:
        shutil.rmtree(directory)
        return ScorerCheck("failed", f"{reason}; {TOLERANCE:g} passes", difference)
    return ScorerCheck("passed", reason, difference)
