from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from skops import io as skops_io

from pipeline.fitting import (
    Fitted,
    _some,
    completed,
    fit_candidate,
    new_index,
    new_model,
    refit_winner,
    setting_of,
)
from pipeline.preprocess import split
from pipeline.stage_runner import StageError, raw_data
from pipeline.train import summary
from pipeline.workers import run_on, workers
from tableloop.evaluation.plots import draw_plots
from tableloop.evaluation.scores import scores
from tableloop.model.candidates import BUILDERS, build
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.table import load_table

ROOT = Path(__file__).parents[3]
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]
CANDIDATES = PARAMS["candidates"]
TABLE = load_table()


@pytest.fixture(scope="module")
def parts() -> dict[str, pd.DataFrame]:
    rows = pd.read_csv(ROOT / raw_data(TABLE)).sample(1500, random_state=0)
    return split(rows, TABLE.feature_names, 0.2, 0.2)


def with_candidates(**candidates: Any) -> dict[str, Any]:
    return PARAMS | {"candidates": candidates, "seed": 0}


def few_trees(params: Any) -> Any:
    """Return the parameters with three trees wherever they ask for more."""
    if isinstance(params, dict):
        return {key: 3 if key in ("max_iter", "n_estimators") else few_trees(value) for key, value in params.items()}
    return [few_trees(value) for value in params] if isinstance(params, list) else params


def test_every_candidate_has_a_builder_and_every_builder_a_candidate() -> None:
    assert {*CANDIDATES, "lightgbm"} == set(BUILDERS)  # which is for tables that no memory holds


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_model_file_holds_reviewed_types_only_and_predicts_the_same_after_loading(
    name: str, parts: dict[str, pd.DataFrame]
) -> None:
    model = fit_candidate(name, with_candidates(**{name: few_trees(CANDIDATES[name])}), TABLE, parts)
    dumped = skops_io.dumps(model)
    assert set(skops_io.get_untrusted_types(data=dumped)) <= set(TRUSTED_TYPES)
    loaded = skops_io.loads(dumped, trusted=list(TRUSTED_TYPES))
    rows = parts["test"][list(TABLE.feature_names)]
    np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))
    np.testing.assert_array_equal(loaded.predict_interval(rows), model.predict_interval(rows))


def test_the_same_seed_gives_the_same_scores_and_plots(parts: dict[str, pd.DataFrame]) -> None:
    name = "hist_gradient_boosting"
    results, plots = [], []
    for _ in ("first", "second"):
        model = fit_candidate(name, with_candidates(**{name: few_trees(CANDIDATES[name])}), TABLE, parts)
        plots.append(draw_plots(model, parts["test"], TABLE, importance_rows=100, repeats=1, seed=1))
        results.append(scores(model, parts["validation"], parts["test"], TABLE.target_name))
    assert results[0] == results[1]
    assert plots[0] == plots[1]
    assert set(plots[0]) == {"residuals.png", "predicted_against_actual.png", "permutation_importance.png"}


def test_a_candidate_that_fails_is_named(parts: dict[str, pd.DataFrame]) -> None:
    with pytest.raises(StageError, match=r"candidate decision_tree: .*max_depth"):
        fit_candidate("decision_tree", with_candidates(decision_tree={"max_depth": -1}), TABLE, parts)
    with pytest.raises(StageError, match=r"candidate decision_tree: .*train\.candidates\.decision_tree.*'depth'"):
        fit_candidate("decision_tree", with_candidates(decision_tree={"depth": 1}), TABLE, parts)


def test_an_unknown_candidate_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no candidate is called 'oracle'; there are linear, decision_tree"):
        build("oracle", {}, setting_of(PARAMS, TABLE))


def test_the_table_shows_the_best_first() -> None:
    names = ("custom_rmse", "custom_r2_score", "test_rmse", "test_r2", "test_mae")
    metrics = {"worse": dict.fromkeys(names, 0.9), "better": dict.fromkeys(names, 0.4)}
    model = new_model("linear", PARAMS, TABLE)
    lines = summary({name: Fitted(model, values, 0.0, 1.0) for name, values in metrics.items()}).splitlines()
    assert [line.split()[0] for line in lines] == ["candidate", "better", "worse"]


def test_rows_beyond_the_most_are_drawn_the_same_each_time(parts: dict[str, pd.DataFrame]) -> None:
    params = with_candidates(linear={"most_rows": 300}, decision_tree={"max_depth": 3})
    bounded = parts | {"train": _some(parts["train"], 300), "validation": _some(parts["validation"], 300)}
    rows = parts["test"]
    first, second = (fit_candidate("linear", params, TABLE, known).predict(rows) for known in (parts, bounded))
    np.testing.assert_array_equal(first, second)
    whole, limited = (
        fit_candidate("decision_tree", params | more, TABLE, parts).predict(rows) for more in ({}, {"most_rows": 300})
    )
    assert (whole != limited).any()


def test_a_winner_fitted_by_several_processes_is_the_same(parts: dict[str, pd.DataFrame]) -> None:
    params = with_candidates(hist_gradient_boosting={"max_iter": 3, "features": {}})
    labelled = parts["validation"].assign(batch=1, part="train")
    labelled[TABLE.target_name] *= 1.2
    alone = refit_winner("hist_gradient_boosting", params, TABLE, parts, labelled)
    with workers() as pool:
        together = refit_winner("hist_gradient_boosting", params, TABLE, parts, labelled, run=run_on(pool))
    ours, theirs = (model.predict_interval(parts["test"]) for model in (alone, together))
    np.testing.assert_array_equal(ours, theirs)


def test_a_winner_knows_all_rows_and_its_intervals_some(parts: dict[str, pd.DataFrame]) -> None:
    none = parts["train"].head(0)
    params = with_candidates(linear={})
    whole, some = (refit_winner("linear", params | more, TABLE, parts, none) for more in ({}, {"most_rows": 600}))
    (value, low, _), (same, other, _) = (model.predict_interval(parts["test"]) for model in (whole, some))
    np.testing.assert_array_equal(value, same)
    assert (low != other).any()


def test_what_the_parameters_leave_to_the_data(parts: dict[str, pd.DataFrame]) -> None:
    rows = parts["train"].head(200)
    given = {**PARAMS, "kriging": {}, "price_index": {"half_life": 10, "least": 5}}
    made = completed(given, TABLE, rows)
    kernel = made["kriging"]["kernel"]
    assert set(kernel["inputs"]) <= set(TABLE.feature_names) - {"Latitude", "Longitude"}
    assert all(term["length"] > 0 for term in kernel["inputs"].values())
    assert made["price_index"]["lowest_value"] == rows[TABLE.target_name].min()
    assert completed(given, TABLE, rows) == made
    assert completed(PARAMS, TABLE, rows) == PARAMS
    below = rows.assign(**{TABLE.target_name: rows[TABLE.target_name] - 3})
    assert completed(made | given, TABLE, below)["price_index"]["lowest_value"] is None  # differences, not ratios
    assert new_index({**PARAMS, "price_index": None}, TABLE) is None


def test_two_candidates_of_one_family() -> None:
    params = with_candidates(careful={"family": "hist_gradient_boosting", "max_iter": 7})
    assert new_model("careful", params, TABLE).estimator["boost"].max_iter == 7
