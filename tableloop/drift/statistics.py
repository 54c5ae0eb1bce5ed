"""Compare recent requests with the rows that the model was made from.

Two questions are asked of every column: could chance alone do this (two-sample Kolmogorov-Smirnov test, Holm's
correction over all columns), and is it large enough to matter (population stability index, or Wasserstein distance in
standard deviations). A column has drifted only when both answers agree: on large samples the first alone cries wolf,
on small ones the second. A change that leaves every column as it was is found by a classifier that tries to tell the
rows apart; again its AUC must be both significant and large.

Pure functions. What a version was made from is kept with it as a `Reference` of some 200 kB.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kstwo, norm, rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from tableloop.table import Column, Table

Matrix = npt.NDArray[np.float64]

REFERENCE_FILE = "drift_reference.npz"  # in the directory of a model version
PREDICTION = "prediction"
QUANTILES = 1024
SAMPLE_ROWS = 2000
PSI_BINS = 10
HISTOGRAM_BINS = 20
FOLDS = 4
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


@dataclass(frozen=True)
class Reference:
    """What a version was made from.

    Attributes
    ----------
    columns : tuple of str
        The names of the features.
    quantiles : ndarray of shape (features + 1, `QUANTILES`)
        Of the features, then of the version's predictions of rows it had not seen.
    counts, deviations : ndarray of shape (features + 1,)
        Of how many rows the quantiles are, and the standard deviations.
    rows : ndarray of shape (m, features)
        At most `SAMPLE_ROWS` of the rows.
    test_rmse : float
        The error that the version promised.
    """

    columns: tuple[str, ...]
    quantiles: Matrix
    counts: Matrix
    deviations: Matrix
    rows: Matrix
    test_rmse: float

    def save(self, path: Path) -> None:
        """Write the reference."""
        np.savez_compressed(path, **asdict(self))

    @classmethod
    def load(cls, path: Path, columns: Sequence[str]) -> Reference:
        """Read a reference, its features in the order of ``columns``; one without names is in that order.

        Raises
        ------
        OSError, ValueError
            There is none, the file is something else, or of other columns.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                names = tuple(file["columns"].tolist()) if "columns" in file else tuple(columns)
                quantiles, counts, deviations, rows, test_rmse = (
                    np.asarray(file[name], dtype=np.float64) for name in [*cls.__dataclass_fields__][1:]
                )
        except (zipfile.BadZipFile, KeyError, EOFError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a drift reference: {error}") from None
        if sorted(names) != sorted(columns) or rows.shape[1:] != (len(columns),):
            raise ValueError(f"{path} is a drift reference of other columns: {', '.join(names)}")
        order = [names.index(name) for name in columns]
        with_predictions = [*order, len(order)]
        return cls(
            columns=tuple(columns),
            quantiles=quantiles[with_predictions],
            counts=counts[with_predictions],
            deviations=deviations[with_predictions],
            rows=rows[:, order],
            test_rmse=float(test_rmse),
        )


def make_reference(
    rows: Matrix,
    predictions: Matrix,
    test_rmse: float,
    *,
    columns: Sequence[str],
    weights: Matrix | None = None,
    seed: int = 0,
) -> Reference:
    """Return the reference of a version.

    Parameters
    ----------
    columns : sequence of str
        The names of the features.
    rows : ndarray of shape (n, features)
        The features it was fitted on.
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
    )


def compare(reference: Reference, rows: Matrix, predictions: Matrix, policy: Policy, table: Table) -> dict[str, Any]:
    """Return what a window of predictions says, ready for JSON.

    Parameters
    ----------
    rows : ndarray of shape (n, features)
        The features of the newest predictions, in the order of the reference.
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
        PREDICTION: table.target.model_copy(update={"title": "Prediction"})
    }
    if len(predictions) >= policy.least_rows:
        samples[PREDICTION] = predictions
    columns = [_column(reference, i, name, samples[name], meaning[name]) for i, name in enumerate(samples)]
    for column, p_value in zip(columns, holm([column["p_value"] for column in columns]), strict=True):
        column["p_value"] = p_value
        large = column["psi"] >= policy.psi or column["wasserstein"] >= policy.wasserstein
        column["drifted"] = bool(p_value < policy.alpha and large)
    joint = joint_change(reference.columns, reference.rows, rows)
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


def stability_index(reference: Matrix, count: float, sample: Matrix) -> float:
    """Return the population stability index over the tenths of the reference (fewer where values repeat).

    Half a row is added to every bin, so that an empty one counts much, but not infinitely.
    """
    inner = np.arange(1, PSI_BINS) / PSI_BINS
    edges = np.unique(np.quantile(reference, inner, method="inverted_cdf"))
    edges = edges[edges < reference[-1]]  # above the highest value there is no tenth
    shares = []
    for values, rows in ((reference, count), (sample, float(len(sample)))):
        bins = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        expected = bins / len(values) * rows + 0.5
        shares.append(expected / expected.sum())
    before, now = shares
    return float(((now - before) * np.log(now / before)).sum())


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


def joint_change(columns: Sequence[str], reference: Matrix, rows: Matrix, seed: int = 0) -> dict[str, Any]:
    """Return how well a classifier tells the rows of a window, (n, features), from those of the reference.

    Returns
    -------
    dict
        ``auc``: mean over folds, each judged by a classifier that has not seen it; 0.5 is guessing. ``p_value``: of
        the Mann-Whitney test that such an AUC is. ``pair``: the two features whose rank correlation changed most,
        with the correlation before and now.
    """
    rows = rows[:SAMPLE_ROWS]
    X = np.vstack([reference, rows])
    is_window = np.repeat([0, 1], [len(reference), len(rows)])
    areas = []
    for fit, judge in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, is_window):
        classifier = HistGradientBoostingClassifier(
            max_iter=30,
            learning_rate=0.15,
            max_leaf_nodes=15,
            max_bins=63,
            early_stopping=False,
            random_state=seed,
        ).fit(X[fit], is_window[fit])
        areas.append(roc_auc_score(is_window[judge], classifier.predict_proba(X[judge])[:, 1]))
    area = float(np.mean(areas))
    deviation = np.sqrt((len(X) + 1) / (12 * len(reference) * len(rows)))
    before, now = (_rank_correlations(part) for part in (reference, rows))
    first, second = max(
        itertools.combinations(range(len(columns)), 2), key=lambda pair: abs(now[pair] - before[pair])
    )
    return {
        "auc": area,
        "p_value": float(norm.sf((area - 0.5) / deviation)),
        "pair": [columns[first], columns[second]],
        "correlation_before": float(before[first, second]),
        "correlation_now": float(now[first, second]),
    }


def _column(reference: Reference, index: int, name: str, sample: Matrix, meaning: Column) -> dict[str, Any]:
    quantiles, count = reference.quantiles[index], float(reference.counts[index])
    ks, p_value = ks_test(quantiles, count, sample)
    distance, shift = distances(quantiles, sample)
    # a column that was constant has no deviation: its own size is the next best unit
    unit = float(reference.deviations[index]) or max(abs(float(quantiles[0])), 1.0)
    return {
        "name": name,
        "title": meaning.title,
        "unit": meaning.unit,
        "ks": ks,
        "p_value": p_value,
        "psi": stability_index(quantiles, count, sample),
        "wasserstein": distance / unit,
        "direction": _direction(shift, quantiles, sample),
        "median_before": float(np.median(quantiles)),
        "median_now": float(np.median(sample)),
        "histogram": _histogram(quantiles, sample),
    }


def _direction(shift: float, reference: Matrix, sample: Matrix) -> str:
    if abs(shift) >= 0.5:
        return "up" if shift > 0 else "down"
    before, now = (np.subtract(*np.quantile(values, [0.9, 0.1])) for values in (reference, sample))
    return "wider" if now > before else "narrower"


def _histogram(reference: Matrix, sample: Matrix) -> dict[str, list[float]]:
    """Return shares by bin; the first and the last bin also hold what lies beyond."""
    ends = np.quantile(np.concatenate([reference, sample]), [0.01, 0.99])
    low, high = (ends[0], ends[1]) if ends[1] > ends[0] else (ends[0] - 0.5, ends[0] + 0.5)
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    before, now = (np.histogram(np.clip(values, low, high), edges)[0] / len(values) for values in (reference, sample))
    return {
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "before": [round(float(share), 5) for share in before],
        "now": [round(float(share), 5) for share in now],
    }


def _rank_correlations(rows: Matrix) -> Matrix:
    """Return Spearman's correlations, (features, features); 0 with a constant column."""
    ranks = rankdata(rows, axis=0)
    ranks -= ranks.mean(axis=0)
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
        medians = f"{column['median_before']:.4g} to {column['median_now']:.4g}"
        parts.append(f"{column['name']} {column['direction']} (median {medians}, PSI {column['psi']:.2f})")
    if joint["drifted"]:
        before, now = joint["correlation_before"], joint["correlation_now"]
        pair = f"; correlation of {' and '.join(joint['pair'])} {before:.2f} to {now:.2f}"
        parts.append(f"rows as a whole (AUC {joint['auc']:.2f}{pair if abs(now - before) >= PAIR_CHANGE else ''})")
    return "; ".join(parts) if parts else "nothing moved"
