"""Makes the compiled scorer of a model: the files that `tableloop.model.onnx_scorer` reads.

The graph is written here and not by skl2onnx, which (1.20 with onnx 1.23) writes an attribute that onnx refuses and
knows neither the offset nor the intervals.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, checker, helper, numpy_helper
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from tableloop.model.conformal import ConformalRegressor
from tableloop.model.light_boosting import LightBoosting
from tableloop.model.onnx_scorer import ARRAYS, FORMAT, OUTPUTS, TREES
from tableloop.model.row_features import RowFeatures
from tableloop.model.spatial import OffsetRegressor, SpatialFeatures

Matrix = npt.NDArray[np.float64]

AT_MOST, MEMBER = 0, 6  # how ONNX calls the questions of a node: feature <= split, and feature in a set


class NotCompilableError(ValueError):
    """The model is not one that the scorer knows; scikit-learn has to serve it."""


def write_scorer(model: ConformalRegressor, example: Matrix, directory: Path) -> None:
    """Write the scorer of a fitted and calibrated model, with what the model says of some rows of shape (n, columns).

    Raises
    ------
    NotCompilableError
        When the model is none of those that `tableloop.model.candidates` makes alone, or has no intervals.
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
        As `write_scorer`.
    """
    trees = compile_trees(model)
    features = model.estimator[0]
    specification = features.specification_ | {
        "least_error": model.least_error_,
        "factor": model.factor_,
        "lowest": model.lowest_,
        "highest": model.highest_,
    }
    values: dict[str, Any] = {
        "format": FORMAT,
        "trees_sha256": hashlib.sha256(trees).hexdigest(),
        "specification": json.dumps(specification),
        **features.arrays_,
        "example": example,
        "expected": np.stack(model.predict_interval(example), axis=1),
    }
    return {name: np.asarray(value) for name, value in values.items()}, trees


def compile_trees(model: ConformalRegressor) -> bytes:
    """Return what a fitted and calibrated model makes of its features as an ONNX graph.

    Input "features" (n, m); outputs "value" and "error", each (n, 1); all float64.

    Raises
    ------
    NotCompilableError
        As `write_scorer`.
    """
    if not hasattr(model, "scale_"):
        raise NotCompilableError("the model has no calibrated intervals")
    steps = [step for _, step in model.estimator.steps] if isinstance(model.estimator, Pipeline) else []
    if not steps or type(steps[0]) not in (RowFeatures, SpatialFeatures):
        raise NotCompilableError("only one model with its features can be compiled, not a mean of several")
    features, *scaling, regressor = steps
    graph = _Graph(features.design.codes)
    known = "features"
    for step in scaling:
        if not isinstance(step, StandardScaler):
            raise NotCompilableError(f"there is no compiled form of {type(step).__name__}")
        known = graph.add("Div", graph.add("Sub", known, step.mean_), step.scale_)
    graph.regressor(regressor, known, "value")
    graph.regressor(model.scale_, graph.add("Concat", known, "value", axis=1), "error")
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "model",
            [
                helper.make_tensor_value_info(
                    "features", TensorProto.DOUBLE, [None, len(features.get_feature_names_out())]
                )
            ],
            [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [None, 1]) for name in OUTPUTS],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 5)],
        ir_version=10,
    )
    checker.check_model(made)
    serialised: bytes = made.SerializeToString()
    return serialised


@dataclass
class _Tree:
    """A tree as arrays over its nodes, leaves among them; the first node is the root.

    ``members`` are the values that go to the left, by node; at all others ``split`` decides.
    """

    leaf: npt.NDArray[np.bool_]
    feature: npt.NDArray[np.int64]
    split: Matrix
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    missing_left: npt.NDArray[np.bool_]
    value: Matrix
    members: Mapping[int, Sequence[float]]


class _Graph:
    """Nodes and constants of an ONNX graph; ``codes`` as `tableloop.model.design.Design` has them."""

    def __init__(self, codes: Mapping[int, int]) -> None:
        self._codes = codes
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str | npt.ArrayLike, output: str = "", **attributes: Any) -> str:
        """Add a node, whose inputs are names or constants; return the name of its output."""
        names = []
        for value in inputs:
            name = value if isinstance(value, str) else f"constant{len(self.constants)}"
            if not isinstance(value, str):
                self.constants.append(numpy_helper.from_array(np.asarray(value), name))
            names.append(name)
        output = output or f"made{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def regressor(self, fitted: Any, known: str, output: str) -> None:
        """Add what a fitted regressor makes of features."""
        if isinstance(fitted, OffsetRegressor):
            last = self.add("Gather", known, [fitted.n_features_in_ - 1], axis=1)
            rest = f"{output}_rest"
            self.regressor(fitted.regressor_, known, rest)
            unbounded = self.add("Add", rest, self.add("Mul", last, float(fitted.share)))
            self.add("Clip", unbounded, fitted.low_, fitted.high_, output=output)
        elif isinstance(fitted, LinearRegression):
            self.add("Add", self.add("MatMul", known, fitted.coef_[:, None]), fitted.intercept_, output=output)
        elif isinstance(fitted, HistGradientBoostingRegressor):
            baseline = float(np.asarray(fitted._baseline_prediction).item())
            self.ensemble(_boosted_trees(fitted, self._codes), known, output, baseline)
        elif isinstance(fitted, LightBoosting):
            self.ensemble(_light_trees(fitted), known, output)
        elif isinstance(fitted, (DecisionTreeRegressor, RandomForestRegressor, GradientBoostingRegressor)):
            # These look at float32.
            narrow = self.add("Cast", self.add("Cast", known, to=TensorProto.FLOAT), to=TensorProto.DOUBLE)
            trees, baseline = _plain_trees(fitted)
            self.ensemble(trees, narrow, output, baseline)
        else:
            raise NotCompilableError(f"there is no compiled form of {type(fitted).__name__}")

    def ensemble(self, trees: Sequence[_Tree], known: str, output: str, baseline: float = 0.0) -> None:
        """Add the sum of trees and a baseline, which goes into the leaves of the first tree.

        ONNX numbers inner nodes and leaves apart.
        """
        feature, split, mode, left, right, left_leaf, right_leaf = ([] for _ in range(7))  # type: ignore[var-annotated]
        roots, weights, members, missing_left = ([] for _ in range(4))  # type: ignore[var-annotated]
        for tree in map(_with_a_question, trees):
            leaf, inner = tree.leaf, ~tree.leaf
            number = np.where(leaf, len(weights) + np.cumsum(leaf) - 1, len(feature) + np.cumsum(inner) - 1)
            sets = [tree.members.get(node) for node in np.flatnonzero(inner).tolist()]
            roots.append(len(feature))
            feature += tree.feature[inner].tolist()
            split += tree.split[inner].tolist()
            mode += [AT_MOST if values is None else MEMBER for values in sets]
            members += [value for values in sets if values is not None for value in (*values, np.nan)]
            missing_left += tree.missing_left[inner].tolist()
            left += number[tree.left[inner]].tolist()
            right += number[tree.right[inner]].tolist()
            left_leaf += leaf[tree.left[inner]].tolist()
            right_leaf += leaf[tree.right[inner]].tolist()
            weights += (tree.value[leaf] + (0.0 if weights else baseline)).tolist()
        sets_of_nodes = {"membership_values": numpy_helper.from_array(np.array(members))} if members else {}
        self.add(
            "TreeEnsemble",
            known,
            output=output,
            domain="ai.onnx.ml",
            aggregate_function=1,  # sum
            n_targets=1,
            tree_roots=roots,
            nodes_modes=numpy_helper.from_array(np.array(mode, dtype=np.uint8)),
            nodes_featureids=feature,
            nodes_splits=numpy_helper.from_array(np.array(split)),
            nodes_truenodeids=left,
            nodes_trueleafs=[int(is_leaf) for is_leaf in left_leaf],
            nodes_falsenodeids=right,
            nodes_falseleafs=[int(is_leaf) for is_leaf in right_leaf],
            nodes_missing_value_tracks_true=[int(is_left) for is_left in missing_left],
            leaf_targetids=[0] * len(weights),
            leaf_weights=numpy_helper.from_array(np.array(weights)),
            **sets_of_nodes,
        )


def _with_a_question(tree: _Tree) -> _Tree:
    """Return the tree, or one that asks something whatever the answer where the root is the only leaf."""
    if not tree.leaf[0]:
        return tree
    return _Tree(
        leaf=np.array([False, True, True]),
        feature=np.zeros(3, dtype=np.int64),
        split=np.zeros(3),
        left=np.array([1, 0, 0]),
        right=np.array([2, 0, 0]),
        missing_left=np.zeros(3, dtype=bool),
        value=np.repeat(tree.value[:1], 3),
        members={},
    )


def _boosted_trees(fitted: HistGradientBoostingRegressor, codes: Mapping[int, int]) -> list[_Tree]:
    """Return the trees of a histogram boosting, whose own matrix begins with the categories, coded once more."""
    own: dict[int, npt.NDArray[np.int64]] = {}  # by column of its matrix, the codes of the levels that it knows
    columns = np.arange(fitted.n_features_in_)
    if (categorical := fitted.is_categorical_) is not None:
        columns = np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])
        levels = fitted._preprocessor.named_transformers_["encoder"].categories_
        own = {number: values[~np.isnan(values)].astype(np.int64) for number, values in enumerate(levels)}
    trees = []
    for (tree,) in fitted._predictors:
        nodes = tree.nodes
        members: dict[int, list[float]] = {}
        for node in np.flatnonzero(nodes["is_categorical"] & ~nodes["is_leaf"].astype(bool)).tolist():
            column = int(nodes["feature_idx"][node])
            bits = np.unpackbits(
                tree.raw_left_cat_bitsets[nodes["bitset_idx"][node]].view(np.uint8), bitorder="little"
            )
            goes_left = np.zeros(codes[columns[column]], dtype=bool)
            # A level that was not in the rows of the fit is like a missing value.
            goes_left[:] = nodes["missing_go_to_left"][node]
            goes_left[own[column]] = bits[: len(own[column])]
            # The set must hold something: no code is negative.
            members[node] = [float(code) for code in np.flatnonzero(goes_left)] or [-1.0]
        trees.append(
            _Tree(
                leaf=nodes["is_leaf"].astype(bool),
                feature=columns[nodes["feature_idx"]],
                split=nodes["num_threshold"],
                left=nodes["left"].astype(np.int64),
                right=nodes["right"].astype(np.int64),
                missing_left=nodes["missing_go_to_left"].astype(bool),
                value=nodes["value"],
                members=members,
            )
        )
    return trees


def _light_trees(fitted: LightBoosting) -> list[_Tree]:
    """Return the trees that LightGBM has fitted."""
    trees = []
    for start, end in zip(fitted.first_[:-1], fitted.first_[1:], strict=True):
        part = slice(start, end)
        sets = fitted.set_[part]
        trees.append(
            _Tree(
                leaf=fitted.left_[part] < 0,
                feature=fitted.feature_[part],
                split=fitted.threshold_[part],
                left=fitted.left_[part],
                right=fitted.right_[part],
                missing_left=fitted.missing_left_[part],
                value=fitted.value_[part],
                members={
                    node: np.flatnonzero(fitted.sets_[sets[node]]).astype(np.float64).tolist()
                    for node in np.flatnonzero(sets >= 0).tolist()
                },
            )
        )
    return trees


def _plain_trees(fitted: Any) -> tuple[list[_Tree], float]:
    """Return the trees of a decision tree, a forest or a gradient boosting, and what is to be added to their sum."""
    if isinstance(fitted, DecisionTreeRegressor):
        grown, factor, baseline = [fitted], 1.0, 0.0
    elif isinstance(fitted, RandomForestRegressor):
        grown, factor, baseline = fitted.estimators_, 1.0 / len(fitted.estimators_), 0.0
    else:
        grown, factor = fitted.estimators_[:, 0], fitted.learning_rate
        baseline = float(np.asarray(fitted.init_.constant_).item())
    trees = []
    for tree in grown:
        inside = tree.tree_
        leaf = inside.children_left < 0
        trees.append(
            _Tree(
                leaf=leaf,
                feature=inside.feature,
                split=inside.threshold,
                left=inside.children_left,
                right=inside.children_right,
                missing_left=inside.missing_go_to_left.astype(bool),
                value=inside.value[:, 0, 0] * factor,
                members={},
            )
        )
    return trees, baseline
