"""Makes the compiled scorer of a spatial model: the files that `tableloop.model.onnx_scorer` reads.

The graph is written here and not by skl2onnx, which (1.20 with onnx 1.23) writes an attribute that onnx refuses and
knows neither the offset nor the intervals.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline

from tableloop.model.conformal import ConformalRegressor
from tableloop.model.onnx_scorer import ARRAYS, FORMAT, OUTPUTS, TREES
from tableloop.model.spatial import OffsetRegressor, SpatialFeatures

Matrix = npt.NDArray[np.float64]


class NotCompilableError(ValueError):
    """The model is not one that the scorer knows; scikit-learn has to serve it."""


def write_scorer(model: ConformalRegressor, example: Matrix, directory: Path) -> None:
    """Write the scorer of a fitted and calibrated model, with what the model says of some rows of shape (n, columns).

    Raises
    ------
    NotCompilableError
        When the model is not a calibrated pipeline of ``SpatialFeatures`` and ``OffsetRegressor``.
    """
    arrays, trees = compile_model(model, example)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / TREES).write_bytes(trees)
    np.savez_compressed(directory / ARRAYS, allow_pickle=False, **arrays)


def compile_model(model: ConformalRegressor, example: Matrix) -> tuple[dict[str, npt.NDArray[Any]], bytes]:
    """Return what `tableloop.model.onnx_scorer.Scorer` is made of.

    Raises
    ------
    NotCompilableError
        When the model is not a calibrated pipeline of ``SpatialFeatures`` and ``OffsetRegressor``.
    """
    trees = compile_trees(model)
    spatial, _ = _steps(model)
    specification = spatial.specification_ | {
        "least_error": model.least_error,
        "factor": model.factor_,
        "lowest": model.lowest_,
        "highest": model.highest_,
    }
    values: dict[str, Any] = {
        "format": FORMAT,
        "trees_sha256": hashlib.sha256(trees).hexdigest(),
        "specification": json.dumps(specification),
        **spatial.arrays_,
        "example": example,
        "expected": np.stack(model.predict_interval(example), axis=1),
    }
    return {name: np.asarray(value) for name, value in values.items()}, trees


def compile_trees(model: ConformalRegressor) -> bytes:
    """Return the trees of a fitted and calibrated model as an ONNX graph.

    Input "features" (n, m); outputs "value" and "error", each (n, 1); all float64.

    Raises
    ------
    NotCompilableError
        When the model is not a calibrated pipeline of ``SpatialFeatures`` and ``OffsetRegressor``.
    """
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


def _steps(model: ConformalRegressor) -> tuple[SpatialFeatures, OffsetRegressor]:
    """Return the two parts of the model, after a look at whether there is nothing else in it."""
    estimator = model.estimator
    if not hasattr(model, "scale_"):
        raise NotCompilableError("the model has no calibrated intervals")
    if not (
        isinstance(estimator, Pipeline)
        and [type(step) for _, step in estimator.steps] == [SpatialFeatures, OffsetRegressor]
        and isinstance(estimator[1].regressor_, HistGradientBoostingRegressor)
    ):
        raise NotCompilableError("only a single spatial model can be compiled")
    return estimator[0], estimator[1]


def _ensemble(boosted: Any, features: str, output: str) -> Any:
    """Return a HistGradientBoostingRegressor as an ONNX node; its baseline goes into the leaves of the first tree.

    scikit-learn keeps a tree as an array of nodes, leaves among them; ONNX numbers inner nodes and leaves apart.
    """
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
