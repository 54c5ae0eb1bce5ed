"""The compiled scorer answers what scikit-learn answers, however the rows arrive."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor, VotingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.conformal import ConformalRegressor
from pipeline.scorer import NotCompilableError, Scorer, compile_trees, largest_difference
from pipeline.spatial import OffsetRegressor, SpatialFeatures
from tests.unit.pipeline.test_spatial import KERNEL, town


def spatial() -> Pipeline:
    trees = HistGradientBoostingRegressor(max_iter=40, random_state=0)
    return make_pipeline(SpatialFeatures(KERNEL), OffsetRegressor(trees))


@pytest.fixture(scope="module")
def model() -> ConformalRegressor:
    return ConformalRegressor(spatial()).fit(*town(1500)).calibrate(*town(500, seed=1))


@pytest.fixture(scope="module")
def scorer(model: ConformalRegressor) -> Scorer:
    return Scorer(model, compile_trees(model))


def test_it_answers_as_scikit_learn(model: ConformalRegressor, scorer: Scorer) -> None:
    assert largest_difference(scorer, model, town(2500, seed=2)[0]) < 1e-6


def test_one_row_has_the_same_features_as_many(model: ConformalRegressor, scorer: Scorer) -> None:
    rows = town(300, seed=3)[0]
    one_by_one = np.vstack([scorer._features_of_one(row) for row in rows.tolist()])
    np.testing.assert_allclose(one_by_one, model.estimator[0].transform(rows), rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2, 16, 1024, 1025])
def test_any_number_of_rows(model: ConformalRegressor, scorer: Scorer, count: int) -> None:
    rows = town(1025, seed=4)[0][:count]
    answer = scorer.predict_interval(rows)
    assert [part.shape for part in answer] == [(count,)] * 3
    if count:
        np.testing.assert_allclose(answer, model.predict_interval(rows), atol=1e-6)


def test_it_is_stored_in_a_file_beside_the_model(model: ConformalRegressor, scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "trees.onnx").write_bytes(compile_trees(model))
    loaded = Scorer(model, (tmp_path / "trees.onnx").read_bytes())
    rows = town(100, seed=5)[0]
    np.testing.assert_array_equal(loaded.predict_interval(rows), scorer.predict_interval(rows))


def test_values_at_the_ends_of_what_is_possible(model: ConformalRegressor, scorer: Scorer) -> None:
    edges = np.repeat(town(1)[0], 9, axis=0)
    for row, (column, value) in enumerate(
        [(0, 0.0), (0, 1000.0), (2, 0.01), (2, 10_000.0), (3, 0.01), (3, 10_000.0), (4, 1.0), (5, 0.01), (6, 90.0)]
    ):
        edges[row, column] = value
    assert largest_difference(scorer, model, edges) < 1e-6


def test_small_training_tables() -> None:
    model = ConformalRegressor(
        make_pipeline(
            SpatialFeatures(KERNEL),
            OffsetRegressor(HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=2)),
        )
    )
    model.fit(*town(12)).calibrate(*town(300, seed=1))
    assert largest_difference(Scorer(model, compile_trees(model)), model, town(50, seed=2)[0]) < 1e-6


def test_threads_do_not_disturb_each_other(scorer: Scorer) -> None:
    rows = town(400, seed=6)[0].tolist()
    expected = [scorer.score(row) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(scorer.score, rows)) == expected


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LinearRegression()),
        VotingRegressor([("spatial", spatial())]),
        make_pipeline(SpatialFeatures(KERNEL, wide=True), OffsetRegressor(HistGradientBoostingRegressor())),
    ],
)
def test_other_models_are_refused(estimator: object) -> None:
    model = ConformalRegressor(estimator).fit(*town(200)).calibrate(*town(200, seed=1))
    with pytest.raises(NotCompilableError, match="only the default spatial model"):
        compile_trees(model)


def test_a_model_without_intervals_is_refused() -> None:
    with pytest.raises(NotCompilableError, match="no calibrated intervals"):
        compile_trees(ConformalRegressor(spatial()).fit(*town(200)))
