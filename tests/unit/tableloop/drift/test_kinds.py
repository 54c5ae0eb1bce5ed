"""What the statistics of drift say of categories, booleans, dates and missing values."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitoring.drift_check import load_policy
from tableloop.drift.levels import with_unknown
from tableloop.drift.reference import Reference
from tableloop.drift.report import as_html, as_text
from tableloop.drift.statistics import Matrix, compare, make_reference
from tableloop.table import Table

POLICY = load_policy()
TABLE = Table.model_validate(
    {
        "name": "charges",
        "path": "raw/charges.csv",
        "target": "charges",
        "fields": [
            {
                "name": "age",
                "type": "integer",
                "example": 30,
                "constraints": {"minimum": 0, "maximum": 120, "required": False},
            },
            {"name": "smoker", "type": "string", "categories": ["no", "yes"], "example": "no"},
            {
                "name": "region",
                "type": "string",
                "categories": [f"r{number}" for number in range(100)],
                "example": "r1",
                "constraints": {"required": False},
            },
            {"name": "married", "type": "boolean", "example": True},
            {
                "name": "seen",
                "type": "date",
                "example": "2013-05-06",
                "constraints": {"minimum": "2010-01-01", "maximum": "2020-01-01"},
            },
            {"name": "charges", "example": 10_000, "constraints": {"minimum": -100_000, "maximum": 100_000}},
        ],
    }
)
LONGEST_AGO = np.datetime64("2012-01-01")


def some_rows(
    count: int, seed: int, *, smokers: float = 0.2, no_age: float = 0.03, elsewhere: float = 0.0, later: int = 0
) -> Matrix:
    """Return coded rows."""
    rng = np.random.default_rng(seed)
    region = pd.Series([f"r{number}" for number in np.minimum(rng.geometric(0.05, count) - 1, 99)], dtype=object)
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(count) < no_age, np.nan, rng.integers(18, 65, count)),
            "smoker": np.where(rng.random(count) < smokers, "yes", "no"),
            "region": region.mask(rng.random(count) < 0.1, None).mask(rng.random(count) < elsewhere, "elsewhere"),
            "married": rng.random(count) < 0.5,
            "seen": (LONGEST_AGO + later + rng.integers(0, 1000, count)).astype(str),
        }
    )
    return with_unknown(TABLE.coding.frame(frame), frame.notna().to_numpy(), TABLE.coding)


def predicted(rows: Matrix) -> Matrix:
    return 20_000 * rows[:, 1] - 5000


@pytest.fixture(scope="module")
def reference() -> Reference:
    rows, unseen = some_rows(8000, 1), some_rows(2000, 2)
    return make_reference(rows, predicted(unseen), 4512.1, columns=TABLE.feature_names, kinds=TABLE.kinds)


def report_of(reference: Reference, rows: Matrix) -> dict[str, Any]:
    report = compare(reference, rows, predicted(rows), POLICY, TABLE)
    json.dumps(report, allow_nan=False)
    return report | {"policy": asdict(POLICY)}


def column(report: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(column for column in report["columns"] if column["name"] == name)
    return found


def moved(report: dict[str, Any]) -> set[str]:
    return {column["name"] for column in report["columns"] if column["drifted"]}


def test_other_rows_of_the_same_kind_are_no_drift(reference: Reference) -> None:
    report = report_of(reference, some_rows(1000, 3))
    assert (report["status"], report["summary"]) == ("no drift", "nothing moved")
    assert [column["name"] for column in report["columns"]] == [*TABLE.feature_names, "prediction"]


def test_a_level_that_grew_is_named_with_its_shares(reference: Reference) -> None:
    report = report_of(reference, some_rows(1000, 3, smokers=0.48))
    assert moved(report) == {"smoker", "prediction"}
    smoker = column(report, "smoker")
    assert [level["level"] for level in smoker["levels"]] == ["no", "yes"]
    assert smoker["levels"][1]["now"] == pytest.approx(0.48, abs=0.05)
    assert {smoker[name] for name in ("direction", "median_before", "median_now", "wasserstein", "ks")} == {None}
    assert "smoker yes 19 % → 48 %" in report["summary"]
    assert "smoker" in as_text(report)
    assert "yes 19 % → 48 %" in as_html(report)


def test_a_level_that_no_training_row_had_is_found(reference: Reference) -> None:
    report = report_of(reference, some_rows(1000, 3, elsewhere=0.06))
    assert moved(report) == {"region"}
    assert "region unknown 0 % → " in report["summary"]


def test_more_missing_values_are_drift(reference: Reference) -> None:
    report = report_of(reference, some_rows(1000, 3, no_age=0.2))
    age = column(report, "age")
    assert moved(report) == {"age"}
    assert age["change"].startswith("missing 3 % → ")
    assert (age["missing_before"], age["missing_now"]) == pytest.approx((0.03, 0.2), abs=0.03)
    assert "age missing 3 % → " in report["summary"]
    assert "median" not in report["summary"]


def test_a_column_that_is_missing_everywhere_is_told(reference: Reference) -> None:
    rows = some_rows(1000, 3, no_age=1.0)
    report = report_of(reference, rows)
    assert column(report, "age")["change"] == "missing 3 % → 100 %"
    assert "missing 3 % → 100 %" in as_text(report)
    assert "missing 3 % → 100 %" in as_html(report)
    never = some_rows(2000, 1)
    never[:, [0, 2]] = np.nan
    without = make_reference(never, predicted(never), 1.0, columns=TABLE.feature_names, kinds=TABLE.kinds)
    rows[:, 2] = np.nan
    assert not {"age", "region"} & moved(report_of(without, rows))
    assert column(report_of(without, some_rows(1000, 3)), "age")["change"].startswith("missing 100 % → ")


def test_dates_are_days_that_read_as_dates(reference: Reference) -> None:
    report = report_of(reference, some_rows(1000, 3, later=200))
    assert moved(report) == {"seen"}
    seen = column(report, "seen")
    assert (seen["direction"], seen["median_before"][:5], len(seen["median_now"])) == ("up", "2013-", 10)
    assert f"seen up (median {seen['median_before']} to {seen['median_now']}, PSI" in report["summary"]
    line = next(line for line in as_text(report).splitlines() if line.startswith("seen"))
    assert f" {seen['median_now']} {seen['median_before']}  up" in line


def test_rows_that_no_longer_go_together_are_found_by_their_levels(reference: Reference) -> None:
    rows = some_rows(8000, 1)
    rows[:, 3] = rows[:, 1]  # smokers are married, others are not
    tied = make_reference(rows, predicted(rows), 1.0, columns=TABLE.feature_names, kinds=TABLE.kinds)
    window = rows[:1000].copy()
    window[:, 3] = window[::-1, 3]
    report = report_of(tied, window)
    assert moved(report) == set()
    assert report["joint"]["drifted"]


def test_a_level_that_nobody_knew_is_missing_to_a_model(reference: Reference) -> None:
    coding = TABLE.coding
    places = [place for place, name in enumerate(TABLE.feature_names) if TABLE.kinds.get(name, {}).get("categories")]
    unknown = len(TABLE.kinds[TABLE.feature_names[places[0]]]["categories"])
    rows = reference.rows.copy()
    rows[0, places[0]] = unknown
    coded = replace(reference, rows=rows).coded(coding)
    assert np.isnan(coded[0, places[0]])
    np.testing.assert_array_equal(np.delete(coded, places[0], axis=1), np.delete(rows, places[0], axis=1))


def test_a_reference_with_kinds_comes_back_as_it_was(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "reference.npz")
    order = ["seen", "married", "region", "smoker", "age"]
    turned = Reference.load(tmp_path / "reference.npz", order)
    assert turned.kinds == TABLE.kinds
    np.testing.assert_array_equal(turned.levels[3], reference.levels[1])
    rows = some_rows(1000, 3, smokers=0.48)
    again = compare(turned, rows[:, [4, 3, 2, 1, 0]], predicted(rows), POLICY, TABLE)
    assert moved(again) == {"smoker", "prediction"}


def test_a_weight_is_worth_as_many_rows_of_each_level() -> None:
    rows = some_rows(500, 5)
    weights = np.random.default_rng(0).integers(0, 3, 500).astype(float)
    weighted, repeated = (
        make_reference(rows, predicted(rows), 1.0, columns=TABLE.feature_names, kinds=TABLE.kinds, weights=weights),
        make_reference(
            np.repeat(rows, weights.astype(int), axis=0),
            predicted(rows),
            1.0,
            columns=TABLE.feature_names,
            kinds=TABLE.kinds,
        ),
    )
    for name in ("quantiles", "levels", "missing", "deviations"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), err_msg=name)


def test_a_table_of_one_category_has_no_pair_to_name() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (2000, 1)).astype(float)
    kinds = {"smoker": TABLE.kinds["smoker"]}
    table = TABLE.model_copy(update={"fields": (TABLE.features[1], TABLE.target)})
    reference = make_reference(rows, rows[:, 0], 1.0, columns=("smoker",), kinds=kinds)
    report = compare(reference, rows[:1000], rows[:1000, 0], POLICY, table)
    assert (report["status"], report["joint"]["pair"]) == ("no drift", [])
