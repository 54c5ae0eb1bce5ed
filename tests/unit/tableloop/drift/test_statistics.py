"""The statistics of drift against known answers, scipy and scikit-learn, and what they say of real rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import ks_2samp, spearmanr, wasserstein_distance

from tableloop.drift import statistics
from tableloop.drift.reference import QUANTILES, Reference
from tableloop.drift.report import as_html, as_text
from tableloop.drift.statistics import Matrix, Policy, compare, make_reference
from tableloop.table import load_table

ROOT = Path(__file__).parents[4]
TABLE = load_table()
FEATURE_NAMES = TABLE.feature_names
POLICY = Policy(**yaml.safe_load((ROOT / "params.yaml").read_text())["drift"])


@pytest.fixture(scope="module")
def rows() -> Matrix:
    """All rows in random order: any two parts of them are alike."""
    frame = pd.read_csv(ROOT / "data/raw/california_housing.csv")[list(FEATURE_NAMES)]
    return np.random.default_rng(3).permutation(frame.to_numpy(np.float64))


@pytest.fixture(scope="module")
def reference(rows: Matrix) -> Reference:
    return make_reference(rows[:16_000], predicted(rows[16_000:18_000]), 0.4, columns=FEATURE_NAMES)


def predicted(rows: Matrix) -> Matrix:
    return 0.4 * rows[:, 0]


def drifted(report: dict[str, object]) -> set[str]:
    columns = report["columns"]
    assert isinstance(columns, list)
    return {column["name"] for column in columns if column["drifted"]}


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("digits", [8, 0])
def test_the_ks_test_is_that_of_scipy(shift: float, digits: int) -> None:
    rng = np.random.default_rng(0)
    reference = np.sort(rng.normal(size=1024).round(digits))
    sample = (rng.normal(size=700) + shift).round(digits)
    expected = ks_2samp(reference, sample, method="asymp")
    assert statistics.ks_test(reference, 1024, sample) == pytest.approx((expected.statistic, expected.pvalue))


def test_a_sketch_gives_nearly_the_test_of_all_rows(rows: Matrix, reference: Reference) -> None:
    window = rows[18_000:19_000, 1]
    expected = ks_2samp(rows[:16_000, 1], window, method="asymp")
    distance, p_value = statistics.ks_test(reference.quantiles[1], reference.counts[1], window)
    assert distance == pytest.approx(expected.statistic, abs=1 / QUANTILES)
    assert p_value == pytest.approx(expected.pvalue, abs=0.05)


def test_the_distance_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    reference, sample = np.sort(rng.normal(size=500)), rng.exponential(size=500)
    distance, shift = statistics.distances(reference, sample)
    assert distance == pytest.approx(wasserstein_distance(reference, sample))
    assert statistics.distances(reference, reference + 2) == pytest.approx((2, 1))
    assert statistics.distances(reference, reference - 2) == pytest.approx((2, -1))
    assert statistics.distances(reference, reference[::-1]) == (0, 0)
    assert shift > 0.9


def test_the_stability_index_of_a_known_example() -> None:
    reference = np.repeat([1.0, 2.0], 500)  # one edge: two bins
    sample = np.repeat([1.0, 2.0], [800, 200])
    shares = np.array([500.5, 500.5]) / 1001, np.array([800.5, 200.5]) / 1001
    expected = ((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum()
    assert statistics.stability_index(reference, 1000, sample) == pytest.approx(expected)
    assert statistics.stability_index(reference, 1000, reference) == 0


def test_a_live_error_is_worse_when_it_is_large_and_no_chance() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal(size=400)
    promised = float(np.sqrt(np.mean(errors**2)))
    assert not statistics.live_error(errors, promised, POLICY)["worse"]
    assert statistics.live_error(1.5 * errors, promised, POLICY)["worse"]
    assert not statistics.live_error(1.2 * errors, promised, POLICY)["worse"]  # below the margin
    assert not statistics.live_error(1.5 * errors[:199], promised, POLICY)["worse"]  # too few labels
    outlier = np.append(errors, 20 * promised)  # one row makes the RMSE large, and is no evidence
    live = statistics.live_error(outlier, promised, POLICY)
    assert live["rmse"] > live["limit"]
    assert not live["worse"]
    assert statistics.live_error(np.full(300, 2.0), 1.0, POLICY)["worse"]
    assert not statistics.live_error(np.empty(0), 1.0, POLICY)["worse"]


def test_holm_of_a_known_example() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_the_changed_pair_is_named_with_scipys_correlations(rows: Matrix) -> None:
    before, now = rows[:1000], rows[1000:2000].copy()
    now[:, 7] = now[::-1, 7]
    joint = statistics.joint_change(FEATURE_NAMES, before, now)
    assert joint["pair"] == ["Latitude", "Longitude"]
    assert joint["correlation_before"] == pytest.approx(spearmanr(before[:, 6], before[:, 7]).statistic)
    assert joint["correlation_now"] == pytest.approx(spearmanr(now[:, 6], now[:, 7]).statistic)


def test_other_rows_of_the_same_world_are_no_drift(rows: Matrix, reference: Reference) -> None:
    report = compare(reference, rows[18_000:19_000], predicted(rows[18_000:19_000]), POLICY, TABLE)
    assert (report["status"], report["summary"]) == ("no drift", "nothing moved")
    assert [column["name"] for column in report["columns"]] == [*FEATURE_NAMES, "prediction"]


def test_a_risen_income_is_named_with_its_direction_and_its_medians(rows: Matrix, reference: Reference) -> None:
    window = rows[18_000:19_000].copy()
    window[:, 0] *= 1.25
    report = compare(reference, window, predicted(window), POLICY, TABLE)
    assert report["status"] == "drift"
    assert drifted(report) == {"MedInc", "prediction"}
    income = report["columns"][0]
    assert income["direction"] == "up"
    assert income["median_now"] == pytest.approx(np.median(window[:, 0]))
    assert f"MedInc up (median {income['median_before']:.4g} to {income['median_now']:.4g}" in report["summary"]


def test_columns_that_stay_while_the_rows_change_are_found(rows: Matrix, reference: Reference) -> None:
    window = rows[18_000:19_000].copy()
    window[:, 0] = window[::-1, 0]
    report = compare(reference, window, predicted(window), POLICY, TABLE)
    assert report["status"] == "drift"
    assert drifted(report) == set()
    assert report["joint"]["drifted"]
    assert "rows as a whole" in report["summary"]
    assert "MedInc" in report["summary"]


def test_a_wider_spread_is_called_so(rows: Matrix, reference: Reference) -> None:
    window = rows[18_000:19_000].copy()
    middle = np.median(window[:, 1])
    window[:, 1] = middle + 2 * (window[:, 1] - middle)
    age = compare(reference, window, predicted(window), POLICY, TABLE)["columns"][1]
    assert (age["name"], age["drifted"], age["direction"]) == ("HouseAge", True, "wider")


def test_too_few_predictions_say_nothing(rows: Matrix, reference: Reference) -> None:
    report = compare(reference, rows[:499], predicted(rows[:499]), POLICY, TABLE)
    assert report["status"] == "not enough data"
    assert "499 predictions, 500 are needed" in report["summary"]
    empty = compare(reference, np.empty((0, 8)), np.empty(0), POLICY, TABLE)
    assert empty["status"] == "not enough data"


def test_predictions_of_another_version_are_left_out(rows: Matrix, reference: Reference) -> None:
    report = compare(reference, rows[18_000:19_000], predicted(rows[18_000:18_100]), POLICY, TABLE)
    assert [column["name"] for column in report["columns"]] == list(FEATURE_NAMES)


def test_constant_columns_and_one_row_again_and_again() -> None:
    rng = np.random.default_rng(0)
    constant = np.column_stack([np.full(2000, 3.0), rng.normal(size=(2000, 7))])
    reference = make_reference(constant, np.full(2000, 2.0), 0.4, columns=FEATURE_NAMES)
    same = compare(reference, constant[:600], np.full(600, 2.0), POLICY, TABLE)
    assert drifted(same) == set()
    lower = constant[:600] - [1, 0, 0, 0, 0, 0, 0, 0]
    assert drifted(compare(reference, lower, np.full(600, 2.0), POLICY, TABLE)) == {"MedInc"}
    one_row = compare(reference, np.repeat(constant[:1], 600, axis=0), np.full(600, 2.0), POLICY, TABLE)
    assert one_row["status"] == "drift"
    json.dumps([same, one_row], allow_nan=False)


def test_a_weight_is_worth_as_many_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 8))
    weights = rng.integers(0, 3, 500).astype(float)
    weighted = make_reference(rows, rows[:, 0], 0.4, weights=weights, columns=FEATURE_NAMES)
    repeated = make_reference(np.repeat(rows, weights.astype(int), axis=0), rows[:, 0], 0.4, columns=FEATURE_NAMES)
    np.testing.assert_allclose(weighted.quantiles, repeated.quantiles)
    np.testing.assert_allclose(weighted.deviations, repeated.deviations)
    assert weighted.counts[0] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert {tuple(row) for row in weighted.rows} == {tuple(row) for row in rows[weights > 0]}


def test_a_reference_is_small_and_comes_back_as_it_was(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "reference.npz")
    assert (tmp_path / "reference.npz").stat().st_size < 300_000
    again = Reference.load(tmp_path / "reference.npz", FEATURE_NAMES)
    for name in Reference.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(reference, name))


def test_a_reference_is_read_by_the_names_of_its_columns(reference: Reference, tmp_path: Path) -> None:
    path, order = tmp_path / "reference.npz", [*range(1, 8), 0]
    reference.save(path)
    turned = Reference.load(path, [FEATURE_NAMES[i] for i in order])
    np.testing.assert_array_equal(turned.quantiles, reference.quantiles[[*order, 8]])
    np.testing.assert_array_equal(turned.rows, reference.rows[:, order])
    with pytest.raises(ValueError, match="of other columns: MedInc"):
        Reference.load(path, [*FEATURE_NAMES[:7], "Age"])


def test_references_of_former_versions_are_read(reference: Reference, tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    former = asdict(reference)
    for name in ("missing", "levels", "kinds"):  # of when there were only numbers
        del former[name]
    np.savez_compressed(path, **former)
    again = Reference.load(path, FEATURE_NAMES)
    assert asdict(again).keys() == asdict(reference).keys()
    assert (again.kinds, again.missing.tolist(), again.levels.shape) == ({}, [0.0] * 9, (9, 0))
    del former["columns"]  # the first ones were in the order of the table
    np.savez_compressed(path, **former)
    assert Reference.load(path, FEATURE_NAMES).columns == FEATURE_NAMES


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x93NUMPY", b"{}"])
def test_a_file_that_is_no_reference_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "reference.npz").write_bytes(content)
    with pytest.raises(ValueError, match="reference"):
        Reference.load(tmp_path / "reference.npz", FEATURE_NAMES)


def test_a_report_reads_as_text_and_as_a_page(rows: Matrix, reference: Reference) -> None:
    window = rows[18_000:19_000] * np.array([1.25, 1, 1, 1, 1, 1, 1, 1])
    added = {"policy": asdict(POLICY), "monitor": {"says": "waits for <more> labels"}}
    report = compare(reference, window, predicted(window), POLICY, TABLE) | added
    text, page = as_text(report), as_html(report)
    assert text.startswith("drift: ")
    assert len([line for line in text.splitlines() if line.startswith((*FEATURE_NAMES, "prediction"))]) == 9
    assert page.count("<svg") == 9
    assert "&lt;more&gt;" in page
    assert "http" not in page
    assert "src=" not in page
    assert "<h1>Drift: " in page
    assert page.index("Median income") < page.index("House age")  # what moved comes first
    nothing = compare(reference, rows[:3], predicted(rows[:3]), POLICY, TABLE)
    assert as_text(nothing).startswith("not enough data: ")
    assert "<h1>Not enough data</h1>" in as_html(nothing)
