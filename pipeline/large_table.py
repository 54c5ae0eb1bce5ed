"""What a training does otherwise when a part has more rows than a process holds.

- Of each part a sample of `train.memory_rows` is held. The candidates are fitted and calibrated on it.
- The family lightgbm is fitted on all rows, if there is a cluster.
- All candidates are scored on all validation and test rows, batch by batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from loguru import logger

from pipeline.cluster_boosting import Batches, fit_on_cluster
from pipeline.fitting import Fitted, Params, Parts, new_index, new_model
from pipeline.parts import RAW_PARTS, count_rows, drawn, read_batches, read_part
from pipeline.stage_runner import StageError
from pipeline.workers import shared
from tableloop.evaluation.scores import Tally, scores_of, tally
from tableloop.model.coding import Matrix
from tableloop.model.conformal import MOST_RESIDUALS, ConformalRegressor
from tableloop.model.price_index import PriceIndex
from tableloop.table import Table

LIGHTGBM: Final = "lightgbm"
FEATURE_ROWS: Final = 200_000  # of which the means of levels are learnt
HELD_OUT_SHARE: Final = 0.2  # of the validation rows at most are left for the intervals of the winner
AHEAD: Final = 4  # batches that are scored at a time


def names_of(params: Params, labelled: pd.DataFrame) -> list[str]:
    """Return the names of the candidates; with labels only those that are meant for them."""
    names = list(params["candidates"])
    return [name for name in params.get("with_labels", ()) if len(labelled) and name in names] or names


@dataclass(frozen=True)
class LargeTable:
    """A training with a table of which ``parts`` may be a sample.

    ``labelled`` are the labels that are trained on, ``scheduler`` the address of the cluster if there is one.
    """

    params: Params
    table: Table
    parts: Parts
    labelled: pd.DataFrame
    scheduler: str

    @cached_property
    def is_sampled(self) -> bool:
        """Whether a part has more rows than are held."""
        return any(len(self.parts[name]) < count_rows(name) for name in RAW_PARTS)

    @cached_property
    def on_cluster(self) -> list[str]:
        """The names of the candidates that are fitted on all rows."""
        if not self.scheduler or len(self.parts["train"]) == count_rows("train"):
            return []
        candidates = {name: self.params["candidates"][name] or {} for name in names_of(self.params, self.labelled)}
        return [
            name
            for name, own in candidates.items()
            if own.get("family", name) == LIGHTGBM and own.get("most_rows") is None
        ]

    def fit(self, name: str) -> Fitted:
        """Return a candidate fitted on all train rows of the cluster, calibrated on validation rows; not scored."""
        started_at, start = time.time(), time.perf_counter()
        index = self._index(["train"])
        model = self._fitted(name, ["train"], index, {})
        held = self._part("validation", index, self.parts["validation"])
        held = held.iloc[drawn(len(held), MOST_RESIDUALS)] if len(held) > MOST_RESIDUALS else held
        model.calibrate(*self._rows(held))
        return Fitted(model, {}, started_at, time.perf_counter() - start)

    def refit(self, name: str) -> ConformalRegressor:
        """Return the winner fitted on all train and validation rows but some, from which its intervals come.

        Cross-fitting would take models of a sample, whose errors are larger than those of a model of all rows: the
        intervals would be too wide. Of millions of rows, some ten thousand are no loss.
        """
        held = self._held_out()
        index = self._index(["train", "validation"])
        model = self._fitted(name, ["train", "validation"], index, {"validation": held})
        rows = self._part("validation", index, read_part("validation", len(held)))
        return model.calibrate(*self._rows(rows), labelled=rows["batch"].to_numpy() > 0)

    def fitted_rows(self, name: str, *, final: bool) -> int:
        """Return on how many raw rows a candidate is fitted, ``final`` if it has won."""
        parts = ["train", "validation"] if final else ["train"]
        if name in self.on_cluster:
            return sum(map(count_rows, parts)) - (len(self._held_out()) if final else 0)
        bounds = [
            (self.params["candidates"][name] or {}).get("most_rows"),
            None if final else self.params.get("most_rows"),
        ]
        rows = sum(len(self.parts[part]) for part in parts)
        return min([rows, *(int(bound) for bound in bounds if bound is not None)])

    def score(self, pool: Executor, models: Mapping[str, ConformalRegressor]) -> dict[str, dict[str, float]]:
        """Return the metrics of the models on all validation and test rows."""
        index = self._index(["train"])
        held = shared(pool, dict(models))
        sums: dict[str, dict[str, Tally]] = {}
        for part in ("validation", "test"):
            sums[part] = dict.fromkeys(models, Tally())
            waiting: deque[Future[dict[str, Tally]]] = deque()
            for rows in self._frames(part, index if part == "validation" else None):
                waiting.append(pool.submit(tally_each, held, rows, self.table.target_name))
                if len(waiting) == AHEAD:
                    _add(sums[part], waiting.popleft())
            while waiting:
                _add(sums[part], waiting.popleft())
        return {name: scores_of(sums["validation"][name], sums["test"][name]) for name in models}

    def scored(self, pool: Executor, fitted: Mapping[str, Fitted]) -> dict[str, Fitted]:
        """Return candidates with their metrics on all validation and test rows."""
        metrics = self.score(pool, {name: candidate.model for name, candidate in fitted.items()})
        for name, of_all in metrics.items():
            logger.info("{:<24} custom_rmse {:.4f} on all validation rows", name, of_all["custom_rmse"])
        return {name: replace(candidate, metrics=metrics[name]) for name, candidate in fitted.items()}

    def _held_out(self) -> npt.NDArray[np.int64]:
        """Return the numbers of the validation rows that the winner is not fitted on."""
        total = count_rows("validation")
        return drawn(total, min(MOST_RESIDUALS, int(HELD_OUT_SHARE * total)))

    def _fitted(
        self, name: str, parts: list[str], index: PriceIndex | None, left_out: dict[str, npt.NDArray[np.int64]]
    ) -> ConformalRegressor:
        """Return a candidate fitted on all rows of some parts but those with these numbers, without intervals."""
        try:
            model = new_model(name, self.params, self.table)
            features, boosting = model.estimator[0], model.estimator[-1]
            known = self.parts["train"]
            few = drawn(len(known), FEATURE_ROWS) if len(known) > FEATURE_ROWS else np.arange(len(known))
            X, y = self._rows(known.iloc[few].assign(batch=0))
            features.fit(X, y if index is None else index.renew(X, y, np.zeros(len(y), dtype=np.int64)))
            if features.design.means:
                # A row may not be trained on with a mean that holds its own value.
                left_out = {**left_out, "train": drawn(count_rows("train"), len(known))[few]}

            def batches() -> Batches:
                for part in parts:
                    for frame in self._frames(part, index, left_out.get(part)):
                        yield self._rows(frame)

            return model.around(model.estimator, fit_on_cluster(features, boosting, batches, self.scheduler))
        except StageError:
            raise
        except Exception as error:
            raise StageError(f"candidate {name}: {type(error).__name__}: {error}") from error

    def _frames(
        self, part: str, index: PriceIndex | None, left_out: npt.NDArray[np.int64] | None = None
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows of a part in batches, its labels last; in the prices of an index."""
        done = 0
        for frame in read_batches(part):
            numbers = np.arange(done, done + len(frame))
            done += len(frame)
            rows = frame if left_out is None else frame[~np.isin(numbers, left_out)]
            if len(rows):
                yield self._renewed(rows.assign(batch=0), index)
        labels = self.labelled[self.labelled["part"] == part]
        if len(labels):
            yield self._renewed(labels, index)

    def _part(self, part: str, index: PriceIndex | None, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows of a part with its labels, in the prices of an index."""
        labels = self.labelled[self.labelled["part"] == part]
        return self._renewed(pd.concat([rows.assign(batch=0), labels], ignore_index=True), index)

    def _index(self, parts: list[str]) -> PriceIndex | None:
        """Return the index that carries older values to the prices of the newest labels, if there are labels."""
        index = new_index(self.params, self.table) if len(self.labelled) else None
        if index is not None:
            rows = pd.concat([self._part(part, None, self.parts[part]) for part in parts], ignore_index=True)
            index.fit(*self._rows(rows), rows["batch"].to_numpy(np.int64))
        return index

    def _renewed(self, rows: pd.DataFrame, index: PriceIndex | None) -> pd.DataFrame:
        if index is None:
            return rows
        values = index.renew(*self._rows(rows), rows["batch"].to_numpy(np.int64))
        return rows.assign(**{self.table.target_name: values})

    def _rows(self, rows: pd.DataFrame) -> tuple[Matrix, Matrix]:
        return self.table.coding.frame(rows), rows[self.table.target_name].to_numpy(np.float64)


def tally_each(models: Mapping[str, ConformalRegressor], rows: pd.DataFrame, target: str) -> dict[str, Tally]:
    """Return the sums of several models over the same rows."""
    return {name: tally(model, rows, target) for name, model in models.items()}


def _add(sums: dict[str, Tally], made: Future[dict[str, Any]]) -> None:
    try:
        for name, of_batch in made.result().items():
            sums[name] += of_batch
    except BrokenExecutor:
        raise StageError("a process that scored the candidates was killed, perhaps for want of memory") from None
