"""A first look at what the columns say of the target: on a sample of the rows, some seconds on an idle machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

Matrix = npt.NDArray[np.float64]
Term = Mapping[str, Sequence[str]]

SAMPLE = 10_000  # rows
VALUES = 60_000  # of the sample in which features are sought; not a time, by which the same file would give others
MOST_COLUMNS = 60
FOLDS = 3
GIVEN_AWAY = 0.98  # R² of a column alone
BY_SUM = 0.99999  # R² of a sum of columns
MOST_IMPORTANT = 6  # columns of which ratios and products are tried
TRIED = 6  # of these, those that tell most of what is left to tell
GAIN = 0.01  # that a feature must bring, of the mean error; none of the folds may become worse
LEAST_ROWS = 500  # of fewer, chance finds some that help


@dataclass(frozen=True)
class Analysis:
    """Columns, the most important first; those that give the target away, with their R²; useful features by name."""

    important: list[str]
    giveaways: dict[str, float]
    sums: list[str]
    features: dict[str, Term]


def analyse(X: Matrix, y: Matrix, names: Sequence[str], *, levels: Sequence[str], numbers: Sequence[str]) -> Analysis:
    """Return what a sample of the rows tells.

    Parameters
    ----------
    X, y
        Coded rows of shape (n, columns), NaN where a value is missing, and targets of shape (n,).
    levels
        The names of the columns whose numbers stand for levels.
    numbers
        Of those of which features may be made; by a column that is not positive nothing is divided.
    """
    rows = np.random.default_rng(0).permutation(len(X))[:SAMPLE]
    X, y = X[rows], y[rows]
    columns = list(names)
    with threadpool_limits(1):  # threads that wait for each other on a busy machine take ten times as long
        important = _by_importance(X, y, columns, levels)
        chosen = [name for name in important if name in numbers][:MOST_IMPORTANT]
        return Analysis(
            important,
            _giveaways(X, y, columns),
            _sums(X, y, [columns.index(name) for name in numbers], columns),
            _useful_features(X, y, columns, levels, chosen),
        )


def _boosting(columns: Sequence[str], levels: Sequence[str]) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=60,
        min_samples_leaf=10,
        early_stopping=False,
        random_state=0,
        categorical_features=[name in levels for name in columns],
    )


def _by_importance(X: Matrix, y: Matrix, names: Sequence[str], levels: Sequence[str]) -> list[str]:
    seen = len(X) * 2 // 3
    order = np.random.default_rng(1).permutation(len(X))
    train, left_out = order[:seen], order[seen:][:2000]
    model = _boosting(names, levels).fit(X[train], y[train])
    found = permutation_importance(model, X[left_out], y[left_out], n_repeats=2, random_state=0)
    return [names[place] for place in np.argsort(-found.importances_mean, kind="stable")]


def _giveaways(X: Matrix, y: Matrix, names: Sequence[str]) -> dict[str, float]:
    """Return the R² of the columns that predict nearly everything alone."""
    folds = KFold(2, shuffle=True, random_state=0)
    tree = DecisionTreeRegressor(min_samples_leaf=3)
    found = {}
    for place, name in enumerate(names):
        alone = cross_val_predict(tree, X[:, [place]], y, cv=folds)
        if (explained := _r2(y, alone)) >= GIVEN_AWAY:
            found[name] = explained
    return found


def _sums(X: Matrix, y: Matrix, places: Sequence[int], names: Sequence[str]) -> list[str]:
    """Return the columns that the target is a weighted sum of, if it is one of two or more."""
    complete = [place for place in places if not np.isnan(X[:, place]).any()]
    if len(complete) < 2 or len(X) < 10 * len(complete):
        return []
    known = X[:, complete]
    model = LinearRegression().fit(known, y)
    if _r2(y, model.predict(known)) < BY_SUM:
        return []
    parts = np.abs(model.coef_) * known.std(axis=0) / y.std()
    return [names[place] for place, part in zip(complete, parts, strict=True) if part > 0.01]


def _useful_features(
    X: Matrix, y: Matrix, names: Sequence[str], levels: Sequence[str], of: Sequence[str]
) -> dict[str, Term]:
    """Return ratios and products of columns with which boosting errs less in every fold, the best one first.

    Those are tried that alone tell more than each of their two columns alone; then the best one is kept, and each
    next one that helps beside it.
    """
    if len(X) < LEAST_ROWS or len(names) > MOST_COLUMNS:
        return {}
    rows = max(LEAST_ROWS, VALUES // len(names))
    X, y = X[:rows], y[:rows]
    positive = [name for name in of if np.nanmin(X[:, names.index(name)]) > 0]
    terms: dict[str, Term] = {f"{a}_per_{b}": {"ratio": [a, b]} for a, b in permutations(of, 2) if b in positive}
    terms |= {f"{a}_times_{b}": {"product": [a, b]} for a, b in combinations(of, 2)}
    if not terms:
        return {}
    folds = list(KFold(FOLDS, shuffle=True, random_state=0).split(X))
    made = {name: _values(term, X, names)[:, None] for name, term in terms.items()}
    tree = DecisionTreeRegressor(min_samples_leaf=20)

    def told(values: Matrix) -> float:
        return _r2(y, cross_val_predict(tree, values, y, cv=folds))

    alone = {name: told(X[:, [names.index(name)]]) for name in of}
    more = {
        name: told(made[name]) - max(alone[part] for pair in terms[name].values() for part in pair) for name in terms
    }

    def errors_with(added: Sequence[str]) -> Matrix:
        return _errors(np.column_stack([X, *map(made.__getitem__, added)]), y, [*names, *added], levels, folds)

    errors = errors_with([])
    first = {name: errors_with([name]) for name in sorted(more, key=lambda name: -more[name])[:TRIED]}
    chosen: list[str] = []
    for name in sorted(first, key=lambda name: first[name].mean()):
        with_it = errors_with([*chosen, name]) if chosen else first[name]
        if with_it.mean() < (1 - GAIN) * errors.mean() and (with_it < errors).all():
            chosen, errors = [*chosen, name], with_it
    return {name: terms[name] for name in chosen}


def _errors(X: Matrix, y: Matrix, names: Sequence[str], levels: Sequence[str], folds: Sequence[Any]) -> Matrix:
    """Return the RMSE of each fold, of models that did not know its rows."""
    errors = []
    for train, left_out in folds:
        model = _boosting(names, levels).fit(X[train], y[train])
        errors.append(root_mean_squared_error(y[left_out], model.predict(X[left_out])))
    return np.array(errors)


def _values(term: Term, X: Matrix, names: Sequence[str]) -> Matrix:
    ((kind, pair),) = term.items()
    first, second = (X[:, names.index(name)] for name in pair)
    return first / second if kind == "ratio" else first * second


def _r2(y: Matrix, predicted: Matrix) -> float:
    return float(1 - np.mean((y - predicted) ** 2) / np.var(y))
