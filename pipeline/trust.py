"""Sign a version that somebody registered by hand: ``python -m pipeline.trust VERSION``, or ``make trust VERSION=n``.

It must load without code of its own: from ``model.skops``, with the types of the list in
`tableloop.model.trusted_types`, in a process with limits. Exit codes: 0 signed, 1 it cannot be used as it is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.mlflow_runs import configure_client
from pipeline.serving_version import download_files
from tableloop.credentials import NoPasswordError
from tableloop.mlflow_http import is_healthy
from tableloop.model import manifest
from tableloop.model_process import ModelProcess, ModelProcessError
from tableloop.settings import RegistrySettings
from tableloop.signing import SignatureError, SigningKey
from tableloop.table import load_table
from tableloop.trial import TrialError, try_scorer
from tableloop.version_files import VersionFiles, VersionFilesError, describe_version


class NotTrustedError(Exception):
    """The version cannot be used as it is; the message says why."""


def trust(client: MlflowClient, settings: RegistrySettings, number: str) -> None:
    """Sign a version of the registry, after its model has answered in a process of its own.

    Raises
    ------
    NotTrustedError
        It brings code, its model does not load without, or it does not answer.
    MlflowException, OSError
        The registry does not have it, or does not take the signature.
    SignatureError
        There is no key to sign with.
    """
    key = SigningKey.load(settings)
    try:
        version = client.get_model_version(settings.model_name, number)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NotTrustedError(f"the registry has no such version of {settings.model_name}") from None
    with tempfile.TemporaryDirectory() as parent:
        directory = download_files(client, settings.model_name, number, Path(parent))
        check_loads(directory)
        manifest.write(directory, {"product": "tableloop", "trusted": "by hand"})
        key.sign(directory, version.run_id or "")
        for name in (manifest.MANIFEST, manifest.SIGNATURE):
            _upload(client, version.source, directory / name)


def check_loads(directory: Path) -> None:
    """Return when the version's model loads without code and predicts its example.

    Raises
    ------
    NotTrustedError
        It does not.
    """
    try:
        files = describe_version(directory)
        _check_content(files)
        with ModelProcess(files) as process:
            process.predict(_example(), load_table().coding)
        if files.scorer:
            try_scorer(files.scorer)
    except (VersionFilesError, ModelProcessError, TrialError) as error:
        raise NotTrustedError(str(error)) from None


def _check_content(files: VersionFiles) -> None:
    table = load_table()
    if set(files.columns) != set(table.feature_names):
        raise NotTrustedError(
            f"its columns are {', '.join(files.columns)}; those of the table are {', '.join(table.feature_names)}"
        )
    if not files.model_file.is_file():
        raise NotTrustedError(
            f"it has no {files.model_file.name}: log it with serialization_format='skops'; nothing else loads "
            "without running code"
        )
    if files.code.exists():
        raise NotTrustedError(f"it brings code ({files.code.name}/), which would run: log it without code_paths")
    if missing := {"family", "training_range", "interval_coverage"} - files.metadata.keys():
        raise NotTrustedError(f"its metadata lack {', '.join(sorted(missing))}: give them to log_model(metadata=...)")


def _example() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return one row of the table."""
    return load_table().coding.rows([[*load_table().example.values()]])


def _upload(client: MlflowClient, source: str, file: Path) -> None:
    if source.startswith("models:/"):
        client.log_model_artifact(source.removeprefix("models:/"), str(file))
        return
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: PLC0415

    get_artifact_repository(source).log_artifact(str(file))


def main() -> int:
    """Sign one version, and return the exit code."""
    parser = argparse.ArgumentParser(description="Sign a version that was registered by hand.")
    parser.add_argument("version", help="its number")
    number = parser.parse_args().version
    settings = RegistrySettings()
    if not number.isdigit():
        sys.stderr.write("which one? make trust VERSION=n, with the number of a registered version\n")
        return 1
    if not is_healthy(settings.mlflow_tracking_uri):
        sys.stderr.write(f"{settings.registry} does not answer\n")
        return 1
    try:
        configure_client(settings)
        trust(MlflowClient(), settings, number)
    except (NoPasswordError, NotTrustedError, SignatureError, MlflowException, OSError) as error:
        sys.stderr.write(f"version {number} is not trusted: {' '.join(str(error).split())[:600]}\n")
        return 1
    sys.stdout.write(
        f"version {number} is signed: it may serve once it has the alias {settings.model_alias}, and the service "
        "looks at it again within five minutes if it has refused it before\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
