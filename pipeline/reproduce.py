"""Build a registered version again and compare: ``python -m pipeline.reproduce VERSION``.

Data, parameters and code are those that the version names: the raw data by its md5, its batches of labels by theirs,
params.yaml from its run, the code and the libraries of here if they are the same. The stages run in a temporary
workspace. Exit codes: 0 every metric is equal, 1 one differs, 2 it cannot be built here; the last line says why.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.mlflow_runs import configure_client, read_lineage
from pipeline.workspace import prepare
from tableloop.mlflow_http import is_healthy
from tableloop.settings import RegistrySettings
from tableloop.state.label_batches import FEEDBACK, batch_files, batches_md5
from tableloop.state.layout import Layout

DIFFERENT, IMPOSSIBLE = 1, 2


class NotReproducibleError(Exception):
    """The version cannot be built here; the message says what is another or missing."""


def reproduce(
    client: MlflowClient, model: str, number: str, state_dir: Path
) -> dict[str, tuple[float, float | None]]:
    """Return every metric of a version's training, recorded and built again.

    Raises
    ------
    NotReproducibleError
        Data, code or libraries are not those of the version, or a stage fails.
    """
    try:
        version = client.get_model_version(model, number)
        run = client.get_run(version.run_id)
    except MlflowException as error:
        raise NotReproducibleError(f"version {number} of {model}: {error.message}") from error
    with tempfile.TemporaryDirectory(prefix="reproduce-") as directory:
        workspace = prepare(Path(directory))
        try:
            client.download_artifacts(version.run_id, "inputs", directory)
        except MlflowException as error:
            raise NotReproducibleError(f"version {number} was logged without its inputs: {error.message}") from error
        _use_labels(version, Layout(state_dir).workspace / FEEDBACK, workspace / FEEDBACK)
        family = version.tags["family"]
        _use_params(Path(directory) / "inputs/params.yaml", family, workspace / "params.yaml")
        _compare_lineage(version, workspace)
        for stage in ("preprocess", "train"):
            _run(stage, workspace)
        built = json.loads((workspace / "reports/metrics.json").read_text())[family]
    recorded = {
        name: value for name, value in run.data.metrics.items() if name.startswith(("custom_", "test_", "gate_"))
    }
    return {name: (value, built.get(name)) for name, value in sorted(recorded.items())}


def _use_labels(version: ModelVersion, source: Path, target: Path) -> None:
    """Copy the batches that the version was trained on; newer ones stay away."""
    count = int(version.tags.get("feedback_batches", "0"))
    batches = batch_files(source)[:count]
    if count and (len(batches) < count or batches_md5(batches) != version.tags["feedback_md5"]):
        raise NotReproducibleError(
            f"its {count} batches of labels with md5 {version.tags['feedback_md5']} are not in {source}"
        )
    for batch in batches:
        shutil.copyfile(batch, target / batch.name)


def _use_params(recorded: Path, family: str, target: Path) -> None:
    """Write the recorded parameters with this one candidate: the others were its rivals and change nothing in it."""
    params: dict[str, Any] = yaml.safe_load(recorded.read_text())
    kept = {family, "spatial"}  # the kernel of the spatial one carries old values
    train = params["train"]
    train["candidates"] = {name: value for name, value in train["candidates"].items() if name in kept}
    target.write_text(yaml.safe_dump(params, sort_keys=False))


def _compare_lineage(version: ModelVersion, workspace: Path) -> None:
    before = Path.cwd()
    os.chdir(workspace)
    try:
        here = read_lineage()
    finally:
        os.chdir(before)
    commit = version.tags.get("git_commit")
    at = f"; it was made at commit {commit}" if commit else ""
    if version.tags["code_digest"] != here.code_digest:
        raise NotReproducibleError(
            f"the code here is another: digest {here.code_digest}, the version's is {version.tags['code_digest']}{at}"
        )
    if version.tags["data_md5"] != here.data_md5:
        raise NotReproducibleError(
            f"the raw data here is another: md5 {here.data_md5}, the version's is {version.tags['data_md5']}{at}"
        )
    libraries = ", ".join(here.requirements)
    if version.tags.get("libraries", libraries) != libraries:
        raise NotReproducibleError(f"the libraries here are others: {libraries}, not {version.tags['libraries']}")


def _run(stage: str, workspace: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as in dvc.yaml: sums in the same order
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [sys.executable, "-m", f"pipeline.{stage}"], cwd=workspace, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if result.returncode:
        raise NotReproducibleError(f"stage {stage} failed: {result.stderr.strip().splitlines()[-1]}")


def main() -> int:
    """Build one version again, print the comparison, and return the exit code."""
    parser = argparse.ArgumentParser(description="Build a registered version again and compare its metrics.")
    parser.add_argument("version", help="number of the version in the registry")
    arguments = parser.parse_args()
    settings = RegistrySettings()
    if not is_healthy(settings.mlflow_tracking_uri):
        sys.stderr.write(f"the MLflow server does not answer at {settings.mlflow_tracking_uri}\n")
        return IMPOSSIBLE
    configure_client(settings.mlflow_tracking_uri)
    try:
        metrics = reproduce(MlflowClient(), settings.model_name, arguments.version, settings.state_dir)
    except NotReproducibleError as error:
        sys.stderr.write(f"version {arguments.version} cannot be reproduced here: {error}\n")
        return IMPOSSIBLE
    sys.stdout.write(f"{'metric':<26}{'recorded':>14}{'built again':>14}\n")
    for name, (recorded, built) in metrics.items():
        sys.stdout.write(f"{name:<26}{recorded:>14}{built!s:>14}{'' if recorded == built else '  differs'}\n")
    if any(recorded != built for recorded, built in metrics.values()):
        sys.stderr.write(f"version {arguments.version} was built again with other metrics\n")
        return DIFFERENT
    sys.stdout.write(f"version {arguments.version} was built again: all {len(metrics)} metrics are equal\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
