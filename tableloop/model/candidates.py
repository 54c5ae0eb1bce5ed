"""The candidates: each one pipeline from the columns of the table, with its parameters from params.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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

from tableloop.model.coding import Kinds
from tableloop.model.light_boosting import LightBoosting
from tableloop.model.row_features import RowFeatures
from tableloop.model.spatial import OffsetRegressor, SpatialFeatures

Params = Mapping[str, Any]

# Levels of a category that boosting on histograms takes as such; it could take 255. The rarer ones share the last,
# and the mean of the target says more of them than sets, which fit chance: for 100 airports in 10,000 flights it
# takes 1 % off the error.
MOST_CODES = 32


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
        Of every random choice.
    kinds
        Of columns that are no plain numbers, as `tableloop.model.coding.Coding` takes them.
    gaps
        Whether a value may be missing in any column.
    """

    columns: Sequence[str]
    place: Sequence[str] | None
    kriging: Mapping[str, Any]
    seed: int
    kinds: Kinds = field(default_factory=dict)
    gaps: bool = False


def build(name: str, params: Params, setting: Setting) -> Pipeline | VotingRegressor:
    """Return the unfitted candidate of this name, which is that of its family unless the parameters name another one.

    ``most_rows`` among the parameters is for those who fit it.

    Raises
    ------
    ValueError
        When there is no such candidate, or it does not know one of the parameters.
    """
    own = {key: value for key, value in params.items() if key not in ("family", "most_rows")}
    family = params.get("family", name)
    if family not in BUILDERS:
        raise ValueError(f"no candidate is called {family!r}; there are {', '.join(BUILDERS)}")
    try:
        return BUILDERS[family](own, setting)
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
    return SpatialFeatures(
        list(setting.columns),
        list(setting.place),
        **setting.kriging,
        kinds=setting.kinds,
        gaps=setting.gaps,
        **params,
    )


def _linear(params: Params, setting: Setting) -> Pipeline:
    features, own = _row_features(params, setting, impute=True)
    return Pipeline([features, ("scale", StandardScaler()), ("regress", LinearRegression(**own))])


def _decision_tree(params: Params, setting: Setting) -> Pipeline:
    features, own = _row_features(params, setting)
    return Pipeline([features, ("tree", DecisionTreeRegressor(random_state=setting.seed, **own))])


def _random_forest(params: Params, setting: Setting) -> Pipeline:
    features, own = _row_features(params, setting)
    return Pipeline([features, ("forest", RandomForestRegressor(random_state=setting.seed, **own))])


def _gradient_boosting(params: Params, setting: Setting) -> Pipeline:
    features, own = _row_features(params, setting, impute=True)
    return Pipeline([features, ("boost", GradientBoostingRegressor(random_state=setting.seed, **own))])


def _hist_gradient_boosting(params: Params, setting: Setting) -> Pipeline:
    features, own = _row_features(params, setting, codes=_codes(params))
    return Pipeline([features, ("boost", _boosting(own, setting, setting.seed))])


def _lightgbm(params: Params, setting: Setting) -> Pipeline:
    features, own = _row_features(params, setting, codes=MOST_CODES)
    return Pipeline([features, ("boost", LightBoosting(categorical=_categorical(setting), seed=setting.seed, **own))])


def _row_features(
    params: Params, setting: Setting, *, codes: int = 0, impute: bool = False
) -> tuple[tuple[str, RowFeatures], Params]:
    """Return the first step of a pipeline, and the parameters of its last one."""
    own = dict(params)
    impute = impute and (setting.gaps or bool(setting.kinds))  # an unknown level is missing as well
    features = RowFeatures(
        setting.columns, own.pop("features", {}), setting.place, kinds=setting.kinds, codes=codes, impute=impute
    )
    return ("features", features), own


def _codes(params: Params) -> int:
    return min(MOST_CODES, int(params.get("max_bins", MOST_CODES)))


def _boosting(params: Params, setting: Setting, seed: int) -> HistGradientBoostingRegressor:
    """Return the boosting of a design matrix whose categories are codes."""
    return HistGradientBoostingRegressor(
        random_state=seed, early_stopping=False, categorical_features=_categorical(setting) or None, **params
    )


def _categorical(setting: Setting) -> list[int]:
    """Return the numbers of the columns that are codes, in a design matrix that keeps them."""
    return [i for i, name in enumerate(setting.columns) if setting.kinds.get(name, {}).get("type") == "string"]


def _spatial(params: Params, setting: Setting) -> Pipeline | VotingRegressor:
    members = params["budgets"][params["budget"]]
    models = [_spatial_model(params, member, setting, setting.seed + number) for number, member in enumerate(members)]
    return (
        models[0] if len(models) == 1 else VotingRegressor([(f"model{i}", model) for i, model in enumerate(models)])
    )


def _spatial_model(params: Params, member: Params, setting: Setting, seed: int) -> Pipeline:
    trees = {**params["trees"], **member["trees"]}
    features = {**params.get("features", {}), **(params["wide_features"] if member.get("wide") else {})}
    spatial = kriging(setting, features=features, codes=_codes(trees), **member.get("neighbourhood", {}))
    return Pipeline([("spatial", spatial), ("regress", OffsetRegressor(_boosting(trees, setting, seed)))])


BUILDERS: dict[str, Callable[[Params, Setting], Pipeline | VotingRegressor]] = {
    "linear": _linear,
    "decision_tree": _decision_tree,
    "random_forest": _random_forest,
    "gradient_boosting": _gradient_boosting,
    "hist_gradient_boosting": _hist_gradient_boosting,
    "lightgbm": _lightgbm,
    "spatial": _spatial,
}
