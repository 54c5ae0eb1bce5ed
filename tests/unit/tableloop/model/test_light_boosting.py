"""LightGBM fits, and its trees go on without it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.base import clone
from skops import io as skops_io

from tableloop.model.candidates import Setting, build
from tableloop.model.light_boosting import LightBoosting
from tableloop.model.trusted_types import TRUSTED_TYPES


def rows_of(count: int, seed: int, *, gaps: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of two numbers and the codes of two categories, with their values."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, [3, 200], (count, 2)).astype(np.float64)
    rows = np.column_stack([random.normal(size=(count, 2)), codes])
    values = rows[:, 0] * 3 + np.sin(codes[:, 1]) * 5 + (codes[:, 0] == 1) * rows[:, 1]
    if gaps:
        rows[random.random(rows.shape) < 0.1] = np.nan
    return rows, values


@pytest.mark.parametrize("gaps", [True, False])
@pytest.mark.parametrize("objective", ["regression", "quantile"])
def test_the_arrays_predict_what_lightgbm_predicts(objective: str, gaps: bool) -> None:
    rows, values = rows_of(3000, 0, gaps=gaps)
    model = LightBoosting(objective=objective, num_iterations=40, categorical=[2, 3], seed=1).fit(rows, values)
    data = lightgbm.Dataset(rows, values, categorical_feature=[2, 3])
    booster = lightgbm.train(model.lightgbm_params | {"num_threads": 1}, data)
    asked, _ = rows_of(2000, 1, gaps=True)  # also where nothing was missing in training
    asked[:3, 3] = [250, 199, 0]
    expected = booster.predict(asked)
    np.testing.assert_allclose(model.predict(asked), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


def test_the_same_rows_give_the_same_trees() -> None:
    rows, values = rows_of(2000, 0, gaps=True)
    model = LightBoosting(num_iterations=20, bagging_fraction=0.5, bagging_freq=1, feature_fraction=0.5)
    asked = rows_of(500, 1, gaps=True)[0]
    first, again = (clone(model).fit(rows, values).predict(asked) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, clone(model).set_params(seed=1).fit(rows, values).predict(asked))


def test_a_version_predicts_where_there_is_no_lightgbm(tmp_path: Any) -> None:
    rows, values = rows_of(500, 0, gaps=True)
    model = LightBoosting(num_iterations=5, categorical=[2, 3]).fit(rows, values)
    skops_io.dump(model, tmp_path / "model.skops")
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "expected.npy", model.predict(rows))
    program = f"""
import sys
sys.modules["lightgbm"] = None
import numpy as np
from skops import io
model = io.load("model.skops", trusted={[*TRUSTED_TYPES]!r})
assert np.array_equal(model.predict(np.load("rows.npy")), np.load("expected.npy"))
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_a_missing_package_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package of this name: pip install '\.\[cluster\]'"):
        LightBoosting().fit(*rows_of(100, 0, gaps=False))


def test_unknown_parameters_and_objectives_are_refused() -> None:
    setting = Setting(["a", "b"], None, {}, 0)
    with pytest.raises(ValueError, match=r"train\.candidates\.lightgbm in params\.yaml: .*'n_trees'"):
        build("lightgbm", {"n_trees": 5}, setting)
    with pytest.raises(ValueError, match="objective 'poisson' is none of regression, "):
        LightBoosting(objective="poisson").fit(*rows_of(100, 0, gaps=False))
