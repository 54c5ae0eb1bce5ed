"""A retraining that fails, is stopped or is killed: what the user reads, and what is left behind."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pandas as pd
import psutil  # type: ignore[import-untyped]

from pipeline.stage_runner import raw_data
from tableloop.state.layout import Layout
from tableloop.state.locks import retraining_lock
from tableloop.table import load_table
from tests.integration.pipeline.conftest import Project, wait_for_line

RAW_DATA = raw_data(load_table())


def test_a_failed_training_names_the_stage_the_candidate_and_the_reason(untrained: Project) -> None:
    untrained.change("train", candidates={"decision_tree": {"max_depth": -1}})
    code, output = untrained.run("retrain")
    assert code == 1
    last = output.splitlines()[-1]
    assert last.startswith("training failed in stage train: candidate decision_tree: InvalidParameterError: ")
    assert "max_depth" in last


def test_bad_raw_data_is_listed_in_full_and_nothing_is_trained(untrained: Project) -> None:
    raw = pd.read_csv(untrained.root / RAW_DATA)
    raw.loc[10:19, "Latitude"] = 91
    raw.loc[4, "Population"] = None
    raw.to_csv(untrained.root / RAW_DATA, index=False)
    code, output = untrained.run("retrain")
    assert code == 1
    assert "Latitude: 10 values not within -90 to 90, lines 12-21 (for example 91.0)" in output
    assert "Population: 1 value empty, line 6" in output
    assert output.splitlines()[-1] == "training failed in stage preprocess: 2 problems in the raw data"
    assert "Running stage 'train'" not in output


def test_a_stopped_retraining_ends_at_once_and_leaves_no_process(untrained: Project, place: Path | str) -> None:
    untrained.database_url = place if isinstance(place, str) else ""
    process = untrained.start("retrain")
    wait_for_line(process, "Running stage 'train'")
    children = psutil.Process(process.pid).children(recursive=True)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert time.monotonic() - started < 8
    assert process.returncode == 128 + signal.SIGTERM, output
    _, alive = psutil.wait_procs(children, timeout=3)
    assert not alive
    with retraining_lock(Layout(untrained.state), database_url=untrained.database_url):
        pass


def test_after_a_crash_the_next_retraining_runs(trained: Project, untrained: Project) -> None:
    untrained.change("train", candidates={"linear": {}})
    untrained.database_url = trained.postgres.new_database() if trained.postgres else ""
    process = untrained.start("retrain")
    wait_for_line(process, "Running stage 'train'")
    children = psutil.Process(process.pid).children(recursive=True)
    dvc = next(child for child in children if "dvc" in child.cmdline())
    for victim in (psutil.Process(process.pid), *children):
        victim.kill()
    process.communicate(timeout=20)
    # The process id in DVC's lock is somebody else's by now, as in a restarted container.
    rwlock = untrained.workspace / ".dvc/tmp/rwlock"
    rwlock.write_text(rwlock.read_text().replace(f'"pid": {dvc.pid}', f'"pid": {os.getpid()}'))
    assert str(os.getpid()) in rwlock.read_text()
    untrained.uri, untrained.model = trained.uri, "AfterACrash"
    untrained.change("register", experiment="after-a-crash")
    output = untrained.retrain()
    assert "is version 1 of AfterACrash, promoted" in output
    assert float((untrained.state / "run/phases/train").read_text()) > 0
