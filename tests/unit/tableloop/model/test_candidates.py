from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from skops import io as skops_io

from pipeline.preprocess import split
from pipeline.stage_runner import RAW_DATA, StageError
from pipeline.train import fit_candidate, table
from tableloop.evaluation.plots import write_plots
from tableloop.evaluation.scores import scores
from tableloop.model.candidates import BUILDERS, build
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import FEATURE_NAMES

ROOT = Path(__file__).parents[4]
CANDIDATES: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["candidates"]


@pytest.fixture(scope="module")
def parts() -> dict[str, pd.DataFrame]:
    return split(pd.read_csv(ROOT / RAW_DATA).sample(1500, random_state=0), 0.2, 0.2)


def few_trees(params: Any) -> Any:
    """Return the parameters with three trees wherever they ask for more."""
    if isinstance(params, dict):
        return {key: 3 if key in ("max_iter", "n_estimators") else few_trees(value) for key, value in params.items()}
    return [few_trees(value) for value in params] if isinstance(params, list) else params


def test_every_candidate_has_a_builder_and_every_builder_a_candidate() -> None:
    assert set(CANDIDATES) == set(BUILDERS)


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_model_file_holds_reviewed_types_only_and_predicts_the_same_after_loading(
    name: str, parts: dict[str, pd.DataFrame]
) -> None:
    model = fit_candidate(name, few_trees(CANDIDATES[name]), parts, seed=0, coverage=0.9)
    dumped = skops_io.dumps(model)
    assert set(skops_io.get_untrusted_types(data=dumped)) <= set(TRUSTED_TYPES)
    loaded = skops_io.loads(dumped, trusted=list(TRUSTED_TYPES))
    rows = parts["test"][list(FEATURE_NAMES)]
    np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))
    np.testing.assert_array_equal(loaded.predict_interval(rows), model.predict_interval(rows))


def test_the_same_seed_gives_the_same_scores_and_plots(parts: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    name = "hist_gradient_boosting"
    results = []
    for turn in ("first", "second"):
        model = fit_candidate(name, few_trees(CANDIDATES[name]), parts, seed=1, coverage=0.9)
        write_plots(tmp_path / turn, model, parts["test"], importance_rows=100, repeats=1, seed=1)
        results.append(scores(model, parts["validation"], parts["test"]))
    assert results[0] == results[1]
    plots = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert plots == {path.name: path.read_bytes() for path in (tmp_path / "second").iterdir()}
    assert set(plots) == {"residuals.png", "predicted_against_actual.png", "permutation_importance.png"}


def test_a_candidate_that_fails_is_named(parts: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(StageError, match=r"candidate decision_tree: .*max_depth"):
        fit_candidate("decision_tree", {"max_depth": -1}, parts, seed=0, coverage=0.9)
    with pytest.raises(StageError, match=r"candidate decision_tree: .*train\.candidates\.decision_tree.*'depth'"):
        fit_candidate("decision_tree", {"depth": 1}, parts, seed=0, coverage=0.9)


def test_an_unknown_candidate_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no candidate is called 'oracle'; there are linear, decision_tree"):
        build("oracle", {}, 0)


def test_the_table_shows_the_best_first() -> None:
    names = ("custom_rmse", "custom_r2_score", "test_rmse", "test_r2", "test_mae")
    metrics = {"worse": dict.fromkeys(names, 0.9), "better": dict.fromkeys(names, 0.4)}
    lines = table(metrics, {"worse": 1.0, "better": 2.0}).splitlines()
    assert [line.split()[0] for line in lines] == ["candidate", "better", "worse"]
