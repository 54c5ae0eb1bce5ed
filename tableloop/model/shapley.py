"""Shapley values: how much each input moves one prediction away from the average one; only numpy.

The inputs are players of a cooperative game. What a coalition S of them is worth for a row x is the mean prediction
of rows that have the values of x in S and those of a background row b elsewhere:

    v(S) = mean over b of f(x in S, b elsewhere)

This is the interventional definition: inputs outside of S keep their own distribution, whatever is known of S
(Janzing, Minorics and Blöbaum 2020, "Feature relevance quantification in explainable AI: A causal problem"; Lundberg
and Lee 2017, "A Unified Approach to Interpreting Model Predictions", with independent features). So an input that the
model does not look at gets nothing, however strongly it goes with others. The value of player i is its mean worth to
the coalitions that it can join (Shapley 1953):

    phi(i) = sum over S without i of |S|! (p - |S| - 1)! / p! * (v(S and i) - v(S))

The values add up to f(x) less the mean of f(b). With few players the sum is over all coalitions. With more, orders
of the players are drawn (Castro, Gómez and Tejada 2009), each followed by its reverse (Mitchell, Cooper, Frank and
Holmes 2022, "Sampling Permutations for Shapley Value Estimation"); whatever is drawn, the values add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Player = Sequence[int]  # the numbers of its columns
Predict = Callable[[Matrix], Matrix]  # rows (n, columns) to values (n,)

EXACT_PLAYERS = 8  # at most, for a sum over all 256 coalitions
BACKGROUND_ROWS = 40  # with which 128 coalitions are 5,120 rows: 0.1 s of a core at 20 µs a row
SAMPLED_ROWS = 5120  # to predict when orders are drawn; more in a table of hundreds of columns
LEAST_BACKGROUND_ROWS = 16
LEAST_PAIRS = 2  # of orders for each background row: one says nothing of its own error
CHUNK = 1024  # rows at a time, so that others who ask the model have their turn in between


class ShapleyValues(NamedTuple):
    """A prediction, the mean one of the background, and what each player adds to it, shape (players,).

    ``errors`` are the standard errors of sampled values, (players,): those of the draw, for this background. None of
    exact ones.
    """

    prediction: float
    base: float
    values: Matrix
    errors: Matrix | None


def shapley_values(predict: Predict, row: Matrix, background: Matrix, players: Sequence[Player]) -> ShapleyValues:
    """Return the Shapley values of one row.

    Parameters
    ----------
    predict
        The model.
    row
        Its columns, (columns,); what is missing is NaN, as for the model.
    background
        Rows of the data, (n, columns), best as many as `background_rows` says; all are used.
    players
        Which columns are one player; every column is one of exactly one.
    """
    of_background = predict(background)
    prediction = float(predict(row[np.newaxis])[0])
    of_columns = np.empty(len(row), dtype=np.intp)  # the player of each column
    for number, columns in enumerate(players):
        of_columns[list(columns)] = number
    if len(players) <= EXACT_PLAYERS:
        worth = _worth(predict, row, background, of_columns, len(players))
        worth[0], worth[-1] = of_background.mean(), prediction
        values, errors = _exact(worth, len(players)), None
    else:
        values, errors = _sampled(predict, row, background, of_columns, (of_background, prediction))
    return ShapleyValues(prediction, float(of_background.mean()), values, errors)


def background_rows(players: int) -> int:
    """Return with how many background rows so many players are explained in bounded time."""
    if players <= EXACT_PLAYERS:
        return BACKGROUND_ROWS
    most = SAMPLED_ROWS // (2 * LEAST_PAIRS * (players - 1))
    return min(max(most, LEAST_BACKGROUND_ROWS), BACKGROUND_ROWS)


def representative(predictions: Matrix, count: int) -> npt.NDArray[np.intp]:
    """Return the numbers of ``count`` rows with about the mean and the spread of all predictions, the same each time.

    It is a systematic sample along the predictions (n,). The mean of 40 rows drawn by chance would be off by a sixth
    of the spread of a prediction, and so would be the average that a person reads.
    """
    order = np.argsort(predictions, kind="stable")
    count = min(count, len(order))
    return order[((np.arange(count) + 0.5) * len(order) / count).astype(np.intp)]


def _worth(
    predict: Predict, row: Matrix, background: Matrix, of_columns: npt.NDArray[np.intp], players: int
) -> Matrix:
    """Return v of each coalition, (2 ** players,), but not of none and of all; bit i of its number is player i."""
    worth = np.empty(1 << players)
    together = max(1, CHUNK // len(background))
    for start in range(1, len(worth) - 1, together):
        coalitions = np.arange(start, min(start + together, len(worth) - 1))
        joined = (coalitions[:, np.newaxis] >> of_columns & 1).astype(np.bool_)
        rows = np.where(joined[:, np.newaxis], row, background)
        worth[coalitions] = predict(rows.reshape(-1, len(row))).reshape(len(coalitions), -1).mean(axis=1)
    return worth


def _exact(worth: Matrix, players: int) -> Matrix:
    """Return the Shapley values (players,) of the worths of all coalitions."""
    coalitions = np.arange(1 << players)
    sizes = (coalitions[:, np.newaxis] >> np.arange(players) & 1).sum(axis=1)
    weights = np.array(
        [math.factorial(size) * math.factorial(players - size - 1) for size in range(players)], dtype=np.float64
    ) / math.factorial(players)
    values = np.empty(players)
    for player in range(players):
        without = coalitions[(coalitions >> player & 1) == 0]
        values[player] = weights[sizes[without]] @ (worth[without | 1 << player] - worth[without])
    return values


def _sampled(
    predict: Predict,
    row: Matrix,
    background: Matrix,
    of_columns: npt.NDArray[np.intp],
    ends: tuple[Matrix, float],
) -> tuple[Matrix, Matrix]:
    """Return Shapley values and their standard errors, each (players,), of as many orders for each background row.

    ``ends`` are the predictions of the background rows and of the row.
    """
    of_background, prediction = ends
    players, steps = int(of_columns.max()) + 1, int(of_columns.max())
    pairs = max(LEAST_PAIRS, SAMPLED_ROWS // (2 * steps * len(background)))
    random = np.random.default_rng(0)
    values = np.empty((len(background), players))
    variances = np.empty((len(background), players))
    together = max(1, CHUNK // (2 * pairs * steps))
    for start in range(0, len(background), together):
        part = slice(start, start + together)
        chosen = background[part]
        places = random.permuted(np.tile(np.arange(players), (len(chosen), pairs, 1)), axis=2)
        places = np.concatenate([places, steps - places], axis=1)  # when each player joins: (rows, orders, players)
        # After each step but the last one: (rows, orders, steps, columns).
        joined = places[:, :, np.newaxis, of_columns] < np.arange(1, players)[:, np.newaxis]
        rows = np.where(joined, row, chosen[:, np.newaxis, np.newaxis])
        walks = np.empty((*places.shape[:2], players + 1))
        walks[..., 0], walks[..., -1] = of_background[part, np.newaxis], prediction
        walks[..., 1:-1] = _in_chunks(predict, rows.reshape(-1, len(row))).reshape(*places.shape[:2], steps)
        moves = np.take_along_axis(np.diff(walks, axis=2), places, axis=2)
        of_pairs = (moves[:, :pairs] + moves[:, pairs:]) / 2
        values[part] = of_pairs.mean(axis=1)
        variances[part] = of_pairs.var(axis=1, ddof=1) / pairs
    return values.mean(axis=0), np.sqrt(variances.sum(axis=0)) / len(background)


def _in_chunks(predict: Predict, rows: Matrix) -> Matrix:
    return np.concatenate([predict(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)])
