"""The compiled scorer gives the answers of scikit-learn, however the rows arrive."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, VotingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tableloop.model.conformal import ConformalRegressor
from tableloop.model.onnx_export import NotCompilableError, compile_model, compile_trees, write_scorer
from tableloop.model.onnx_scorer import ARRAYS, FORMAT, TREES, BrokenScorerError, Scorer
from tableloop.model.spatial import OffsetRegressor
from tests.unit.tableloop.model.test_spatial import COLUMNS, WIDE, features, town

ROOT = Path(__file__).parents[4]


def spatial() -> Pipeline:
    trees = HistGradientBoostingRegressor(max_iter=40, random_state=0)
    return make_pipeline(features(), OffsetRegressor(trees))


@pytest.fixture(scope="module")
def model() -> ConformalRegressor:
    return ConformalRegressor(spatial(), COLUMNS).fit(*town(1500)).calibrate(*town(500, seed=1))


def compiled(model: ConformalRegressor) -> Scorer:
    return Scorer(*compile_model(model, town(5)[0]))


def expected(model: ConformalRegressor, rows: np.ndarray) -> np.ndarray:
    return np.stack(model.predict_interval(rows), axis=1)


@pytest.fixture(scope="module")
def scorer(model: ConformalRegressor) -> Scorer:
    return compiled(model)


def test_it_answers_as_scikit_learn(model: ConformalRegressor, scorer: Scorer) -> None:
    rows = town(2500, seed=2)[0]
    assert scorer.difference(rows, expected(model, rows)) < 1e-6


def test_a_wide_model_is_scored_too() -> None:
    trees = HistGradientBoostingRegressor(max_iter=5, random_state=0)
    model = ConformalRegressor(make_pipeline(features(more=WIDE), OffsetRegressor(trees)), COLUMNS)
    model.fit(*town(300)).calibrate(*town(300, seed=1))
    rows = town(50, seed=2)[0]
    assert compiled(model).difference(rows, expected(model, rows)) < 1e-6


@pytest.mark.parametrize("count", [0, 1, 2, 16, 1024, 1025])
def test_any_number_of_rows(model: ConformalRegressor, scorer: Scorer, count: int) -> None:
    rows = town(1025, seed=4)[0][:count]
    answer = scorer.predict(rows)
    assert [part.shape for part in answer if part is not None] == [(count,)] * 4
    if count:
        np.testing.assert_allclose(answer[:3], model.predict_interval(rows), atol=1e-6)
        distances = model.nearest_training_km(rows)
        assert answer.kilometres is not None
        assert distances is not None
        np.testing.assert_allclose(answer.kilometres, distances, atol=1e-4)


def test_a_training_row_that_is_left_out_is_answered_as_in_training(
    model: ConformalRegressor, scorer: Scorer
) -> None:
    rows = town(1500)[0]
    features = model.estimator[0]
    expected = model.estimator[-1].predict(features.left_out(rows, np.arange(len(rows))))
    left_out = scorer.left_out(rows)
    np.testing.assert_allclose(left_out.values, expected, atol=1e-6)
    known = scorer.predict(rows)
    assert known.kilometres is not None
    assert left_out.kilometres is not None
    assert known.kilometres.max() == 0
    assert left_out.kilometres.min() >= 0
    assert left_out.kilometres.mean() > 0


def test_a_row_that_was_no_training_row_loses_none_of_its_neighbours(scorer: Scorer) -> None:
    rows = town(200, seed=2)[0]
    np.testing.assert_allclose(scorer.left_out(rows)[:3], scorer.predict(rows)[:3], atol=1e-9)


def test_the_weights_of_neighbours_make_the_kriging_estimate(model: ConformalRegressor, scorer: Scorer) -> None:
    rows, targets = town(1500)
    for row in town(20, seed=2)[0]:
        near = scorer.neighbours(row)
        assert near is not None
        assert near.weights.sum() == pytest.approx(1, abs=1e-9)
        estimate = model.estimator[0].transform(row[None])[0, -1]
        assert near.weights @ near.values == pytest.approx(estimate, rel=1e-5)
        assert near.kilometres.tolist() == sorted(near.kilometres)
    itself = scorer.neighbours(rows[0])
    others = scorer.neighbours(rows[0], left_out=True)
    assert itself is not None
    assert others is not None
    assert targets[0] in itself.values
    assert targets[0] not in others.values
    place = [rows[0, COLUMNS.index(name)] for name in ("Latitude", "Longitude")]
    nearest = itself.kilometres.argmin()
    assert [itself.latitudes[nearest], itself.longitudes[nearest]] == pytest.approx(place)


def test_it_comes_back_from_its_files(model: ConformalRegressor, scorer: Scorer, tmp_path: Path) -> None:
    write_scorer(model, town(5)[0], tmp_path / "scorer")
    loaded = Scorer.load(tmp_path / "scorer")
    rows = town(100, seed=5)[0]
    np.testing.assert_array_equal(loaded.predict(rows), scorer.predict(rows))


def test_nothing_of_scikit_learn_is_imported_to_run_it(model: ConformalRegressor, tmp_path: Path) -> None:
    write_scorer(model, town(5)[0], tmp_path)
    script = """
import sys
from pathlib import Path
from tableloop.model.onnx_scorer import Scorer
Scorer.load(Path(sys.argv[1]))
assert not {"sklearn", "skops", "mlflow", "pandas", "onnx", "scipy", "tableloop.table"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_reports_to_nobody(model: ConformalRegressor, tmp_path: Path) -> None:
    write_scorer(model, town(5)[0], tmp_path / "scorer")
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    script = "from pathlib import Path; from tableloop.model.onnx_scorer import Scorer; Scorer.load(Path('scorer'))"
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    assert [*home.rglob("*")] == []  # onnxruntime's telemetry begins with an id of the machine in HOME


def damaged(files: Path, what: str) -> None:
    """Damage the files of a scorer in ways that happen to files."""
    trees, arrays = files / TREES, files / ARRAYS
    if what == "no trees":
        trees.unlink()
    elif what == "cut off":
        arrays.write_bytes(arrays.read_bytes()[:-5000])
    elif what == "no arrays":
        arrays.write_bytes(b"something else")
    elif what == "other trees":
        trees.write_bytes(trees.read_bytes() + b"x")
    else:
        with np.load(arrays) as stored:
            content = dict(stored)
        content["format" if what == "other format" else "expected"] += 1
        np.savez(arrays, allow_pickle=False, **content)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no trees", "cannot be read"),
        ("cut off", "cannot be read"),
        ("no arrays", "cannot be read"),
        ("other trees", "not the file that belongs"),
        ("other format", f"its format is {FORMAT + 1}, not {FORMAT}"),
        ("other answers", "up to 0.2 of the largest value from scikit-learn's"),
    ],
)
def test_broken_files_are_refused(model: ConformalRegressor, tmp_path: Path, what: str, reason: str) -> None:
    write_scorer(model, town(5)[0], tmp_path)
    damaged(tmp_path, what)
    with pytest.raises(BrokenScorerError, match=reason):
        Scorer.load(tmp_path)


def test_values_at_the_ends_of_what_is_possible(model: ConformalRegressor, scorer: Scorer) -> None:
    edges = np.repeat(town(1)[0], 9, axis=0)
    for row, (column, value) in enumerate(
        [(0, 0.0), (0, 1000.0), (2, 0.01), (2, 10_000.0), (3, 0.01), (3, 10_000.0), (4, 1.0), (5, 0.01), (6, 90.0)]
    ):
        edges[row, column] = value
    assert scorer.difference(edges, expected(model, edges)) < 1e-6


def test_small_training_tables() -> None:
    model = ConformalRegressor(
        make_pipeline(
            features(),
            OffsetRegressor(HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=2)),
        ),
        COLUMNS,
    )
    model.fit(*town(12)).calibrate(*town(300, seed=1))
    rows = town(50, seed=2)[0]
    assert compiled(model).difference(rows, expected(model, rows)) < 1e-6


def test_threads_do_not_disturb_each_other(scorer: Scorer) -> None:
    rows = town(400, seed=6)[0][:, None]
    expected = [scorer.predict(row) for row in rows]
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(list(pool.map(scorer.predict, rows)), expected)


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LinearRegression()),
        make_pipeline(features(), PCA(2), LinearRegression()),
        make_pipeline(features(), KNeighborsRegressor()),
        VotingRegressor([("spatial", spatial())]),
    ],
)
def test_other_models_are_refused(estimator: object) -> None:
    model = ConformalRegressor(estimator, COLUMNS).fit(*town(200)).calibrate(*town(200, seed=1))
    with pytest.raises(NotCompilableError, match=r"only one model with its features|no compiled form of"):
        compile_trees(model)


def test_a_model_without_intervals_is_refused() -> None:
    with pytest.raises(NotCompilableError, match="no calibrated intervals"):
        compile_trees(ConformalRegressor(spatial(), COLUMNS).fit(*town(200)))
