"""A cluster through its life, told in order: a drift, what happens when each part is killed, and an upgrade.

A light load of predictions and labels goes on from the first test to the last one, which counts what became of it.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.cluster import COPIES, Cluster, Program
from tests.cluster.load import Load
from tests.waiting import wait_for

OUTAGE: Final = 4.0  # seconds that a killed program is away
TRAINING: Final = 420.0  # seconds that a retraining may take on a busy machine
AGAIN: Final = 5.0  # seconds after PostgreSQL is back, in which the last 503 may come


@contextmanager
def no_request_fails(load: Load) -> Iterator[None]:
    """Fail when a request of the block, or of the moments after it, is not answered as it should be."""
    began, before = time.time(), len(load.answers)
    yield
    wait_for("answers after it", lambda: len(load.answers) > before + 20)
    assert load.failures(began) == []


def requests_of(program: Program) -> list[dict[str, object]]:
    """Return what a copy of the service has logged of its requests."""
    lines = (program.state / "logs" / "app.log").read_text().splitlines()
    return [json.loads(line) for line in lines if '"prediction_id"' in line]


def retrain(cluster: Cluster, **meanwhile: Callable[[], object]) -> int:
    """Run a retraining as a job, do something while a stage of it runs, and return how often it had to be started."""
    job = cluster.job("python", "-m", "pipeline.retrain", "--reason", "the story goes on")
    for stage, outage in meanwhile.items():
        begun = f"Running stage '{stage}'"
        wait_for(begun, lambda begun=begun: begun in job.output() or not job.runs(), TRAINING)  # type: ignore[misc]
        assert job.runs(), job.output()
        outage()
    if job.wait(TRAINING) == 0:
        return 1
    again = cluster.job("python", "-m", "pipeline.retrain", "--reason", "the story goes on")
    assert again.wait(TRAINING) == 0, job.output() + again.output()
    return 2


def test_each_role_is_well_by_its_own_check(cluster: Cluster) -> None:
    front = {"API_PORT": str(cluster.front_port)}
    for role, environment in (
        ("api", {"BIND_ADDRESS": COPIES[1]}),
        ("front", front),
        ("mlflow", {"STATE_DIR": str(cluster.mlflow.state)}),
        ("drift-monitor", {"STATE_DIR": str(cluster.monitor.state)}),
        ("dask-scheduler", {}),
        ("dask-worker", {}),
    ):
        assert cluster.is_well(role, **environment), role
    assert not cluster.is_well("api", BIND_ADDRESS="127.0.0.9")


def test_labels_are_taken_by_other_copies_than_have_predicted(cluster: Cluster, load: Load) -> None:
    with no_request_fails(load):
        wait_for("labels", lambda: len(load.labelled) > 20, 60)
    made: dict[object, set[int]] = {}
    for number, program in enumerate(cluster.apis):
        for line in requests_of(program):
            made.setdefault(line["prediction_id"], set()).add(number)
    assert sum(len(made.get(name, ())) > 1 for name in load.labelled) > 5


def test_a_drift_is_seen_and_a_version_trained_on_dask_serves_everywhere(cluster: Cluster, load: Load) -> None:
    with no_request_fails(load):
        load.drifted = True
        wait_for("the second version everywhere", lambda: set(cluster.versions()) == {"2"}, TRAINING)
    wait_for("the end of the retraining", lambda: cluster.retrainings()[0]["ended_at"], 60)
    newest = cluster.retrainings()[0]
    assert (newest["trigger"], newest["outcome"], newest["version"]) == ("drift", "promoted", "2")
    assert "Running stage 'train'" in cluster.monitor.output()


def test_a_killed_copy_fails_what_it_was_answering_and_an_empty_one_takes_its_place(
    cluster: Cluster, load: Load
) -> None:
    killed = time.time()
    cluster.apis[0].kill()
    gone = time.time()
    wait_for("answers of the others", lambda: len(load.answers) and load.answers[-1].began > killed + OUTAGE)
    failed = load.failures(killed)
    assert len(failed) <= load.clients
    assert all(each.began < gone for each in failed)
    with no_request_fails(load):
        cluster.apis[0].lose_disk()
        cluster.apis[0].start()
        wait_for("the new one", lambda: cluster.versions()[0] is not None, 60)


def test_without_postgresql_there_are_only_503s_and_they_end_with_it(cluster: Cluster, load: Load) -> None:
    killed = time.time()
    cluster.postgres.kill()
    wait_for("refusals", lambda: len(load.failures(killed)) > 5)
    assert "PostgreSQL" in load.failures(killed)[-1].text
    assert cluster.client.get("/health").status_code == 200
    wait_for("some time", lambda: time.time() > killed + OUTAGE)
    cluster.postgres.start()
    back = time.time()
    wait_for("answers", lambda: load.answers[-1].began > back + AGAIN and load.answers[-1].status in (200, 201), 30)
    assert {each.status for each in load.failures(killed)} == {503}
    assert load.failures(back + AGAIN) == []


def test_without_object_storage_predictions_and_labels_go_on(cluster: Cluster, load: Load) -> None:
    with no_request_fails(load):
        cluster.s3.kill()
        began = time.time()
        wait_for("some time", lambda: load.answers[-1].began > began + OUTAGE)
        job = cluster.job("python", "-m", "pipeline.retrain", "--reason", "too early")
        assert job.wait(TRAINING) == 1, job.output()
        cluster.s3.start()


def test_a_retraining_survives_a_killed_worker_and_is_taken_up_again_after_mlflow_was_killed(
    cluster: Cluster, load: Load
) -> None:
    def without_mlflow() -> None:
        cluster.mlflow.kill()
        cluster.mlflow.lose_disk()
        cluster.mlflow.start()

    before = cluster.versions()
    with no_request_fails(load):
        retrain(cluster, train=cluster.workers[0].kill, register=without_mlflow)
        cluster.workers[0].start()
    newest = cluster.retrainings()[0]
    assert newest["outcome"] in ("promoted", "rejected", "unchanged"), newest
    wait_for("one version everywhere", lambda: len(set(cluster.versions())) == 1, 60)
    assert None not in {*before, *cluster.versions()}


def test_a_retraining_goes_on_when_its_scheduler_has_come_back(cluster: Cluster, load: Load) -> None:
    def without_scheduler() -> None:
        for program in (cluster.scheduler, *cluster.workers):  # workers end without it, and are started again
            program.kill()
        for program in (cluster.scheduler, *cluster.workers):
            program.start()

    with no_request_fails(load):
        assert retrain(cluster, train=without_scheduler) == 1


def test_a_killed_monitor_goes_on_from_what_is_in_the_store(cluster: Cluster, load: Load) -> None:
    with no_request_fails(load):
        cluster.monitor.kill()
        cluster.monitor.lose_disk()
        before = cluster.client.get("/drift").json()
        cluster.monitor.start()
        wait_for(
            "a newer report", lambda: cluster.client.get("/drift").json()["checked_at"] > before["checked_at"], 60
        )
        assert cluster.client.get("/drift").json()["version"] in cluster.versions()


def test_copies_are_exchanged_one_by_one_without_a_failed_request(cluster: Cluster, load: Load) -> None:
    with no_request_fails(load):
        for number, program in enumerate(cluster.apis):
            program.tell_to_stop()
            assert program.wait(15) == 0
            program.lose_disk()
            program.start()
            wait_for(f"copy {number}", lambda number=number: cluster.versions()[number] is not None, 60)  # type: ignore[misc]


def test_prometheus_finds_every_copy(cluster: Cluster) -> None:
    cluster.prometheus.start()
    try:
        wait_for("metrics of all copies", lambda: cluster.scraped() == len(COPIES), 30)
    except AssertionError:
        if "Prometheus is not here" in cluster.prometheus.output():
            pytest.skip("NOT RUN: there is no Prometheus on PATH and in .runtime")
        raise
    finally:
        cluster.prometheus.kill()


def test_nothing_that_was_acknowledged_is_lost_or_there_twice(cluster: Cluster, load: Load, tmp_path: Path) -> None:
    load.stop()
    job = cluster.job("python", "-m", "pipeline.export", f"{tmp_path}/all.csv")
    assert job.wait(60) == 0, job.output()
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [row["prediction_id"] for row in rows]
    labels = {row["prediction_id"]: float(row["actual_value"]) for row in rows if row["actual_value"]}
    assert len(load.predicted) > 500
    assert len(names) == len(set(names))
    assert set(load.predicted) <= set(names)
    assert {name: labels.get(name) for name in load.labelled} == load.labelled
    assert labels.keys() - load.labelled.keys() <= load.sent.keys() - load.labelled.keys()
