"""Score a file: ``python -m pipeline.score IN OUT``, CSV or Parquet by suffix, of any length.

The rows are predicted by the version that serves in the registry, or by a model directory (``--model``), and written
with the columns that `/predict/batch` appends; nothing goes to the prediction log. OUT appears when it is complete.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from tableloop.files import Kind, Matrix, TableError, TableReader, TableWriter, check_table
from tableloop.mlflow_http import download_version, find_alias
from tableloop.model.intervals import Answers
from tableloop.model.onnx_scorer import BrokenScorerError, Scorer
from tableloop.model_process import ModelProcess, ModelProcessError
from tableloop.settings import RegistrySettings
from tableloop.table import Table, load_table
from tableloop.version_files import VersionFilesError, describe_version, open_version

KINDS: dict[str, Kind] = {".csv": "csv", ".parquet": "parquet"}
Predict = Callable[[Matrix], Answers]


def score_file(source: Path, target: Path, predict: Predict, version: str, table: Table) -> int:
    """Write the rows of one file with their predictions to another, and return how many there are.

    Raises
    ------
    TableError
        The file is no table of valid rows; nothing is written then.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        with source.open("rb") as file:
            rows = check_table(file, kind_of(source), table, kind_of(target))
            reader = TableReader(file, kind_of(source), table)
            with partial.open("wb") as sink, tqdm(total=rows, unit="row", unit_scale=True) as progress:
                writer = TableWriter(sink, reader.schema, kind_of(target), table.answer)
                for batch, features, _ in reader.batches():
                    ids = [str(uuid.uuid4()) for _ in range(batch.num_rows)]
                    writer.write(batch, predict(features), version, ids)
                    progress.update(batch.num_rows)
                writer.close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def kind_of(path: Path) -> Kind:
    """Return what a file holds, by its suffix.

    Raises
    ------
    TableError
        It is neither of the two.
    """
    try:
        return KINDS[path.suffix.lower()]
    except KeyError:
        raise TableError.of(f"{path}: the name must end in {' or '.join(KINDS)}") from None


def load_predict(directory: Path, run_id: str, settings: RegistrySettings) -> Predict:
    """Return the predictions of a version's directory: of its compiled scorer, else of its model in its own process.

    Raises
    ------
    VersionFilesError, ModelProcessError
        The files are not those that were signed for this run, or the model does not load.
    """
    files = open_version(directory, run_id, settings)
    if files.scorer is not None:
        try:
            scorer, to_its = Scorer.load(files.scorer), load_table().coding.to(files.coding)
            return lambda rows: scorer.predict(to_its(rows))
        except BrokenScorerError as error:
            sys.stderr.write(f"the compiled scorer in {directory} is not used ({error}): scikit-learn is\n")
    process = ModelProcess(files)
    return lambda rows: process.predict(rows, load_table().coding)


def main() -> None:
    """Score one file; end with one line and a code other than 0 when that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.score", description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT")
    parser.add_argument("--model", type=Path, help="a model directory instead of the version in the registry")
    options = parser.parse_args()
    try:
        for path in (options.source, options.target):
            kind_of(path)
        if options.model is not None:
            predict = load_predict(options.model, describe_version(options.model).run_id, RegistrySettings())
            rows = score_file(options.source, options.target, predict, options.model.name, load_table())
        else:
            rows = _score_by_registry(options.source, options.target)
    except (TableError, OSError) as error:
        sys.exit(str(error))
    except (VersionFilesError, ModelProcessError) as error:
        sys.exit(f"the model cannot be used: {error}")
    sys.stdout.write(f"{rows:,} rows scored into {options.target}\n")


def _score_by_registry(source: Path, target: Path) -> int:
    settings = RegistrySettings()
    uri, name = settings.mlflow_tracking_uri, settings.model_name
    try:
        found = find_alias(uri, name, settings.model_alias, login=settings.registry_login)
    except OSError as error:
        raise OSError(f"the registry at {uri} does not answer ({error}): start it, or name a --model") from error
    if found is None:
        raise OSError(f"the registry at {uri} has no {name}@{settings.model_alias}: train one (make retrain)")
    version = str(found["version"])
    with tempfile.TemporaryDirectory() as directory:
        download_version(uri, name, version, Path(directory), login=settings.registry_login)
        predict = load_predict(Path(directory), str(found.get("run_id", "")), settings)
        return score_file(source, target, predict, version, load_table())


if __name__ == "__main__":
    main()
