"""Compare recent requests with the rows that the model was made from.

Two questions are asked of every column: could chance alone do this (two-sample Kolmogorov-Smirnov test, Holm's
correction over all columns), and is it large enough to matter (population stability index, or Wasserstein distance in
standard deviations). A column has drifted only when both answers agree: on large samples the first alone cries wolf,
on small ones the second. A change that leaves every column as it was is found by a classifier that tries to tell the
rows apart; again its AUC must be both significant and large.

Of categories and booleans the counts by level are compared (`tableloop.drift.levels`); levels that the version does
not know, and missing values, are levels too. Where a number or a date may be missing, the share of missing values is
tested beside the known values, and the smaller of both p-values counts twice.

Pure functions. What a version was made from is kept with it as a `tableloop.drift.reference.Reference`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kstwo, norm, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from tableloop.drift.levels import (
    MISSING,
    change_of_levels,
    homogeneity,
    level_names,
    share_change,
    stability,
    stability_of_levels,
)
from tableloop.drift.reference import QUANTILES, SAMPLE_ROWS, Reference
from tableloop.figures import figure
from tableloop.model.coding import Kinds
from tableloop.table import Column, Table

Matrix = npt.NDArray[np.float64]

PREDICTION = "prediction"
PSI_BINS = 10
HISTOGRAM_BINS = 20
FOLDS = 4
CLASSIFIER_BINS = 63
BELOW_ALL = -1e300  # what a missing number is to the classifier
PAIR_CHANGE = 0.2  # of a rank correlation: named from here on, as chance makes 0.1 of it somewhere among 28 pairs


@dataclass(frozen=True)
class Policy:
    """The section ``drift`` of params.yaml: what is looked at, what counts as drift, and what it takes to retrain."""

    window: int
    least_rows: int
    alpha: float
    psi: float
    wasserstein: float
    auc: float
    sustained: int
    fresh_share: float
    live_labels: int
    live_margin: float
    new_labels: int
    cooldown_seconds: float


def make_reference(
    rows: Matrix,
    predictions: Matrix,
    test_rmse: float,
    *,
    columns: Sequence[str],
    kinds: Kinds | None = None,
    weights: Matrix | None = None,
    seed: int = 0,
) -> Reference:
    """Return the reference of a version.

    Parameters
    ----------
    columns : sequence of str
        The names of the features.
    kinds : Kinds, optional
        How the columns are coded.
    rows : ndarray of shape (n, features)
        The features it was fitted on, as `levels.with_unknown` returns them.
    predictions : ndarray of shape (k,)
        What it says of rows it has not seen.
    test_rmse : float
        Root mean square error of those predictions.
    weights : ndarray of shape (n,), optional
        The weights it was fitted with, if rows counted differently.
    """
    weights = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    share = weights / weights.sum()
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    of_rows = np.quantile(rows, levels, axis=0, weights=weights, method="inverted_cdf").T
    of_predictions = np.quantile(predictions, levels, method="inverted_cdf")
    variances = (share[:, None] * (rows - share @ rows) ** 2).sum(axis=0)
    missing = np.isnan(rows)
    for place in np.flatnonzero(missing.any(axis=0)):
        known, share_of_known = rows[~missing[:, place], place], share[~missing[:, place]]
        variances[place] = 0.0
        if share_of_known.any():
            of_rows[place] = np.quantile(known, levels, weights=share_of_known, method="inverted_cdf")
            variances[place] = np.cov(known, aweights=share_of_known, ddof=0)
    kinds = kinds or {}
    names = [level_names(name, kinds) for name in columns]
    by_level = np.zeros((len(columns) + 1, max(map(len, names))))
    for i, of_column in enumerate(names):
        if of_column:
            there = ~missing[:, i]
            by_level[i] = np.bincount(rows[there, i].astype(np.intp), share[there], by_level.shape[1])
    chosen = np.random.default_rng(seed).choice(
        len(rows), size=min(SAMPLE_ROWS, int((weights > 0).sum())), replace=False, p=share
    )
    return Reference(
        columns=tuple(columns),
        quantiles=np.vstack([of_rows, of_predictions]),
        # rows of unequal weight are worth fewer of equal weight: Kish's effective sample size
        counts=np.append(np.full(rows.shape[1], 1 / (share**2).sum()), float(len(predictions))),
        deviations=np.sqrt(np.append(variances, np.var(predictions))),
        rows=np.asarray(rows[chosen], dtype=np.float64),
        test_rmse=float(test_rmse),
        missing=np.append((share[:, None] * missing).sum(axis=0), 0.0),
        levels=by_level,
        kinds=kinds,
    )


def compare(reference: Reference, rows: Matrix, predictions: Matrix, policy: Policy, table: Table) -> dict[str, Any]:
    """Return what a window of predictions says, ready for JSON.

    Parameters
    ----------
    rows : ndarray of shape (n, features)
        The features of the newest predictions, in the order of the reference and coded as it is.
    predictions : ndarray of shape (k,)
        Those made by the version of the reference: another version's would show the change of the version.
    table : Table
        Titles and units of the columns.

    Returns
    -------
    dict
        ``status`` ("drift", "no drift" or "not enough data"), ``summary`` in words, ``columns`` and ``joint``.
    """
    if len(rows) < policy.least_rows:
        summary = f"{len(rows)} predictions, {policy.least_rows} are needed"
        return {"status": "not enough data", "summary": summary, "columns": [], "joint": None}
    samples = dict(zip(reference.columns, rows.T, strict=True))
    meaning = {column.name: column for column in table.features} | {
        PREDICTION: table.target.model_copy(update={"name": PREDICTION, "title": "Prediction"})
    }
    if len(predictions) >= policy.least_rows:
        samples[PREDICTION] = predictions
    columns = [
        _levels_column(reference, i, sample, meaning[name])
        if level_names(name, reference.kinds)
        else _ordered_column(reference, i, sample, meaning[name], policy.alpha)
        for i, (name, sample) in enumerate(samples.items())
    ]
    for column, p_value in zip(columns, holm([column["p_value"] for column in columns]), strict=True):
        column["p_value"] = p_value
        large = column["psi"] >= policy.psi or (column["wasserstein"] or 0.0) >= policy.wasserstein
        column["drifted"] = bool(p_value < policy.alpha and large)
    joint = joint_change(reference.columns, reference.rows, rows, reference.kinds)
    joint["drifted"] = bool(joint["p_value"] < policy.alpha and joint["auc"] >= policy.auc)
    moved = [column for column in columns if column["drifted"]]
    drifted = bool(moved or joint["drifted"])
    return {
        "status": "drift" if drifted else "no drift",
        "summary": _summary(moved, joint),
        "columns": columns,
        "joint": joint,
    }


def live_error(errors: Matrix, test_rmse: float, policy: Policy) -> dict[str, Any]:
    """Return what the newest labels say, their errors of shape (n,), against the error that was promised.

    Returns
    -------
    dict
        ``worse``: there are enough labels, their RMSE is above ``limit``, and their mean squared error differs from
        the promised one by more than chance. A few large errors alone reach the limit in one window of a hundred.
    """
    squares = errors**2
    limit = test_rmse * (1 + policy.live_margin)
    live: dict[str, Any] = {"labels": len(errors), "test_rmse": test_rmse, "limit": limit, "worse": False}
    if len(errors):
        deviation = float(np.std(squares)) / len(errors) ** 0.5
        excess = float(np.mean(squares)) - test_rmse**2
        p_value = float(norm.sf(excess / deviation)) if deviation else float(excess <= 0)
        rmse = float(np.sqrt(np.mean(squares)))
        live |= {"rmse": rmse, "mae": float(np.mean(np.abs(errors))), "p_value": p_value}
        live["worse"] = bool(len(errors) >= policy.live_labels and rmse > limit and p_value < policy.alpha)
    return live


def ks_test(reference: Matrix, count: float, sample: Matrix) -> tuple[float, float]:
    """Return the Kolmogorov-Smirnov distance and its p-value.

    Parameters
    ----------
    reference : ndarray of shape (q,)
        Sorted quantiles, which stand for ``count`` rows.
    sample : ndarray of shape (n,)
        In any order. Ties make the test say less than it could, never more.
    """
    sample = np.sort(sample)
    points = np.concatenate([reference, sample])
    difference = _share_up_to(reference, points) - _share_up_to(sample, points)
    distance = float(np.abs(difference).max())
    effective = count * len(sample) / (count + len(sample))
    return distance, float(kstwo.sf(distance, max(1, round(effective))))


def stability_index(
    reference: Matrix, count: float, sample: Matrix, missing: tuple[float, float] | None = None
) -> float:
    """Return the population stability index over the tenths of the reference (fewer where values repeat).

    With ``missing``, how many values are in both, these are a bin too.
    """
    inner = np.arange(1, PSI_BINS) / PSI_BINS
    edges = np.unique(np.quantile(reference, inner, method="inverted_cdf"))
    edges = edges[edges < reference[-1]]  # above the highest value there is no tenth
    before, now = (
        np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) / len(values) * rows
        for values, rows in ((reference, count), (sample, float(len(sample))))
    )
    if missing is not None:
        before, now = np.append(before, missing[0]), np.append(now, missing[1])
    return stability(before, now)


def distances(reference: Matrix, sample: Matrix) -> tuple[float, float]:
    """Return the Wasserstein distance, and the part of it that is a shift: from -1 (all down) to 1 (all up)."""
    gaps = np.quantile(sample, (np.arange(len(reference)) + 0.5) / len(reference), method="inverted_cdf") - reference
    distance = float(np.abs(gaps).mean())
    return distance, float(gaps.mean()) / distance if distance else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number by Holm's step-down method."""
    order = np.argsort(p_values)
    corrected = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    result = np.empty(len(order))
    result[order] = np.minimum(np.maximum.accumulate(corrected), 1.0)
    return [float(value) for value in result]


def joint_change(
    columns: Sequence[str], reference: Matrix, rows: Matrix, kinds: Kinds | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return how well a classifier tells the rows of a window, (n, features), from those of the reference.

    Returns
    -------
    dict
        ``auc``: mean over folds, each judged by a classifier that has not seen it; 0.5 is guessing. ``p_value``: of
        the Mann-Whitney test that such an AUC is. ``pair``: the two features whose rank correlation changed most,
        with the correlation before and now; empty where there are no two that are no categories.
    """
    kinds = kinds or {}
    rows = rows[:SAMPLE_ROWS]
    X = np.vstack([reference, rows])
    categories = [place for place, name in enumerate(columns) if kinds.get(name, {}).get("type") == "string"]
    ranked = [place for place in range(len(columns)) if place not in categories]
    # It takes no more levels than bins, the last are the rarest, and no column of which a fold knows no value.
    X[:, categories] = np.minimum(X[:, categories], CLASSIFIER_BINS - 1)
    X[:, ranked] = np.nan_to_num(X[:, ranked], nan=BELOW_ALL)
    is_window = np.repeat([0, 1], [len(reference), len(rows)])
    areas = []
    for fit, judge in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, is_window):
        classifier = HistGradientBoostingClassifier(
            max_iter=30,
            learning_rate=0.15,
            max_leaf_nodes=15,
            max_bins=CLASSIFIER_BINS,
            categorical_features=categories or None,
            early_stopping=False,
            random_state=seed,
        ).fit(X[fit], is_window[fit])
        areas.append(roc_auc_score(is_window[judge], classifier.predict_proba(X[judge])[:, 1]))
    area = float(np.mean(areas))
    deviation = np.sqrt((len(X) + 1) / (12 * len(reference) * len(rows)))
    changed: dict[str, Any] = {"pair": [], "correlation_before": None, "correlation_now": None}
    if len(ranked) > 1:
        before, now = (_rank_correlations(part[:, ranked]) for part in (reference, rows))
        pair = max(itertools.combinations(range(len(ranked)), 2), key=lambda pair: abs(now[pair] - before[pair]))
        changed["pair"] = [columns[ranked[place]] for place in pair]
        changed |= {"correlation_before": float(before[pair]), "correlation_now": float(now[pair])}
    return {"auc": area, "p_value": float(norm.sf((area - 0.5) / deviation)), **changed}


def _ordered_column(
    reference: Reference, index: int, sample: Matrix, meaning: Column, alpha: float
) -> dict[str, Any]:
    """Return what is known of a column of numbers or dates."""
    quantiles, rows, share = reference.quantiles[index], float(reference.counts[index]), reference.missing[index]
    known = sample[~np.isnan(sample)]
    missing = (rows * share, float(len(sample) - len(known)))
    count = rows * (1 - share)
    column = _described(meaning, share, missing[1] / len(sample))
    column |= {"p_value": 1.0, "psi": stability(np.array([count, missing[0]]), np.array([len(known), missing[1]]))}
    if len(known) and not np.isnan(quantiles[0]):
        ks, p_value = ks_test(quantiles, count, known)
        distance, shift = distances(quantiles, known)
        # a column that was constant has no deviation: its own size is the next best unit
        unit = float(reference.deviations[index]) or max(abs(float(quantiles[0])), 1.0)
        column |= {
            "ks": ks,
            "p_value": p_value,
            "psi": stability_index(quantiles, count, known, None if meaning.required else missing),
            "wasserstein": distance / unit,
            "direction": _direction(shift, quantiles, known),
            "median_before": _value(meaning, np.median(quantiles)),
            "median_now": _value(meaning, np.median(known)),
            "histogram": _histogram(quantiles, known, meaning),
        }
    column["change"] = column["direction"] or ""
    if not meaning.required:
        p_known = column["p_value"]
        p_missing = homogeneity(np.array([count, missing[0]]), np.array([len(known), missing[1]]))
        column["p_value"] = min(1.0, 2 * min(p_known, p_missing))
        if 2 * p_missing < alpha:
            words = [column["change"]] if 2 * p_known < alpha else []
            column["change"] = ", ".join([*words, share_change(MISSING, share, missing[1] / len(sample))])
    return column


def _levels_column(reference: Reference, index: int, sample: Matrix, meaning: Column) -> dict[str, Any]:
    """Return what is known of a column of levels; missing is one too, and what neither side has is left out."""
    names = level_names(meaning.name, reference.kinds)
    known = sample[~np.isnan(sample)]
    before = np.append(reference.levels[index, : len(names)], reference.missing[index])
    counts = np.append(np.bincount(known.astype(np.intp), minlength=len(names)), len(sample) - len(known))
    now = counts / len(sample)
    column = _described(meaning, before[-1], now[-1])
    names.append(MISSING)
    rows_before = before * reference.counts[index]
    seen = [level for level in range(len(names)) if before[level] or now[level]]
    # The levels that no list names, unknown ones and missing values, are never taken together with others.
    apart = len(names) - len(reference.kinds[meaning.name].get("categories", ("false", "true")))
    return column | {
        "p_value": homogeneity(rows_before, counts),
        "psi": stability_of_levels(rows_before, counts, apart),
        "change": change_of_levels(names, before, now),
        "levels": [
            {"level": names[level], "before": round(float(before[level]), 5), "now": round(float(now[level]), 5)}
            for level in seen
        ],
    }


def _described(meaning: Column, missing_before: float, missing_now: float) -> dict[str, Any]:
    """Return what every column has, and null for what only ordered ones or only levels have."""
    figures = ("ks", "wasserstein", "direction", "median_before", "median_now", "histogram", "levels")
    column: dict[str, Any] = {"name": meaning.name, "title": meaning.title, "unit": meaning.unit}
    shares = {"missing_before": float(missing_before), "missing_now": float(missing_now)}
    return column | dict.fromkeys(figures) | shares


def _value(meaning: Column, number: float) -> float | str:
    """Return a value as JSON has it: of dates a text."""
    return float(number) if meaning.is_number else meaning.written(float(number))


def _direction(shift: float, reference: Matrix, sample: Matrix) -> str:
    if abs(shift) >= 0.5:
        return "up" if shift > 0 else "down"
    before, now = (np.subtract(*np.quantile(values, [0.9, 0.1])) for values in (reference, sample))
    return "wider" if now > before else "narrower"


def _histogram(reference: Matrix, sample: Matrix, meaning: Column) -> dict[str, list[Any]]:
    """Return shares by bin; the first and the last bin also hold what lies beyond."""
    ends = np.quantile(np.concatenate([reference, sample]), [0.01, 0.99])
    low, high = (ends[0], ends[1]) if ends[1] > ends[0] else (ends[0] - 0.5, ends[0] + 0.5)
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    before, now = (np.histogram(np.clip(values, low, high), edges)[0] / len(values) for values in (reference, sample))
    return {
        "edges": [float(f"{edge:.6g}") if meaning.is_number else meaning.written(edge) for edge in edges],
        "before": [round(float(share), 5) for share in before],
        "now": [round(float(share), 5) for share in now],
    }


def _rank_correlations(rows: Matrix) -> Matrix:
    """Return Spearman's correlations, (features, features); 0 with a constant column. Missing ones rank midway."""
    ranks = rankdata(rows, axis=0, nan_policy="omit")
    known = ~np.isnan(ranks)
    ranks = np.where(known, ranks - np.where(known, ranks, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), 0.0)
    sizes = np.sqrt((ranks**2).sum(axis=0))
    products: Matrix = ranks.T @ ranks
    return np.divide(products, np.outer(sizes, sizes), out=np.zeros_like(products), where=np.outer(sizes, sizes) > 0)


def _share_up_to(values: Matrix, points: Matrix) -> Matrix:
    shares: Matrix = np.searchsorted(values, points, side="right") / len(values)
    return shares


def _summary(moved: Sequence[Mapping[str, Any]], joint: Mapping[str, Any]) -> str:
    """Return in one line what moved, how much and where to, the largest change first."""
    parts = []
    for column in sorted(moved, key=lambda column: -column["psi"]):
        medians = f"median {figure(column['median_before'])} to {figure(column['median_now'])}, "
        moved_values = column["direction"] and column["change"].startswith(column["direction"])
        figures = f"{medians if moved_values else ''}PSI {column['psi']:.2f}"
        parts.append(f"{column['name']} {column['change']} ({figures})")
    if joint["drifted"]:
        pair = ""
        if joint["pair"] and abs(joint["correlation_now"] - joint["correlation_before"]) >= PAIR_CHANGE:
            before, now = joint["correlation_before"], joint["correlation_now"]
            pair = f"; correlation of {' and '.join(joint['pair'])} {before:.2f} to {now:.2f}"
        parts.append(f"rows as a whole (AUC {joint['auc']:.2f}{pair})")
    return "; ".join(parts) if parts else "nothing moved"
