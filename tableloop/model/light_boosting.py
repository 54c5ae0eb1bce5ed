"""Boosted trees fitted by LightGBM and kept as plain arrays.

Only `fit` needs the package. A version of the model is data like the others: it predicts without LightGBM, by
scikit-learn's walk through trees of histogram boosting, and is compiled as those are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.utils.validation import check_is_fitted, validate_data

from tableloop.model.coding import Matrix

MOST_LEVELS = 256  # of a category: a set of them is so many bits
OBJECTIVES = ("regression", "regression_l1", "huber", "fair", "quantile", "mape")  # whose trees' sum is the value


class LightBoosting(RegressorMixin, BaseEstimator):
    """Gradient boosting by LightGBM; the parameters have its names and defaults.

    It is deterministic: one thread, one seed, one way to build histograms.

    Parameters
    ----------
    categorical
        The numbers of the columns that are codes of levels, less than `MOST_LEVELS`.
    seed
        Of every random choice.

    Attributes
    ----------
    first_ : (trees + 1,)
        Where each tree begins among the nodes, and where the last one ends.
    feature_, threshold_, left_, right_ : (nodes,)
        A row goes to the left when its feature is at most the threshold. Children are numbered from the first node
        of the tree; a leaf has no children, which is -1.
    missing_left_ : (nodes,)
        Whether a row without the feature goes to the left.
    value_ : (nodes,)
        Of leaves, what they add to the prediction.
    set_ : (nodes,)
        The number of the set whose levels go to the left; -1 where the threshold decides.
    sets_ : (sets, 256)
        Which levels a set holds.
    """

    def __init__(
        self,
        *,
        objective: str = "regression",
        num_iterations: int = 100,
        learning_rate: float = 0.1,
        num_leaves: int = 31,
        max_depth: int = -1,
        min_data_in_leaf: int = 20,
        min_sum_hessian_in_leaf: float = 1e-3,
        bagging_fraction: float = 1.0,
        bagging_freq: int = 0,
        feature_fraction: float = 1.0,
        feature_fraction_bynode: float = 1.0,
        lambda_l1: float = 0.0,
        lambda_l2: float = 0.0,
        min_gain_to_split: float = 0.0,
        max_bin: int = 255,
        categorical: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.objective = objective
        self.num_iterations = num_iterations
        self.learning_rate = learning_rate
        self.num_leaves = num_leaves
        self.max_depth = max_depth
        self.min_data_in_leaf = min_data_in_leaf
        self.min_sum_hessian_in_leaf = min_sum_hessian_in_leaf
        self.bagging_fraction = bagging_fraction
        self.bagging_freq = bagging_freq
        self.feature_fraction = feature_fraction
        self.feature_fraction_bynode = feature_fraction_bynode
        self.lambda_l1 = lambda_l1
        self.lambda_l2 = lambda_l2
        self.min_gain_to_split = min_gain_to_split
        self.max_bin = max_bin
        self.categorical = categorical
        self.seed = seed

    @property
    def lightgbm_params(self) -> dict[str, Any]:
        """The parameters for LightGBM, without those of who fits: where, and on how many threads."""
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r} is none of {', '.join(OBJECTIVES)}")
        own = {key: value for key, value in self.get_params().items() if key != "categorical"}
        return own | {"deterministic": True, "force_row_wise": True, "verbosity": -1}

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> LightBoosting:
        """Train on rows of shape (n, m), NaN where a value is missing, and targets of shape (n,).

        Raises
        ------
        ModuleNotFoundError
            LightGBM is not installed.
        """
        rows, targets = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_all_finite="allow-nan")
        lightgbm = import_lightgbm()
        data = lightgbm.Dataset(rows, targets, categorical_feature=list(self.categorical), params={"verbosity": -1})
        params = self.lightgbm_params | {"num_threads": 1}
        return self.take(lightgbm.train(params, data), rows.shape[1])

    def take(self, booster: Any, columns: int) -> LightBoosting:
        """Take over the trees of a LightGBM booster that was fitted on rows of so many columns."""
        trees = [[*_nodes(tree["tree_structure"])] for tree in booster.dump_model()["tree_info"]]
        nodes = [node for tree in trees for node in tree]
        self.first_ = np.cumsum([0, *map(len, trees)])
        self.feature_ = np.array([node.get("split_feature", 0) for node in nodes], dtype=np.int64)
        sets = [node["threshold"] if node.get("decision_type") == "==" else None for node in nodes]
        self.set_ = np.cumsum([levels is not None for levels in sets]) - 1
        self.set_[[levels is None for levels in sets]] = -1
        self.sets_ = np.zeros((int(self.set_.max(initial=-1)) + 1, MOST_LEVELS), dtype=bool)
        for number, levels in zip(self.set_.tolist(), sets, strict=True):
            if levels is not None:
                self.sets_[number, [int(level) for level in str(levels).split("||")]] = True
        self.threshold_ = np.array(
            [
                0.0 if levels is not None else node.get("threshold", 0.0)
                for node, levels in zip(nodes, sets, strict=True)
            ]
        )
        self.missing_left_ = np.array([_missing_goes_left(node) for node in nodes], dtype=bool)
        self.left_ = np.array([node["left"] for node in nodes], dtype=np.int64)
        self.right_ = np.array([node["right"] for node in nodes], dtype=np.int64)
        self.value_ = np.array([node.get("leaf_value", 0.0) for node in nodes], dtype=np.float64)
        self.n_features_in_ = columns
        return self

    def predict(self, X: npt.ArrayLike) -> Matrix:
        """Return the predicted values of rows of shape (n, m), shape (n,)."""
        check_is_fitted(self, "first_")
        rows = validate_data(self, X, dtype=np.float64, order="C", reset=False, ensure_all_finite="allow-nan")
        known = np.full((self.n_features_in_, 8), np.iinfo(np.uint32).max, dtype=np.uint32)
        columns = np.arange(self.n_features_in_, dtype=np.uint32)
        values = np.zeros(len(rows))
        for tree in self._walks():
            values += tree.predict(rows, known, columns, 1)
        return values

    def _walks(self) -> Iterator[TreePredictor]:
        """Yield the trees in scikit-learn's form, which walks them in C."""
        nodes = np.zeros(len(self.feature_), dtype=PREDICTOR_RECORD_DTYPE)
        leaf = self.left_ < 0
        nodes["value"], nodes["is_leaf"] = self.value_, leaf
        nodes["feature_idx"], nodes["num_threshold"] = self.feature_, self.threshold_
        nodes["left"], nodes["right"] = np.where(leaf, 0, self.left_), np.where(leaf, 0, self.right_)
        nodes["missing_go_to_left"] = self.missing_left_
        nodes["is_categorical"], nodes["bitset_idx"] = self.set_ >= 0, np.maximum(self.set_, 0)
        bits = np.packbits(self.sets_, axis=1, bitorder="little").view(np.uint32).reshape(-1, MOST_LEVELS // 32)
        for start, end in zip(self.first_[:-1], self.first_[1:], strict=True):
            yield TreePredictor(nodes[start:end], bits, bits)


def import_lightgbm() -> Any:
    """Return the package.

    Raises
    ------
    ModuleNotFoundError
        It is not installed; the message says what to do.
    """
    try:
        import lightgbm  # noqa: PLC0415 - two seconds and Dask, which only this family has a use for
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the family lightgbm needs the package of this name: pip install '.[cluster]', or remove the candidate "
            "from params.yaml"
        ) from error
    return lightgbm


def _nodes(root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a tree of LightGBM's description, the root first, each with the numbers of its children."""
    waiting, known = deque([root]), 1
    while waiting:
        node = waiting.popleft()
        inner = "left_child" in node
        yield {**node, "left": known if inner else -1, "right": known + 1 if inner else -1}
        if inner:
            waiting += node["left_child"], node["right_child"]
            known += 2


def _missing_goes_left(node: dict[str, Any]) -> bool:
    """Return where a node sends a row without its feature.

    Where the rows of the fit missed none, LightGBM takes zero for a missing value; in a set there is no such value.
    """
    if node.get("decision_type") != "<=":
        return False
    return bool(node["default_left"]) if node["missing_type"] == "NaN" else bool(node["threshold"] >= 0)
