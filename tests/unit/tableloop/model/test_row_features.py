from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from tableloop.model.row_features import RatioFeatures
from tableloop.table import FEATURES

ROW = np.array([[column.example for column in FEATURES]])


def test_ratios_and_turned_axes_of_the_first_row() -> None:
    transformer = RatioFeatures().fit(ROW)
    features = dict(zip(transformer.get_feature_names_out(), transformer.transform(ROW)[0], strict=True))
    assert features["BedroomShare"] == pytest.approx(1.0238095238095235 / 6.984126984126984)
    assert features["Households"] == pytest.approx(126)
    assert features["IncomePerPerson"] == pytest.approx(8.3252 / 2.555555555555556)
    assert features["NorthEast"] == pytest.approx((37.88 - 122.23) / np.sqrt(2))
    assert features["NorthWest"] == pytest.approx((37.88 + 122.23) / np.sqrt(2))


def test_a_row_has_the_same_features_alone_and_among_others() -> None:
    rows = ROW * np.linspace(0.5, 1.5, 50)[:, None]
    transformer = RatioFeatures().fit(rows)
    alone = np.vstack([transformer.transform(row[None]) for row in rows])
    np.testing.assert_array_equal(transformer.transform(rows), alone)


def test_a_wrong_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="8 features expected, not 7"):
        clone(RatioFeatures()).fit(ROW[:, :7])
    with pytest.raises(ValueError, match="7 features"):
        RatioFeatures().fit(ROW).transform(ROW[:, :7])
