"""A scorer that aborts, hangs or eats memory ends its trial, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tableloop.model.onnx_scorer import ARRAYS, TREES, BrokenScorerError, Scorer
from tableloop.trial import TrialError, try_scorer


def test_a_broken_scorer_passes_for_its_reader_to_find(tmp_path: Path) -> None:
    (tmp_path / TREES).write_bytes(b"no trees")
    np.savez(tmp_path / ARRAYS, format=3)
    try_scorer(tmp_path)
    with pytest.raises(BrokenScorerError, match="it cannot be read"):
        Scorer.load(tmp_path)


def test_arrays_that_unpack_to_too_much_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / TREES).write_bytes(b"")
    np.savez_compressed(tmp_path / ARRAYS, zeros=np.zeros(1_000_000))
    monkeypatch.setattr("tableloop.model.onnx_scorer.MOST_BYTES", 1_000_000)
    with pytest.raises(BrokenScorerError, match="unpacks to 8,000,"):
        Scorer.load(tmp_path)


def test_a_trial_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"did not load within 0\.01 s"):
        try_scorer(tmp_path, seconds=0.01)


def test_a_trial_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="the trial of its compiled scorer"):
        try_scorer(tmp_path, memory_bytes=30 << 20)
