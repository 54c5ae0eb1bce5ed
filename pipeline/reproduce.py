"""Build a registered version again and compare: ``python -m pipeline.reproduce VERSION``.

Data, parameters and code are those that the version names: the raw data by its md5, its batches of labels by theirs,
params.yaml from its run, the code and the libraries of here if they are the same. The stages run in a temporary
workspace. A version of other code is not built again. Its model predicts the test rows once more, by the code that it
carries, and these scores are compared.
Exit codes: 0 every metric is equal, 1 one differs, 2 it cannot be built here; the last line says why.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from pipeline.mlflow_runs import configure_client, read_lineage
from pipeline.parts import read_batches
from pipeline.serving_version import ServingVersion, open_serving_version, predict_batches
from pipeline.shared_workspace import fetch_labels
from pipeline.stage_runner import PROCESSED
from pipeline.workspace import prepare
from tableloop.credentials import NoPasswordError
from tableloop.mlflow_http import is_healthy
from tableloop.model_process import ModelProcess, ModelProcessError
from tableloop.object_storage import LABELS, ObjectStorage, StorageError
from tableloop.settings import RegistrySettings
from tableloop.state.label_batches import FEEDBACK, batch_files, batches_md5, revocation_files
from tableloop.state.layout import Layout
from tableloop.table import load_table
from tableloop.version_files import VersionFilesError

DIFFERENT, IMPOSSIBLE = 1, 2
SAME = 1e-6  # of a metric computed once more by other libraries; one that was built again has every digit


class NotReproducibleError(Exception):
    """The version cannot be built here; the message says what differs or is missing."""


@dataclass(frozen=True)
class Comparison:
    """Each metric as recorded and as found now; ``other_code`` says why the version was not built again."""

    metrics: dict[str, tuple[float, float | None]]
    other_code: str | None = None

    @property
    def differs(self) -> bool:
        """Whether one metric is not what was recorded: in any digit, or by other code in the sixth decimal."""
        margin = SAME if self.other_code else 0.0
        return any(now is None or abs(now - recorded) > margin for recorded, now in self.metrics.values())


def reproduce(client: MlflowClient, settings: RegistrySettings, number: str) -> Comparison:
    """Return the metrics of a version's training, recorded and built again.

    Raises
    ------
    NotReproducibleError
        Data, code or libraries are not those of the version, or a stage fails.
    """
    try:
        version = client.get_model_version(settings.model_name, number)
        run = client.get_run(version.run_id)
    except MlflowException as error:
        raise NotReproducibleError(f"version {number} of {settings.model_name}: {error.message}") from error
    with tempfile.TemporaryDirectory(prefix="reproduce-") as directory:
        workspace = prepare(Path(directory))
        try:
            client.download_artifacts(version.run_id, "inputs", directory)
        except MlflowException as error:
            raise NotReproducibleError(f"version {number} was logged without its inputs: {error.message}") from error
        _use_labels(version, settings, workspace / FEEDBACK)
        family = version.tags["family"]
        _use_params(Path(directory) / "inputs/params.yaml", family, workspace / "params.yaml")
        other_code = _compare_lineage(version, workspace)
        _run("preprocess", workspace)
        if other_code:
            built = _score(client, settings, version, workspace / PROCESSED, Path(directory) / "version")
        else:
            _run("train", workspace)
            built = json.loads((workspace / "reports/metrics.json").read_text())[family]
    compared = ("test_rmse", "test_r2", "test_mae") if other_code else ("custom_", "test_", "gate_")
    recorded = {name: value for name, value in run.data.metrics.items() if name.startswith(compared)}
    metrics = {name: (value, built.get(name)) for name, value in sorted(recorded.items())}
    return Comparison(metrics, other_code)


def _score(
    client: MlflowClient, settings: RegistrySettings, version: ModelVersion, processed: Path, directory: Path
) -> dict[str, float]:
    """Return the scores of a version on the test rows, predicted by its own code."""
    directory.mkdir()
    try:
        made = ServingVersion(version.version, version.run_id or "", version.tags)
        with ModelProcess(open_serving_version(client, made, settings, directory)) as process:
            actual, predicted = predict_batches(process, read_batches("test", processed), load_table())
    except (ModelProcessError, VersionFilesError, MlflowException, OSError) as error:
        raise NotReproducibleError(f"its model could not be run: {error}") from error
    return {
        "test_rmse": root_mean_squared_error(actual, predicted),
        "test_r2": r2_score(actual, predicted),
        "test_mae": mean_absolute_error(actual, predicted),
    }


def _use_labels(version: ModelVersion, settings: RegistrySettings, target: Path) -> None:
    """Copy the batches that the version was trained on, and what was revoked by then; newer ones stay away."""
    count = int(version.tags.get("feedback_batches", "0"))
    if not count:
        return
    place = str(source := Layout(settings.state_dir).workspace / FEEDBACK)
    if storage := ObjectStorage.of(settings):
        place, source = storage.address(LABELS), target.with_name("all-labels")
        try:
            fetch_labels(storage, source)
        except StorageError as error:
            raise NotReproducibleError(f"its labels cannot be read: {error}") from error
    batches = batch_files(source)[:count]
    revocations = revocation_files(source)[: int(version.tags.get("revocations", "0"))]
    if len(batches) < count or batches_md5([*batches, *revocations]) != version.tags["feedback_md5"]:
        raise NotReproducibleError(
            f"its {count} batches of labels with md5 {version.tags['feedback_md5']} are not in {place}"
        )
    for file in (*batches, *revocations):
        shutil.copyfile(file, target / file.name)


def _use_params(recorded: Path, family: str, target: Path) -> None:
    """Write the recorded parameters with this one candidate: the others were its rivals and change nothing in it."""
    params: dict[str, Any] = yaml.safe_load(recorded.read_text())
    kept = {family, "spatial"}  # the kernel of the spatial one carries old values
    train = params["train"]
    train["candidates"] = {name: value for name, value in train["candidates"].items() if name in kept}
    target.write_text(yaml.safe_dump(params, sort_keys=False))


def _compare_lineage(version: ModelVersion, workspace: Path) -> str | None:
    """Return how the code here differs from the version's; None when it does not."""
    before = Path.cwd()
    os.chdir(workspace)
    try:
        here = read_lineage()
    finally:
        os.chdir(before)
    commit = version.tags.get("git_commit")
    at = f"; it was made at commit {commit}" if commit else ""
    if version.tags["data_md5"] != here.data_md5:
        raise NotReproducibleError(
            f"the raw data here is another: md5 {here.data_md5}, the version's is {version.tags['data_md5']}{at}"
        )
    if version.tags["code_digest"] != here.code_digest:
        return (
            f"the code here is another: digest {here.code_digest}, the version's is {version.tags['code_digest']}{at}"
        )
    libraries = ", ".join(here.requirements)
    if version.tags.get("libraries", libraries) != libraries:
        raise NotReproducibleError(f"the libraries here are others: {libraries}, not {version.tags['libraries']}")
    return None


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
        sys.stderr.write(f"{settings.registry} does not answer\n")
        return IMPOSSIBLE
    try:
        configure_client(settings)
        found = reproduce(MlflowClient(), settings, arguments.version)
    except (NoPasswordError, NotReproducibleError) as error:
        sys.stderr.write(f"version {arguments.version} cannot be reproduced here: {error}\n")
        return IMPOSSIBLE
    sys.stdout.write(f"{'metric':<26}{'recorded':>20}{'found now':>20}\n")
    for name, (recorded, now) in found.metrics.items():
        sys.stdout.write(f"{name:<26}{recorded!s:>20}{now!s:>20}{'' if recorded == now else '  differs'}\n")
    sys.stdout.flush()  # what is said on stderr comes after the table, also in a pipe
    version, count = f"version {arguments.version}", len(found.metrics)
    if found.other_code:
        outcome = "gives other test metrics than those recorded" if found.differs else "still gives its test metrics"
        sys.stderr.write(f"{version} cannot be built again here: {found.other_code}. Its own code {outcome}\n")
        return DIFFERENT if found.differs else IMPOSSIBLE
    if found.differs:
        sys.stderr.write(f"{version} was built again with other metrics\n")
        return DIFFERENT
    sys.stdout.write(f"{version} was built again: all {count} metrics are equal\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
