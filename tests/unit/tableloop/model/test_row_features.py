from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

from tableloop.model.row_features import RowFeatures
from tests.unit.tableloop.model.test_spatial import COLUMNS, PLACE

ROW = np.array([[8.3252, 41, 6.984126984126984, 1.0238095238095235, 322, 2.555555555555556, 37.88, -122.23]])
TERMS: dict[str, dict[str, Any]] = {
    "BedroomShare": {"ratio": ["AveBedrms", "AveRooms"]},
    "IncomeRooms": {"product": ["MedInc", "AveRooms"]},
    "NorthEast": {"angle": 45},
    "NorthWest": {"angle": -45},
    "Population": {"plus": 1.0, "log": True, "clip": [400, 500]},
}


def features() -> RowFeatures:
    return RowFeatures(COLUMNS, TERMS, PLACE)


def test_terms_of_the_first_row() -> None:
    made = features().fit(ROW)
    values = dict(zip(list(made.get_feature_names_out())[8:], made.transform(ROW)[0][8:], strict=True))
    assert values == pytest.approx(
        {
            "BedroomShare": 1.0238095238095235 / 6.984126984126984,
            "IncomeRooms": 8.3252 * 6.984126984126984,
            "NorthEast": (37.88 - 122.23) / np.sqrt(2),
            "NorthWest": (37.88 + 122.23) / np.sqrt(2),
            "Population": np.log(401),
        }
    )
    np.testing.assert_array_equal(made.transform(ROW)[:, :8], ROW)


def test_without_terms_the_columns_stay_alone() -> None:
    np.testing.assert_array_equal(RowFeatures(COLUMNS, {}).fit(ROW).transform(ROW), ROW)


def test_a_row_has_the_same_features_alone_and_among_others() -> None:
    rows = ROW * np.linspace(0.5, 1.5, 50)[:, None]
    made = features().fit(rows)
    np.testing.assert_array_equal(made.transform(rows), np.vstack([made.transform(row[None]) for row in rows]))


def test_a_wrong_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="8 features expected, not 7"):
        clone(features()).fit(ROW[:, :7])
    with pytest.raises(ValueError, match="7 features"):
        features().fit(ROW).transform(ROW[:, :7])


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"ratio": ["MedInc", "Rooms"]}, "there is no column Rooms; there are MedInc, "),
        ({"quotient": ["MedInc", "AveRooms"]}, "X: there is no quotient; there are ratio, product"),
        ({"log": True}, "there is no column X"),
    ],
)
def test_a_term_that_means_nothing_is_refused_by_name(term: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowFeatures(COLUMNS, {"X": term}).fit(ROW).transform(ROW)
