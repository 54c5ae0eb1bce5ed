"""The spatial features: what a row may see, and that every way to ask gives the same answer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import skops.io
import yaml
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from tableloop.model.kriging import KILOMETRES, RowInputs
from tableloop.model.spatial import OffsetRegressor, SpatialFeatures

COLUMNS = ["MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude", "Longitude"]
PLACE = ["Latitude", "Longitude"]
TRAIN: dict[str, Any] = yaml.safe_load((Path(__file__).parents[4] / "params.yaml").read_text())["train"]
KERNEL: dict[str, Any] = TRAIN["kriging"]["kernel"]
FEATURES: dict[str, Any] = TRAIN["candidates"]["spatial"]["features"]
WIDE: dict[str, Any] = TRAIN["candidates"]["spatial"]["wide_features"]
EASTWARD = np.cos(np.radians(36.0))
TRUSTED = [
    "tableloop.model.spatial.SpatialFeatures",
    "tableloop.model.spatial.OffsetRegressor",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
]


Fitted: TypeAlias = tuple[SpatialFeatures, np.ndarray, np.ndarray]


def features(more: dict[str, Any] | None = None, **params: Any) -> SpatialFeatures:
    """Return the shipped features, unfitted, and some more."""
    return SpatialFeatures(COLUMNS, PLACE, **{
        "middle_latitude": 36.0, "kernel": KERNEL, "features": FEATURES | (more or {}), **params,
    })  # fmt: skip


def town(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around one place, half of them sharing their coordinates with another, and values that depend on both."""
    random = np.random.default_rng(seed)
    X = np.column_stack(
        [
            random.uniform(1, 8, rows), random.integers(1, 52, rows), random.uniform(3, 8, rows),
            random.uniform(0.8, 1.4, rows), random.integers(100, 3000, rows), random.uniform(2, 4, rows),
            36 + random.integers(0, 40, rows) / 100, -120 + random.integers(0, 40, rows) / 100,
        ]
    )  # fmt: skip
    return X, X[:, 0] / 2 + np.sin(20 * X[:, 6]) + random.normal(0, 0.1, rows)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    X, y = town(800)
    return features().fit(X, y), X, y


def kriged_slowly(train: np.ndarray, values: np.ndarray, row: np.ndarray, neighbours: int, candidates: int) -> float:
    """Ordinary kriging as in a textbook: the bordered system, one row, one covariance at a time."""
    of = RowInputs(features().fit(train, values).specification_)
    places = of.places

    def kernel_inputs(rows: np.ndarray) -> np.ndarray:
        return of(rows, places(rows))[1]

    scale = of.lengths * kernel_inputs(train).std(axis=0)

    def covariance(a: np.ndarray, b: np.ndarray) -> float:
        on_map = np.linalg.norm(places(a[None]) - places(b[None]))
        over_all = np.linalg.norm((kernel_inputs(a[None]) - kernel_inputs(b[None])) / scale)
        share = KERNEL["place_share"]
        return float(share * np.exp(-on_map / KERNEL["place_length"]) + (1 - share) * np.exp(-over_all))

    nearest = np.argsort(np.linalg.norm(places(train) - places(row[None]), axis=1))[:candidates]
    near = sorted(nearest, key=lambda i: -covariance(train[i], row))[:neighbours]
    system = np.ones((neighbours + 1, neighbours + 1))
    system[-1, -1] = 0
    for i, a in enumerate(near):
        for j, b in enumerate(near):
            system[i, j] = covariance(train[a], train[b]) if i != j else 1 + KERNEL["noise"]
    weights = np.linalg.solve(system, [*(covariance(train[i], row) for i in near), 1])[:-1]
    return float(weights @ values[near])


def test_the_kriging_estimate_is_the_textbooks() -> None:
    X, y = town(300)
    X[:, 6:] += np.random.default_rng(1).normal(0, 1e-3, (300, 2))  # no ties, so the nearest places are unique
    transformer = features(neighbours=12, candidates=30).fit(X, y)
    new = town(20, seed=2)[0]
    expected = [kriged_slowly(X, y, row, 12, 30) for row in new]
    np.testing.assert_allclose(transformer.transform(new)[:, -1], expected, rtol=1e-6)


def test_a_training_rows_own_target_does_not_move_its_features() -> None:
    X, y = town(400)
    before = features().fit_transform(X, y)
    for row in (0, 17, 399):
        changed = y.copy()
        changed[row] += 1000
        after = features().fit_transform(X, changed)
        np.testing.assert_array_equal(after[row], before[row])
        assert not np.array_equal(after, before)  # the others saw it


@pytest.mark.parametrize("wide", [False, True])
def test_leaving_one_out_equals_fitting_without_the_row(wide: bool) -> None:
    X, y = town(200)
    X[:, 6:] += np.random.default_rng(1).normal(0, 1e-3, (200, 2))
    together = features(WIDE if wide else None).fit_transform(X, y)
    for row in (3, 150):
        others = np.arange(200) != row
        alone = features(WIDE if wide else None).fit(X[others], y[others])
        # The spread of the inputs, too, is that of the other rows.
        whole = features(WIDE if wide else None).fit(X, y)
        alone.arrays_ |= {name: whole.arrays_[name] for name in ("input_scale",)}
        alone.arrays_["inputs"] = whole.arrays_["inputs"][others]
        alone.__setstate__(alone.__getstate__())
        np.testing.assert_allclose(alone.transform(X[[row]])[0], together[row], rtol=1e-5)


def test_a_row_that_was_in_fit_is_a_new_row_to_transform(fitted: Fitted) -> None:
    transformer, X, _ = fitted
    assert transformer.transform(X[:5])[:, 13].max() == 0  # its own place is the nearest


@pytest.mark.parametrize("wide", [False, True])
def test_one_row_equals_the_batch(wide: bool) -> None:
    X, y = town(600)
    transformer = features(WIDE if wide else None).fit(X, y)
    new = town(300, seed=1)[0]
    batch = transformer.transform(new)
    np.testing.assert_array_equal(np.vstack([transformer.transform(row[None]) for row in new]), batch)
    assert batch.dtype == np.float32
    assert batch.shape[1] == len(transformer.get_feature_names_out()) == len(set(transformer.get_feature_names_out()))


def test_more_rows_on_one_spot_than_candidates() -> None:
    X, y = town(150)
    X[:100] = X[0]
    made = features(candidates=20).fit_transform(X, y)
    assert np.isfinite(made).all()
    assert made[:100, -1].min() >= y.min() - 1
    assert made[:100, -1].max() <= y.max() + 1


@pytest.mark.parametrize("rows", [2, 3, 10])
def test_fewer_rows_than_neighbours(rows: int) -> None:
    X, y = town(rows)
    transformer = features()
    assert np.isfinite(transformer.fit_transform(X, y)).all()
    assert np.isfinite(transformer.transform(town(5, seed=3)[0])).all()


def test_the_edges_of_what_is_possible_give_numbers(fitted: Fitted) -> None:
    transformer, X, _ = fitted
    row = X[:1].copy()
    for column, value in ((0, 0.0), (2, 0.01), (3, 0.01), (3, 10_000.0), (4, 1.0), (5, 0.01), (6, 90.0), (7, 180.0)):
        edge = row.copy()
        edge[0, column] = value
        assert np.isfinite(transformer.transform(edge)).all()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (2, np.nan, "contains NaN"), (6, np.inf, "infinity"), (2, 0.0, "AveRooms must be greater than 0, not 0"),
        (5, -1.0, "AveOccup must be"), (0, -0.5, "MedInc must be greater than -0.5"), (4, -1.0, "Population must be"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_by_name(fitted: Fitted, column: int, value: float, message: str) -> None:
    transformer, X, y = fitted
    wrong = X.copy()
    wrong[3, column] = value
    with pytest.raises(ValueError, match=message):
        transformer.transform(wrong)
    with pytest.raises(ValueError, match=message):
        features().fit(wrong, y)


def test_wrong_tables_and_constants_are_refused() -> None:
    X, y = town(30)
    with pytest.raises(ValueError, match="X has 7 features"):
        features().fit(X[:, :7], y)
    with pytest.raises(ValueError, match="unknown kernel constants: Rooms"):
        features(kernel={"Rooms": 1.0}).fit(X, y)
    with pytest.raises(ValueError, match=r"there is no feature \{'distance': 1, 'mean': 2\}"):
        features({"Far": {"distance": 1, "mean": 2}}).fit(X, y)
    with pytest.raises(NotFittedError):
        features().transform(X)


def test_the_distance_to_the_nearest_training_place(fitted: Fitted) -> None:
    transformer, X, _ = fitted
    north = X[[0]].copy()
    north[0, 6] = 37.39  # the northernmost row lies at 36.39
    east = north.copy()
    assert transformer.nearest_km(X[:3]).tolist() == [0, 0, 0]
    assert transformer.nearest_km(north)[0] == pytest.approx(KILOMETRES, rel=0.05)
    east[0, 6:] = (X[:, 6].mean(), X[:, 7].max() + 1)
    assert transformer.nearest_km(east)[0] == pytest.approx(EASTWARD * KILOMETRES, rel=0.05)


@pytest.mark.parametrize("wide", [False, True])
def test_a_stored_model_answers_as_before_and_is_small(wide: bool) -> None:
    X, y = town(600)
    model = make_pipeline(
        features(WIDE if wide else None), OffsetRegressor(HistGradientBoostingRegressor(max_iter=5))
    )
    new = town(50, seed=4)[0]
    expected = model.fit(X, y).predict(new)
    stored = skops.io.dumps(model)
    assert set(skops.io.get_untrusted_types(data=stored)) == set(TRUSTED)
    np.testing.assert_array_equal(skops.io.loads(stored, trusted=TRUSTED).predict(new), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(new), expected)
    numbers_a_row = 19 if wide else 11  # eight inputs, two coordinates, the target; eight raw features
    assert len(pickle.dumps(model[0])) < 600 * 8 * numbers_a_row + 6000
    unfitted = skops.io.loads(skops.io.dumps(clone(model[0])), trusted=TRUSTED)
    assert unfitted.get_params() == model[0].get_params()


def test_names_come_in_the_order_of_the_columns(fitted: Fitted) -> None:
    transformer, X, y = fitted
    names = list(transformer.get_feature_names_out())
    assert names == [*COLUMNS, *FEATURES, "KrigingUncertainty", "Kriging"]
    out = transformer.transform(X[:10])
    np.testing.assert_allclose(out[:, names.index("RoomsPerPerson")], X[:10, 2] / X[:10, 5], rtol=1e-6)
    assert np.corrcoef(out[:, names.index("Kriging")], y[:10])[0, 1] > 0.9
    assert 0 < out[:, names.index("KrigingUncertainty")].min() < out[:, names.index("KrigingUncertainty")].max() < 1


def test_the_offset_is_added_and_the_answer_stays_in_the_range() -> None:
    X = np.array([[0.0, 2.0], [0.0, 40.0], [0.0, -40.0]] * 10)
    model = OffsetRegressor(DummyRegressor(strategy="constant", constant=3.0), share=0.5).fit(
        X, np.array([1.0, 9.0, 5.0] * 10)
    )
    assert model.predict(X[:3]).tolist() == [4.0, 9.0, 1.0]


def test_the_regressor_keeps_scikit_learns_contract() -> None:
    assert {result["status"] for result in check_estimator(OffsetRegressor(), on_skip=None)} <= {"passed", "skipped"}


OWN_TABLES = {
    "check_fit_score_takes_y", "check_estimators_overwrite_params", "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self", "check_readonly_memmap_input", "check_n_features_in_after_fitting",
    "check_positive_only_tag_during_fit", "check_estimators_dtypes", "check_dtype_object",
    "check_pipeline_consistency", "check_estimators_nan_inf", "check_estimators_pickle",
    "check_f_contiguous_array_estimator", "check_transformer_data_not_an_array", "check_transformer_general",
    "check_transformer_preserve_dtypes", "check_methods_sample_order_invariance", "check_methods_subset_invariance",
    "check_fit2d_1feature", "check_dict_unchanged", "check_fit_idempotent", "check_fit_check_is_fitted",
    "check_n_features_in", "check_fit2d_predict1d",
}  # fmt: skip


def test_the_transformer_keeps_scikit_learns_contract() -> None:
    """The checks that fail bring tables without the eight columns; the tests above ask the same of tables of ours."""
    results = check_estimator(SpatialFeatures(COLUMNS, PLACE), on_fail=None, on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "failed"} == OWN_TABLES
