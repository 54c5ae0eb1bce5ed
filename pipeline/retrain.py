"""One retraining, start to end: ``python -m pipeline.retrain [--unless-registered] [--trigger T] [--reason WHY]``.

It takes the labels of the store, runs the pipeline, and notes in the store how it went. Nothing that serves is
touched before the last step, which moves the alias: killed at any moment before, the former champion goes on, and the
next retraining finds what this one has left. With ARTIFACTS_URI that may be one on another machine: labels, data and
dvc.lock are in object storage before a version is registered (`pipeline.shared_workspace`).

Exit codes: 0 done, 1 a stage failed, 3 another retraining runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from pipeline.stage_runner import FORCED, REPORTS, RESULTS, StageResult, read_results
from pipeline.workspace import dvc_environment, prepare
from tableloop.environment import user
from tableloop.mlflow_http import has_alias, is_healthy, wait_until_healthy
from tableloop.object_storage import ObjectStorage, StorageError
from tableloop.settings import RegistrySettings, as_environment
from tableloop.state.database import BEGAN_BY, Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock

if TYPE_CHECKING:
    from pipeline.shared_workspace import SharedWorkspace

FAILED = 1
STOP_SECONDS = 4  # from being told to stop to killing what has not ended; supervisord and Docker wait 10


class StoppedError(Exception):
    """The process was told to stop."""


def retrain(settings: RegistrySettings, store: Store) -> str | None:
    """Run the pipeline in the workspace, and return why it failed, or None; the caller holds the lock.

    Returns
    -------
    str or None
        "training failed in stage <name>: <reason>".
    """
    layout = Layout(settings.state_dir)
    shared = _shared(settings)
    if shared:
        shared.check()
    shutil.rmtree(layout.stages, ignore_errors=True)
    layout.stages.mkdir(parents=True)
    workspace = prepare(settings.state_dir, storage=ObjectStorage.of(settings))
    if shared:
        shared.fetch()
    _take_labels(store, workspace, shared)
    _take_revocations(store, workspace, shared)
    from_scratch = ["--force", "--no-run-cache"] if settings.retrain_from_scratch else []
    failure = _train_and_share(settings, shared, from_scratch) if shared else _dvc(settings, "repro", *from_scratch)
    if failure is None:
        _write_phases(layout, read_results(layout.stages))
    return failure


def failure_of(results: dict[str, StageResult]) -> str | None:
    """Return in one line what the stages say of a failure; None when none of them has failed, as far as they know."""
    for stage, result in results.items():
        if result.failure is not None:
            return f"training failed in stage {stage}: {result.failure.partition(chr(10))[0]}"
        if result.seconds is None:
            return f"training failed in stage {stage}: it was killed, which the kernel does when memory is short"
    return None


def _shared(settings: RegistrySettings) -> SharedWorkspace | None:
    """Return what the workspace shares with other machines, None without ARTIFACTS_URI."""
    if not (storage := ObjectStorage.of(settings)):
        return None
    from pipeline.shared_workspace import SharedWorkspace  # noqa: PLC0415 - pandas, which a first start has no time for

    return SharedWorkspace(storage, Layout(settings.state_dir).workspace)


def _train_and_share(settings: RegistrySettings, shared: SharedWorkspace, from_scratch: list[str]) -> str | None:
    """Run the pipeline, with its data in object storage before a version is registered; return why it failed."""
    failure = _dvc(settings, "repro", "train", *(from_scratch or ["--pull"]))
    failure = failure or _dvc(settings, "push", "--run-cache")
    if failure:
        return failure
    try:
        shared.share_lock()
    except OSError as error:
        return f"training failed: {error}"
    return _dvc(settings, "repro")


def _dvc(settings: RegistrySettings, *arguments: str) -> str | None:
    """Run DVC in the workspace, and return why it failed, or None."""
    storage, layout = ObjectStorage.of(settings), Layout(settings.state_dir)
    environment = dvc_environment(layout.workspace) | as_environment(settings) | {RESULTS: str(layout.stages)}
    with _process_group([sys.executable, "-m", "dvc", *arguments], layout.workspace, environment) as process:
        pass
    if process.returncode == 0:
        return None
    if failure := failure_of(read_results(layout.stages)):
        return failure
    try:
        if storage:
            storage.check()
    except StorageError as error:
        return f"training failed: {error}"
    return f"training failed: dvc {arguments[0]} ended with exit code {process.returncode}, see above"


@contextlib.contextmanager
def _process_group(
    command: list[str], directory: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, and end all of it when we are told to stop."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        close_fds=False,
        process_group=0,
    )
    try:
        yield process
        process.wait()
    except BaseException:
        _end_group(process)
        raise


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        # The stages are DVC's children: they may outlive it.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _take_labels(store: Store, workspace: Path, shared: SharedWorkspace | None) -> None:
    """Make a batch of the new labels, if the store holds any; mark those of a killed retraining."""
    if not store.count_unused_labels() and not any((workspace / "data/feedback").glob("*.parquet")):
        return
    from tableloop.state.label_batches import FEEDBACK, take_batch  # noqa: PLC0415 - pandas, as above

    if batch := take_batch(store, workspace / FEEDBACK, shared.share_batch if shared else None):
        _say(f"new labels: {FEEDBACK / batch.name}", sys.stdout)


def _take_revocations(store: Store, workspace: Path, shared: SharedWorkspace | None) -> None:
    if store.revoked():
        from tableloop.state.label_batches import FEEDBACK, take_revocations  # noqa: PLC0415 - as above

        take_revocations(store, workspace / FEEDBACK)
        if shared:
            shared.share_revocations()


def _why_not(settings: RegistrySettings) -> str:
    """Return why a start need not train: a version serves already; an empty string when it has to.

    Nobody waits for the server where nothing was ever trained: the first training can begin while it starts. With
    ARTIFACTS_URI only the registry knows whether there was one.
    """
    uri, layout = settings.mlflow_tracking_uri, Layout(settings.state_dir)
    trained_before = bool(settings.artifacts_uri) or (layout.workspace / REPORTS / "metrics.json").exists()
    if trained_before and not wait_until_healthy(uri):
        silence = f"{settings.registry} does not answer"
        if settings.has_foreign_registry and layout.champion_pointer.exists():
            return f"{silence}: the service goes on with its local copy"
        raise OSError(silence)
    if not trained_before and not is_healthy(uri):
        return ""
    if has_alias(uri, settings.model_name, settings.model_alias, login=settings.registry_login):
        return f"{settings.model_name}@{settings.model_alias} is registered"
    return ""


def _write_phases(layout: Layout, results: dict[str, StageResult]) -> None:
    layout.phases.mkdir(parents=True, exist_ok=True)
    for stage, result in results.items():
        (layout.phases / stage).write_text(f"{result.seconds:.1f}\n")


def _stop(signum: int, frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise StoppedError(signal.Signals(signum).name)


def _say(text: str, to: IO[str]) -> None:
    to.write(f"{text}\n")
    to.flush()


def main() -> int:
    """Retrain once, and return the exit code."""
    parser = argparse.ArgumentParser(description="Train, register the best model, move the alias if it passes.")
    parser.add_argument("--unless-registered", action="store_true", help="do nothing when a version serves already")
    parser.add_argument("--trigger", help="who began it, for the history (default: start or user)")
    parser.add_argument("--reason", default="", help="why, for the history")
    parser.add_argument("--force", action="store_true", help="promote even what the gate rejects; needs --reason")
    arguments = parser.parse_args()
    if arguments.force:
        if not arguments.reason.strip():
            parser.error("--force needs --reason, which is noted with the version")
        os.environ[FORCED] = json.dumps({"by": user(), "reason": arguments.reason})
    settings = RegistrySettings()
    trigger = arguments.trigger or ("start" if arguments.unless_registered else "user")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        if arguments.unless_registered and (reason := _why_not(settings)):
            _say(f"{reason}: nothing to train", sys.stdout)
            return 0
        with retraining_lock(Layout(settings.state_dir), database_url=settings.database_url.get_secret_value()):
            return _retrain_and_tell(settings, trigger, arguments.reason)
    except BusyError as error:
        _say(str(error), sys.stderr)
        return BUSY
    except StoppedError as error:
        _say(f"retraining stopped by {error}", sys.stderr)
        return 128 + signal.Signals[str(error)].value
    except (OSError, StoreError) as error:
        _say(f"training failed before its first stage: {error}", sys.stderr)
        return FAILED


def _retrain_and_tell(settings: RegistrySettings, trigger: str, cause: str) -> int:
    """Retrain, write the history and the last line, and return the exit code; the caller holds the lock."""
    layout = Layout(settings.state_dir)
    store = Store.of(settings)
    number = store.begin_retraining(trigger, cause, BEGAN_BY.get(trigger) or user())
    code = FAILED
    try:
        failure = retrain(settings, store)
        outcome, version, reason = ("failed", None, failure) if failure else _registration(layout.workspace)
    except StoppedError as error:
        failure, code = f"retraining stopped by {error}", 128 + signal.Signals[str(error)].value
        outcome, version, reason = "failed", None, failure
    except (OSError, StoreError) as error:
        failure = f"training failed before its first stage: {error}"
        outcome, version, reason = "failed", None, failure
    seconds = {name: result.seconds for name, result in read_results(layout.stages).items() if result.seconds}
    try:
        store.end_retraining(number, outcome, version, reason, seconds)
    except StoreError as error:
        failure = failure or f"the end of the retraining cannot be noted in {store.place}: {error}"
    if failure:
        _say(failure, sys.stderr)
        return code
    return 0


def _registration(workspace: Path) -> tuple[str, str, str]:
    """Return what the gate said, of which version, and why."""
    report = json.loads((workspace / REPORTS / "registration.json").read_text())
    return report["gate"], report["version"], report["reason"]


if __name__ == "__main__":
    sys.exit(main())
