"""The compiled scorer: the spatial model's answers at a small part of scikit-learn's cost for a single row.

The trees, those of the value and those of its expected error, run as one ONNX graph in onnxruntime. Its features come
from the same fitted ``SpatialFeatures`` as scikit-learn's: rows together by its own code, a single row by the same
formulas on small arrays, where the overhead of general array code would take most of the time.

The graph is written here and not by skl2onnx, which (1.20 with onnx 1.23) writes an attribute that onnx refuses and
knows neither the offset nor the intervals. All of it is float64, so answers differ in the last digits only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from scipy.linalg.lapack import dposv
from scipy.spatial.distance import cdist
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline

from pipeline.conformal import SCALE_FLOOR, ConformalRegressor
from pipeline.spatial import (
    BEDROOMS_BOUNDS,
    EASTWARD,
    FEATURES_OUT,
    OCCUPANCY_BOUNDS,
    ROOMS_BOUNDS,
    OffsetRegressor,
    SpatialFeatures,
)

Matrix = npt.NDArray[np.float64]

CHUNK = 1024  # rows at a time
OUTPUTS = ["value", "error"]


class NotCompilableError(ValueError):
    """The model is not one that the scorer knows; scikit-learn has to serve it."""


class Scorer:
    """Values and intervals of a fitted and calibrated model, from its compiled trees.

    Safe to use from several threads; rows are taken as valid, as the service has checked them.

    Raises
    ------
    NotCompilableError
        When the model is not a calibrated pipeline of ``SpatialFeatures`` and ``OffsetRegressor``.
    """

    def __init__(self, model: ConformalRegressor, graph: bytes) -> None:
        self._spatial, _ = _steps(model)
        self._model = model
        options = onnxruntime.SessionOptions()
        # One row is done before a second thread has woken up; large tables are the caller's to divide.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._trees = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._features_of_one = _features_of_one(self._spatial)

    def predict_interval(self, X: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        """Return values and the ends of their intervals for rows of shape (n, 8), each of shape (n,)."""
        if len(X) == 1:
            value, low, high = self.score(X[0].tolist())
            return np.array([value]), np.array([low]), np.array([high])
        values, errors = np.empty(len(X)), np.empty(len(X))
        for start in range(0, len(X), CHUNK):
            rows = slice(start, start + CHUNK)
            features = self._spatial.features(X[rows]).astype(np.float64)
            value, error = self._trees.run(OUTPUTS, {"features": features})
            values[rows], errors[rows] = value[:, 0], error[:, 0]
        return (values, *self._model.ends(values, errors))

    def score(self, row: Sequence[float]) -> tuple[float, float, float]:
        """Return value, lower and upper end of one row: eight floats in the order of the schema."""
        value_, error = self._trees.run(OUTPUTS, {"features": self._features_of_one(row)})
        model = self._model
        value: float = value_.item()
        width = model.factor_ * max(error.item(), SCALE_FLOOR)
        return (
            value,
            min(max(value - width, model.lowest_), value),
            max(min(value + width, model.highest_), value),
        )


def compile_trees(model: ConformalRegressor) -> bytes:
    """Return the trees of a fitted and calibrated model as an ONNX graph, to be stored beside it.

    Input "features" (n, m); outputs "value" and "error", each (n, 1); all float64.

    Raises
    ------
    NotCompilableError
        When the model is not a calibrated pipeline of ``SpatialFeatures`` and ``OffsetRegressor``.
    """
    from onnx import TensorProto, checker, helper, numpy_helper  # noqa: PLC0415 - only needed where models are made

    spatial, regressor = _steps(model)
    width = len(spatial.get_feature_names_out())
    share_of_last = np.zeros((width, 1))
    share_of_last[-1] = regressor.share
    constants = {
        "share_of_last": share_of_last,
        "lowest": np.array(regressor.low_),
        "highest": np.array(regressor.high_),
    }
    nodes = [
        _ensemble(regressor.regressor_, "features", "rest"),
        helper.make_node("MatMul", ["features", "share_of_last"], ["offset"]),
        helper.make_node("Add", ["rest", "offset"], ["unbounded"]),
        helper.make_node("Clip", ["unbounded", "lowest", "highest"], ["value"]),
        helper.make_node("Concat", ["features", "value"], ["with_value"], axis=1),
        _ensemble(model.scale_, "with_value", "error"),
    ]
    graph = helper.make_graph(
        nodes,
        "spatial",
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, [None, width])],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 1]) for name in OUTPUTS],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    checker.check_model(made)
    serialised: bytes = made.SerializeToString()
    return serialised


def largest_difference(scorer: Scorer, model: ConformalRegressor, X: Matrix) -> float:
    """Return how far the scorer's values and ends are from the model's, at most, rows together and one by one."""
    expected = np.stack(model.predict_interval(X), axis=1)
    together = np.stack(scorer.predict_interval(X), axis=1)
    one_by_one = np.array([scorer.score(row) for row in X.tolist()])
    return float(max(np.abs(together - expected).max(), np.abs(one_by_one - expected).max()))


def _steps(model: ConformalRegressor) -> tuple[SpatialFeatures, OffsetRegressor]:
    """Return the two parts of the model, after a look at whether there is nothing else in it."""
    estimator = model.estimator
    if not hasattr(model, "scale_"):
        raise NotCompilableError("the model has no calibrated intervals")
    if not (
        isinstance(estimator, Pipeline)
        and [type(step) for _, step in estimator.steps] == [SpatialFeatures, OffsetRegressor]
        and isinstance(estimator[1].regressor_, HistGradientBoostingRegressor)
        and not estimator[0].wide
    ):
        raise NotCompilableError("only the default spatial model can be compiled")
    return estimator[0], estimator[1]


def _ensemble(boosted: Any, features: str, output: str) -> Any:
    """Return a HistGradientBoostingRegressor as an ONNX node; its baseline goes into the leaves of the first tree.

    scikit-learn keeps a tree as an array of nodes, leaves among them; ONNX numbers inner nodes and leaves apart.
    """
    from onnx import helper, numpy_helper  # noqa: PLC0415

    feature, split, left, right, left_leaf, right_leaf, roots, weights = ([] for _ in range(8))  # type: ignore[var-annotated]
    baseline = float(np.asarray(boosted._baseline_prediction).item())
    for (tree,) in boosted._predictors:
        nodes = tree.nodes
        leaf = nodes["is_leaf"].astype(bool)
        if leaf[0]:
            raise NotCompilableError("a tree without a split")
        number = np.where(leaf, len(weights) + np.cumsum(leaf) - 1, len(feature) + np.cumsum(~leaf) - 1)
        inner = nodes[~leaf]
        roots.append(len(feature))
        feature += inner["feature_idx"].tolist()
        split += inner["num_threshold"].tolist()
        left += number[inner["left"]].tolist()
        right += number[inner["right"]].tolist()
        left_leaf += leaf[inner["left"]].tolist()
        right_leaf += leaf[inner["right"]].tolist()
        weights += (nodes["value"][leaf] + (0.0 if weights else baseline)).tolist()
    return helper.make_node(
        "TreeEnsemble",
        [features],
        [output],
        domain="ai.onnx.ml",
        aggregate_function=1,  # sum
        n_targets=1,
        tree_roots=roots,
        nodes_modes=numpy_helper.from_array(np.zeros(len(feature), dtype=np.uint8)),  # feature <= split
        nodes_featureids=feature,
        nodes_splits=numpy_helper.from_array(np.array(split)),
        nodes_truenodeids=left,
        nodes_trueleafs=[int(is_leaf) for is_leaf in left_leaf],
        nodes_falsenodeids=right,
        nodes_falseleafs=[int(is_leaf) for is_leaf in right_leaf],
        leaf_targetids=[0] * len(weights),
        leaf_weights=numpy_helper.from_array(np.array(weights)),
    )


def _kernel_inputs_of_one(row: Sequence[float], scale: Sequence[float]) -> Matrix:
    income, age, rooms, bedrooms, population, occupancy, north, longitude = row
    return np.array(
        (
            math.log(income + 0.5) * scale[0],
            age * scale[1],
            math.log(min(max(rooms, ROOMS_BOUNDS[0]), ROOMS_BOUNDS[1])) * scale[2],
            math.log(min(max(bedrooms / rooms, BEDROOMS_BOUNDS[0]), BEDROOMS_BOUNDS[1])) * scale[3],
            math.log(population + 1.0) * scale[4],
            math.log(min(max(occupancy, OCCUPANCY_BOUNDS[0]), OCCUPANCY_BOUNDS[1])) * scale[5],
            north * scale[6],
            longitude * EASTWARD * scale[7],
        )
    )


def _features_of_one(spatial: SpatialFeatures) -> Callable[[Sequence[float]], Matrix]:
    """Return a function that makes the features of one row, shape (1, m): ``SpatialFeatures.features`` for a row.

    Formulas and their order are those of ``SpatialFeatures``, with plain floats where a row has one number.
    """
    query = spatial._tree.query
    inputs, targets = spatial.inputs_, spatial.targets_
    # As complex numbers, places are one array, and the absolute value of a difference is a distance.
    spots = spatial.places_.view(np.complex128).ravel() / spatial.place_length_
    scale = spatial.input_scale_.tolist()
    # The two parts of the kernel: by place, and by all inputs.
    factors, weights = np.array([[-1.0 / spatial.place_length_], [-1.0]]), np.array([spatial.place_weight_, 1.0])
    variance = 1.0 + spatial.place_weight_
    diagonal = variance * (1.0 + spatial.noise_)
    near = min(spatial.candidates, len(targets))
    count = min(spatial.neighbours, near)
    five, twenty = min(5, near), min(20, near)
    width, half = len(FEATURES_OUT), math.sqrt(0.5)
    empty, exp, sqrt, vecdot = np.empty, np.exp, np.sqrt, np.vecdot

    def features(row: Sequence[float]) -> Matrix:
        income, age, rooms, bedrooms, population, occupancy, north, longitude = row
        east, share = longitude * EASTWARD, bedrooms / rooms
        distances, indices = query((north, east), near)
        values = targets.take(indices)
        sums = values[:twenty].cumsum()

        offsets = inputs.take(indices, 0)
        offsets -= _kernel_inputs_of_one(row, scale)
        parts = empty((2, near))
        parts[0] = distances
        sqrt(vecdot(offsets, offsets), parts[1])
        parts *= factors
        exp(parts, parts)
        to_row = weights.dot(parts)

        best = to_row.argpartition(near - count)[near - count :]
        around, offsets = spots.take(indices.take(best)), offsets.take(best, 0)
        kernels = empty((2, count, count))
        np.abs(around[:, None] - around, out=kernels[0])
        cdist(offsets, offsets, out=kernels[1])
        np.negative(kernels, kernels)
        exp(kernels, kernels)
        covariance = weights.dot(kernels.reshape(2, -1))
        covariance[:: count + 1] = diagonal

        columns = empty((3, count))
        columns[0], columns[1], columns[2] = to_row.take(best), 1.0, values.take(best)
        # Symmetric and positive definite, so Cholesky; the transposed array is in the order that LAPACK wants.
        _, solved, _ = dposv(covariance.reshape(count, count), columns[:2].T)
        (row_row, row_one, row_target), (_, one_one, one_target) = columns.dot(solved).T.tolist()
        mean = one_target / one_one
        kriging = mean + row_target - mean * row_one
        out = empty((1, width), np.float32)
        out[0] = (
            income, age, rooms, bedrooms, population, occupancy, north, longitude,
            rooms / occupancy, share, income * rooms, (north + east) * half, (north - east) * half,
            distances.item(0), distances.item(five - 1), sums.item(five - 1) / five, sums.item(twenty - 1) / twenty,
            1.0 - row_row / variance, kriging,
        )  # fmt: skip
        return out.astype(np.float64)

    return features
