"""Score files: ``python -m pipeline.score IN OUT``, ``make score IN=... OUT=...``.

IN is a file or a folder with its subfolders, on disk or in object storage (``s3://bucket/folder``), CSV or Parquet by
suffix, of any length; OUT is one of the same sort. The rows are predicted by the version that serves in the registry,
or by a model directory (``--model``), and written with the columns that `/predict/batch` appends; nothing goes to the
prediction log. The files of a folder are scored by the cores of this machine, or by the workers of
``DASK_SCHEDULER``, into Parquet files. An output appears when it is complete, and is kept by later runs as long as
input and version are the same. Exit code 0: all is scored; 1: something is not, and stderr says what.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Final

from tqdm import tqdm

from pipeline.file_places import Directory, Place, place_of, split
from pipeline.git_commit import source_commit
from pipeline.score_file import KINDS, kind_of
from pipeline.scored_version import ScoredVersion, fetch_version, load_predict, read_version
from pipeline.scoring import Order, carry_out
from pipeline.scoring_workers import carry_out_all
from pipeline.stage_runner import StageError
from tableloop.files import TableError
from tableloop.model_process import ModelProcessError
from tableloop.settings import RegistrySettings
from tableloop.table import load_table
from tableloop.version_files import VersionFilesError, describe_version

LOG_SECONDS: Final = 10.0  # between lines where there is no terminal
ROOT: Final = Path(__file__).resolve().parent.parent


def main() -> None:
    """Score what is named; end with one line, and a code other than 0 when something is not scored."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.score", description=__doc__.partition("\n")[0])
    parser.add_argument("source", metavar="IN", help="a file, or a folder")
    parser.add_argument("target", metavar="OUT", help="a file, or a folder")
    parser.add_argument("--model", type=Path, help="a model directory instead of the version in the registry")
    options = parser.parse_args()
    settings = RegistrySettings()
    os.environ["OMP_NUM_THREADS"] = "1"  # as the workers of a cluster, which compare it with theirs
    try:
        if _is_file(options.source):
            _score_file(options.source, options.target, options.model, settings)
        else:
            _score_folder(options.source, options.target, options.model, settings)
    except (TableError, OSError, StageError) as error:
        sys.exit(str(error))
    except (VersionFilesError, ModelProcessError) as error:
        sys.exit(f"the model cannot be used: {error}")


def _is_file(address: str) -> bool:
    is_folder = address.endswith("/") or Path(address).is_dir()
    return not is_folder and PurePosixPath(address).suffix != ""


def _score_file(source: str, target: str, model: Path | None, settings: RegistrySettings) -> None:
    for name in (source, target):
        kind_of(name)
    version, archive = _version(model, settings)
    (folder, name), (folder_out, output) = split(source), split(target)
    order = Order(folder, name, folder_out, output, version, load_table(), _code())
    with tqdm(unit="row", unit_scale=True) as bar:

        def show(done: int, rows: int) -> None:
            bar.total = rows
            bar.update(done - bar.n)

        outcome = carry_out(order, archive, show)
    if outcome.state == "failed":
        sys.exit(outcome.reason)
    said = "scored into" if outcome.state == "scored" else "were scored before and are in"
    sys.stdout.write(f"{outcome.rows:,} rows {said} {target}\n")


def _score_folder(source: str, target: str, model: Path | None, settings: RegistrySettings) -> None:
    folder, folder_out, table = place_of(source), place_of(target), load_table()
    names = _outputs(folder, folder_out)
    version, archive = _version(model, settings)
    load_predict(archive, table)  # a model that does not load is said once, not by each worker
    rows, counts, code = 0, Counter[str](), _code()
    with _claimed(folder_out) as claimed, _Progress(len(names)) as progress:
        orders = [Order(folder, name, claimed, output, version, table, code) for output, name in names.items()]
        for order, outcome in carry_out_all(orders, archive, settings.dask_scheduler):
            counts[outcome.state] += 1
            rows += outcome.rows
            if outcome.state == "failed":
                progress.write(f"{folder.address(order.name)}: {outcome.reason}")
            progress.add(outcome.rows if outcome.state == "scored" else 0)
    sys.stdout.write(
        f"{len(names):,} files by version {version.version}: {counts['scored']:,} scored, {counts['kept']:,} kept, "
        f"{counts['failed']:,} failed; {rows:,} rows in {target}\n"
    )
    if counts["failed"]:
        sys.exit(1)


def _outputs(folder: Place, folder_out: Place) -> dict[str, str]:
    """Return the name of the input for that of each output.

    Raises
    ------
    TableError
        There are none, or two inputs have the same output.
    """
    outer, inner = sorted((place.address("").rstrip("/") for place in (folder, folder_out)), key=len)
    if f"{inner}/".startswith(f"{outer}/"):
        raise TableError.of(f"IN and OUT must not be in one another: {outer} and {inner}")
    outputs: dict[str, str] = {}
    for name in folder.names():
        if PurePosixPath(name).suffix.lower() not in KINDS:
            continue
        output = name if name.endswith(".parquet") else f"{name}.parquet"
        if output in outputs:
            raise TableError.of(f"{outputs[output]} and {name} have the same output {output}: rename one of them")
        outputs[output] = name
    if not outputs:
        where = folder.address("").rstrip("/")
        raise TableError.of(f"there are no files in {where} whose names end in {' or '.join(KINDS)}")
    return outputs


def _claimed(folder: Place) -> AbstractContextManager[Place]:
    return folder.claimed() if isinstance(folder, Directory) else nullcontext(folder)


def _version(model: Path | None, settings: RegistrySettings) -> tuple[ScoredVersion, bytes]:
    if model is None:
        return fetch_version(settings)
    return read_version(model, model.name, describe_version(model).run_id, settings)


def _code() -> str:
    return source_commit(ROOT) or "unknown"


class _Progress:
    """Files, rows and rows/s: a bar on a terminal, and in a log a line now and then."""

    def __init__(self, files: int) -> None:
        self._bar = tqdm(total=files, unit="file", disable=None)  # None: without a terminal
        self._files = files
        self._done = self._rows = 0
        self._began = self._said = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def write(self, line: str) -> None:
        """Write a line above the bar."""
        self._bar.write(line, file=sys.stderr)

    def add(self, rows: int) -> None:
        """Count one more file with so many scored rows."""
        self._done += 1
        self._rows += rows
        now = time.monotonic()
        speed = f"{self._rows:,} rows, {self._rows / (now - self._began):,.0f} rows/s"
        self._bar.set_postfix_str(speed, refresh=False)
        self._bar.update()
        if self._bar.disable and (now - self._said > LOG_SECONDS or self._done == self._files):
            self._said = now
            self.write(f"{self._done:,} of {self._files:,} files, {speed}")


if __name__ == "__main__":
    main()
