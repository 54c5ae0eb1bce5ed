"""What a model looks at, as its error tells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tableloop.evaluation.importance import importance
from tableloop.table import Input, load_table

Matrix = npt.NDArray[np.float64]


def test_what_moves_the_answer_most_is_worth_most_and_the_rest_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 4))
    inputs = [Input(name, name, (column,)) for column, name in enumerate("abcd")]

    def predict(asked: Matrix) -> Matrix:
        values: Matrix = asked[:, 1] + 3 * asked[:, 2]
        return values

    found = importance(predict, rows, predict(rows), inputs)
    assert found["c"] > 2 * found["b"] > 1
    assert found["a"] == found["d"] == 0


def test_the_columns_of_one_input_stay_together() -> None:
    rows = np.repeat(np.random.default_rng(0).normal(size=(500, 1)), 2, axis=1)

    def predict(asked: Matrix) -> Matrix:
        return np.where(asked[:, 0] == asked[:, 1], 0.0, 100.0)  # of a pair that no row has

    assert importance(predict, rows, np.zeros(500), [Input("pair", "Pair", (0, 1))]) == {"pair": 0.0}


def test_a_place_is_one_input_of_the_table() -> None:
    inputs = load_table().inputs
    assert [input_.title for input_ in inputs][-1] == "Place"
    assert sorted(column for input_ in inputs for column in input_.columns) == [*range(8)]
