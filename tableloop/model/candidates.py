"""The candidates: each one pipeline from the columns of the table, with its parameters from params.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

from tableloop.model.row_features import RowFeatures
from tableloop.model.spatial import OffsetRegressor, SpatialFeatures

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all candidates share.

    Attributes
    ----------
    columns
        The names of the table's columns, in their order.
    place
        The names of the two of them with latitude and longitude, if there are any.
    kriging
        ``middle_latitude`` and ``kernel`` of `SpatialFeatures`.
    seed
        Of every choice that is left to chance.
    """

    columns: Sequence[str]
    place: Sequence[str] | None
    kriging: Mapping[str, Any]
    seed: int


def build(name: str, params: Params, setting: Setting) -> Pipeline | VotingRegressor:
    """Return the unfitted candidate of this name.

    Raises
    ------
    ValueError
        When there is no such candidate, or it does not know one of the parameters.
    """
    if name not in BUILDERS:
        raise ValueError(f"no candidate is called {name!r}; there are {', '.join(BUILDERS)}")
    try:
        return BUILDERS[name](params, setting)
    except (TypeError, KeyError) as error:
        raise ValueError(f"train.candidates.{name} in params.yaml: {error}") from error


def kriging(setting: Setting, **params: Any) -> SpatialFeatures:
    """Return the kriging of params.yaml, with further parameters of `SpatialFeatures`.

    Raises
    ------
    ValueError
        The table has no place.
    """
    if setting.place is None:
        raise ValueError("the table has no place, without which there is no kriging")
    return SpatialFeatures(list(setting.columns), list(setting.place), **setting.kriging, **params)


def _linear(params: Params, setting: Setting) -> Pipeline:
    return Pipeline([("scale", StandardScaler()), ("regress", LinearRegression(**params))])


def _decision_tree(params: Params, setting: Setting) -> Pipeline:
    return Pipeline([("tree", DecisionTreeRegressor(random_state=setting.seed, **params))])


def _random_forest(params: Params, setting: Setting) -> Pipeline:
    return Pipeline([("forest", RandomForestRegressor(random_state=setting.seed, **params))])


def _gradient_boosting(params: Params, setting: Setting) -> Pipeline:
    return Pipeline([("boost", GradientBoostingRegressor(random_state=setting.seed, **params))])


def _hist_gradient_boosting(params: Params, setting: Setting) -> Pipeline:
    own = dict(params)
    features = own.pop("features", {})
    boost = HistGradientBoostingRegressor(random_state=setting.seed, early_stopping=False, **own)
    return Pipeline([("features", RowFeatures(setting.columns, features, setting.place)), ("boost", boost)])


def _spatial(params: Params, setting: Setting) -> Pipeline | VotingRegressor:
    members = params["budgets"][params["budget"]]
    models = [_spatial_model(params, member, setting, setting.seed + number) for number, member in enumerate(members)]
    return (
        models[0] if len(models) == 1 else VotingRegressor([(f"model{i}", model) for i, model in enumerate(models)])
    )


def _spatial_model(params: Params, member: Params, setting: Setting, seed: int) -> Pipeline:
    trees = {**params["trees"], **member["trees"]}
    boost = HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **trees)
    features = {**params.get("features", {}), **(params["wide_features"] if member.get("wide") else {})}
    spatial = kriging(setting, features=features, **member.get("neighbourhood", {}))
    return Pipeline([("spatial", spatial), ("regress", OffsetRegressor(boost))])


BUILDERS: dict[str, Callable[[Params, Setting], Pipeline | VotingRegressor]] = {
    "linear": _linear,
    "decision_tree": _decision_tree,
    "random_forest": _random_forest,
    "gradient_boosting": _gradient_boosting,
    "hist_gradient_boosting": _hist_gradient_boosting,
    "spatial": _spatial,
}
