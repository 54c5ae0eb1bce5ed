"""The candidates: each one pipeline from the eight raw features, with its parameters from params.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    VotingRegressor,
)
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from tableloop.model.row_features import RatioFeatures
from tableloop.model.spatial import OffsetRegressor, SpatialFeatures

Params = Mapping[str, Any]


def build(name: str, params: Params, seed: int) -> Pipeline | VotingRegressor:
    """Return the unfitted candidate of this name.

    Raises
    ------
    ValueError
        When there is no such candidate, or it does not know one of the parameters.
    """
    if name not in BUILDERS:
        raise ValueError(f"no candidate is called {name!r}; there are {', '.join(BUILDERS)}")
    try:
        return BUILDERS[name](params, seed)
    except (TypeError, KeyError) as error:
        raise ValueError(f"train.candidates.{name} in params.yaml: {error}") from error


def _linear(params: Params, seed: int) -> Pipeline:
    return Pipeline([("scale", StandardScaler()), ("regress", LinearRegression(**params))])


def _decision_tree(params: Params, seed: int) -> Pipeline:
    return Pipeline([("tree", DecisionTreeRegressor(random_state=seed, **params))])


def _random_forest(params: Params, seed: int) -> Pipeline:
    return Pipeline([("forest", RandomForestRegressor(random_state=seed, **params))])


def _gradient_boosting(params: Params, seed: int) -> Pipeline:
    return Pipeline([("boost", GradientBoostingRegressor(random_state=seed, **params))])


def _hist_gradient_boosting(params: Params, seed: int) -> Pipeline:
    boost = HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **params)
    return Pipeline([("features", RatioFeatures()), ("boost", boost)])


def _spatial(params: Params, seed: int) -> Pipeline | VotingRegressor:
    members = params["budgets"][params["budget"]]
    models = [_spatial_model(params, member, seed + number) for number, member in enumerate(members)]
    return (
        models[0] if len(models) == 1 else VotingRegressor([(f"model{i}", model) for i, model in enumerate(models)])
    )


def _spatial_model(params: Params, member: Params, seed: int) -> Pipeline:
    trees = {**params["trees"], **member["trees"]}
    boost = HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **trees)
    features = SpatialFeatures(params["kernel"], **member.get("features", {}))
    return Pipeline([("spatial", features), ("regress", OffsetRegressor(boost))])


BUILDERS: dict[str, Callable[[Params, int], Pipeline | VotingRegressor]] = {
    "linear": _linear,
    "decision_tree": _decision_tree,
    "random_forest": _random_forest,
    "gradient_boosting": _gradient_boosting,
    "hist_gradient_boosting": _hist_gradient_boosting,
    "spatial": _spatial,
}
