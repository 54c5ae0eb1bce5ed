"""The types that a model file may hold beside those that skops trusts by itself: a fixed list, read by people.

``tests/unit/pipeline/test_train.py`` holds that no candidate needs more.
"""

from __future__ import annotations

# The same classes under the names that they had up to commit 6471210; only a version's own code still has them.
FORMER_NAMES: tuple[str, ...] = (
    "pipeline.conformal.ConformalRegressor",
    "pipeline.features.RatioFeatures",
    "pipeline.spatial.OffsetRegressor",
    "pipeline.spatial.SpatialFeatures",
)
TRUSTED_TYPES: tuple[str, ...] = (
    "tableloop.model.conformal.ConformalRegressor",
    "tableloop.model.light_boosting.LightBoosting",
    "tableloop.model.row_features.RowFeatures",
    "tableloop.model.spatial.OffsetRegressor",
    "tableloop.model.spatial.SpatialFeatures",
    # Of histogram boosting with categories: a check of its rows, with some parameters bound.
    "functools.partial",
    "sklearn.utils.validation.check_array",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
