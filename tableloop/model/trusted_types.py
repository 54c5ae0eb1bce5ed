"""The types that a model file may hold beside those that skops trusts by itself: a fixed list, read by people.

``tests/unit/pipeline/test_train.py`` holds that no candidate needs more.
"""

from __future__ import annotations

TRUSTED_TYPES: tuple[str, ...] = (
    "tableloop.model.conformal.ConformalRegressor",
    "tableloop.model.row_features.RowFeatures",
    "tableloop.model.spatial.OffsetRegressor",
    "tableloop.model.spatial.SpatialFeatures",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
