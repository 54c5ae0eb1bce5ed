"""`params.yaml` for a description: thresholds that fit the number of rows and the unit of the target."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipeline.describe.description import NUMBERS, Column, Description
from tableloop.model.terms import Places

Vector = npt.NDArray[np.float64]

FEW_ROWS = 2_000
MANY_ROWS = 100_000
LEAST_ERROR = 0.025  # standard deviations of the target
MOST_INPUTS = 6  # of the kernel
SKEWED = 2.0  # the 99th percentile from the median, in distances of the first one
FAR_SHARE = 0.04  # of the places lie farther from their nearest one
KILOMETRES = 111.2  # in a degree of latitude


def parameters(description: Description, name: str) -> str:
    """Return the text of `params.yaml` for a table of this name."""
    few, many = description.rows < FEW_ROWS, description.rows > MANY_ROWS
    least_error = _round(LEAST_ERROR * float(np.std(description.target.data.to_numpy(np.float64))))
    spatial = ", spatial" if description.place else ""
    careful = "" if few or many else ", careful_boosting"
    return f"""\
# How the models of this table are trained and judged, made for its {description.rows:,} rows. The params.yaml of the
# repository has the same keys and says more of them.
preprocess:
  test_fraction: 0.2          # of all rows: only for reporting and for the gate
  validation_fraction: 0.2    # of the rest: chooses the candidate and sets the width of its intervals
  gate_fraction: 0.3          # of the newest labels: held out for the gate
  gate_rows: {30 if few else 60}               # with fewer labels held out, the old test rows decide
  gate_share: 0.5             # one sender's part of them at most
  learnt_share: 0.25          # one sender's part of the rows that are learnt at most

train:
  seed: 42
  coverage: 0.9               # nominal coverage of the prediction intervals
  least_error: {least_error:<12g}   # no row's expected error counts as less, in the unit of the target
  importance_rows: 1000       # permutation importance is measured on the first rows of the test part
  importance_repeats: 3
{_MANY_ROWS if many else ""}\
  with_labels: [hist_gradient_boosting{careful}{spatial}]  # only these are trained when there are labels
{_index(description)}\
{_of_place(description)}\
  candidates:
    linear: {{}}
    decision_tree:
      max_depth: {8 if few else 14}
      min_samples_leaf: 15
{_MOST_TREES if many else _FEW_ROWS if few else _USUAL_ROWS}\
    hist_gradient_boosting:
      max_iter: {150 if few else 300}
      learning_rate: {0.05 if few else 0.08}
      min_samples_leaf: {10 if few else 15}
      max_features: 0.5
      l2_regularization: 1.0
{_features(description)}\
{_CAREFUL + _features(description) if careful else ""}\
{_SPATIAL if description.place else ""}\

register:
  experiment: {name}
  tolerance: 0.005            # a challenger may be this fraction worse than the champion on the test rows
  most_fall: 3.0              # by labels it may pass although it is worse there, up to this many times the champion's

drift:
  window: 1000                # the newest predictions that are compared
  least_rows: 500             # with fewer no check is made
  alpha: 0.01                 # significance over all columns together, after Holm's correction
  psi: 0.1                    # a column has drifted when it is significant, and either this stability index
  wasserstein: 0.2            # or this Wasserstein distance in standard deviations is reached
  auc: 0.55                   # of the classifier that tells the window's rows from the training rows
  sustained: 3                # drifted windows in a row before a retraining,
  fresh_share: 0.25           # each with at least this share of rows that are new since the one before
  live_labels: {100 if few else 200}            # labels needed for a live error
  live_margin: 0.25           # a live RMSE this fraction above the version's test RMSE leads to a retraining too
  new_labels: {100 if few else 200}             # labels not yet used by a training: with fewer, none is started
  cooldown_seconds: 3600      # between the end of a retraining, whoever started it, and the next one
"""


_MANY_ROWS = """\
  most_rows: 50000            # on which candidates are compared, and which set the width of the intervals
"""
_MOST_TREES = """\
    random_forest:
      most_rows: 200000         # that it is fitted on if it wins
      n_estimators: 60
      min_samples_leaf: 8
      max_features: 0.5
"""
_FEW_ROWS = """\
    random_forest:
      n_estimators: 100
      min_samples_leaf: 4
      max_features: 0.5
    gradient_boosting:
      n_estimators: 150
      max_depth: 3
      learning_rate: 0.05
      min_samples_leaf: 10
      subsample: 0.6
      max_features: 0.4
"""
_USUAL_ROWS = """\
    random_forest:
      n_estimators: 60
      min_samples_leaf: 8
      max_features: 0.5
    gradient_boosting:
      n_estimators: 150
      max_depth: 5
      learning_rate: 0.1
      min_samples_leaf: 10
      subsample: 0.6
      max_features: 0.4
"""
_CAREFUL = """\
    careful_boosting:
      family: hist_gradient_boosting
      max_iter: 800
      learning_rate: 0.03
      min_samples_leaf: 10
      max_features: 0.3
      l2_regularization: 3.0
"""
_SPATIAL = """\
    spatial:
      budget: default
      budgets:
        default:
          - trees: {max_iter: 300, learning_rate: 0.05}
      trees:
        max_leaf_nodes: 31
        max_features: 0.2
        l2_regularization: 1.0
        max_bins: 127
      features:                 # after the columns and before the kriging
        NorthEast: {angle: 45}
        NorthWest: {angle: -45}
        Distance1: {distance: 1}
        Distance5: {distance: 5}
        MeanOf5: {mean: 5}
        MeanOf20: {mean: 20}
"""


def _features(description: Description) -> str:
    """Return the features that the analysis found useful, if there are any."""
    terms = description.analysis.features.items()
    lines = [
        f"        {name}: {{{kind}: [{', '.join(pair)}]}}\n" for name, term in terms for kind, pair in term.items()
    ]
    return "".join(
        ["      features:               # they lowered the error in cross-validation\n", *lines] if lines else []
    )


def _index(description: Description) -> str:
    """Return the index of prices: of ratios where all values are above zero."""
    values = description.target.data.to_numpy(np.float64)
    lowest = _round(float(np.quantile(values, 0.01))) if values.min() > 0 else 0.0
    ratios = f"    lowest_value: {lowest:<11g} # lower values count as this one, in the unit of the target\n"
    return f"""\
  price_index:                # adjusts older values to the level of the newest labels
    half_life: 200            # a label followed by this many newer ones weighs half as much as the newest
    least: 50                 # with fewer labels the old values are not adjusted
{ratios if lowest else ""}"""


def _of_place(description: Description) -> str:
    """Return what models that know the place of a row need: the limits and the kriging."""
    if not description.place:
        return ""
    columns = {column.name: column for column in description.features}
    latitude, longitude = (columns[name].data.to_numpy(np.float64) for name in description.place)
    middle = float(np.median(latitude))
    far = _far_km(np.column_stack([latitude, longitude]), middle)
    distances = ", ".join(f"{_round(part * far):g}" for part in (0, 0.1, 0.2, 0.4, 0.6, 1, 2))
    inputs = [
        column for name in description.analysis.important if _fits_a_kernel(column := columns[name], description)
    ]
    terms = "".join(f"        {column.name}: {_input(column)}\n" for column in inputs[:MOST_INPUTS])
    return f"""\
  limits:                     # where the errors of the winner are measured
    line: {_round(middle, 4):<19g} # across a line of latitude
    distances_km: [{distances}]  # and by the distance to the nearest training place
    far_km: {far:<17g} # farther out, an answer carries a warning
  kriging:                    # estimates a value from those of the nearest places
    middle_latitude: {_round(middle, 3):<8g} # a degree of longitude counts as much as it measures here
    kernel:
      inputs:{"                 # logarithms and clipping as the values are spread" if inputs else " {}"}
{terms}"""


def _fits_a_kernel(column: Column, description: Description) -> bool:
    return column.type in NUMBERS and not column.missing and column.name not in (description.place or ())


def _input(column: Column) -> str:
    """Return the term of an input: the logarithm of a skewed one, without the far ends that say nothing more."""
    values = column.data.to_numpy(np.float64)
    low, first, middle, last, high = np.quantile(values, [0, 0.01, 0.5, 0.99, 1])
    skewed = low >= 0 and last - middle > SKEWED * (middle - first)
    far = high - middle > 2 * (last - middle) or middle - low > 2 * (middle - first)
    parts = []
    if (skewed or far) and _round(first) < _round(last):
        parts.append(f"clip: [{_round(first):g}, {_round(last):g}]")
    if skewed:
        if _round(first) <= 0:
            parts.append(f"plus: {_round(float(np.quantile(values[values > 0], 0.05)) / 2):g}")
        parts.append("log: true")
    return f"{{{', '.join(parts)}}}"


def _far_km(places: Vector, middle: float) -> float:
    """Return the distance to the nearest other place that few places exceed, in kilometres."""
    from pykdtree.kdtree import KDTree  # noqa: PLC0415 - only where there is a place

    where = np.ascontiguousarray(np.unique(Places(["n", "e"], ["n", "e"], middle)(places), axis=0))
    if len(where) < 3:
        return 1.0
    distances, _ = KDTree(where).query(where, k=2)
    return max(_round(float(np.quantile(distances[:, 1], 1 - FAR_SHARE)) * KILOMETRES, 1), 0.01)


def _round(number: float, digits: int = 2) -> float:
    """Return a number with so many significant digits."""
    return round(number, digits - 1 - math.floor(math.log10(abs(number)))) if number else 0.0
