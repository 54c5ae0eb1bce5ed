"""Move the state of this appliance to PostgreSQL and object storage, and prove it: ``make migrate-to``.

The target is DATABASE_URL, ARTIFACTS_URI or both, from the environment or from a file of such lines; the source is
STATE_DIR, which is only read. It goes in passes. While the appliance runs, a pass copies what is there. The pass
after ``make down`` copies what is new since, compares every row and every file, has the version that serves predict
rows of the log again, and says what to set. Whatever ends a pass, the next one goes on.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from dotenv import dotenv_values

from appliance import file_transfer
from appliance.backup import in_use, reported
from appliance.prepare import (
    TEMPLATE,
    RefusedError,
    check_not_running,
    make_template,
    prepare_server_database,
    revision,
)
from appliance.same_answers import DifferentAnswersError, compare_answers
from tableloop.object_storage import ObjectStorage, StorageError
from tableloop.settings import Settings, load_settings
from tableloop.signing import SigningKey, key_file
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.state.locks import BUSY, BusyError, retraining_lock
from tableloop.state.sqlite_rows import snapshot
from tableloop.version_files import VersionFilesError

TARGET = ("DATABASE_URL", "ARTIFACTS_URI")


class NotProvedError(Exception):
    """The target does not hold what the source does; the message says where they differ."""


def migrate(settings: Settings, *, final: bool) -> None:
    """Make one pass to the target of the settings; a ``final`` one, of a stopped appliance, ends with the proof.

    Raises
    ------
    RefusedError, StoreError, StorageError, SignatureError, OSError
    NotProvedError
    """
    layout = Layout(settings.state_dir)
    url, storage = settings.database_url.get_secret_value(), ObjectStorage.of(settings)
    identity = SigningKey.load(settings).id
    proved = []
    if url:
        proved += _move_tables(settings, layout, url, identity, final=final)
    if storage is not None:
        file_transfer.begin(storage, identity)
        sent = file_transfer.send(storage, layout)
        _tell(f"files: {sent.files:,}, {sent.sent:,} of them sent now ({sent.bytes / 1e6:,.1f} MB)")
        if final:
            if different := file_transfer.differences(storage, layout):
                raise NotProvedError(_first(different, "files"))
            proved.append(f"{sent.files:,} files by their md5")
    if not final:
        return
    if settings.test_mode or settings.has_foreign_registry or not layout.mlflow_database.exists():
        answers = "the registry is another server's: there are no answers to compare"
    else:
        store = Store(url or layout.database)
        with _registry(layout, url) as registry_uri:
            try:
                answers = compare_answers(settings, registry_uri, store, storage)
            except (DifferentAnswersError, VersionFilesError) as error:
                raise NotProvedError(str(error)) from None
    if url:
        from tableloop.state.transfer import StoreTransfer  # noqa: PLC0415 - psycopg

        StoreTransfer(layout.database, url, identity).complete()
    _tell(f"proved: {'; '.join([*proved, answers])}")


def _move_tables(settings: Settings, layout: Layout, url: str, identity: str, *, final: bool) -> list[str]:
    """Copy the store and MLflow's tables, and return what is proved of them."""
    from appliance import mlflow_transfer  # noqa: PLC0415 - psycopg
    from tableloop.state.transfer import StoreTransfer  # noqa: PLC0415 - psycopg

    transfer = StoreTransfer(layout.database, url, identity)
    with_mlflow = layout.mlflow_database.exists()
    if with_mlflow:
        if not TEMPLATE.exists():
            make_template(TEMPLATE)
        if (found := revision(layout.mlflow_database)) != (wanted := revision(TEMPLATE)):
            raise RefusedError(
                f"{layout.mlflow_database} has schema {found}, and this MLflow has {wanted}: start this version "
                "on it once (make up), so that it is brought up to date"
            )
        if not transfer.has_begun():
            mlflow_transfer.check_target(url)
    transfer.begin()
    parts = {"the store": transfer.copy(settings.log_retention_days)}
    if with_mlflow:
        prepare_server_database(url)
        parts["MLflow"] = mlflow_transfer.copy(layout.mlflow_database, url)
    for part, moved in parts.items():
        rows, copied = sum(table.rows for table in moved), sum(table.copied for table in moved)
        _tell(f"{part}: {rows:,} rows in {len(moved)} tables, {copied:,} of them copied now")
    if not final:
        return []
    different = transfer.differences()
    different += mlflow_transfer.different(layout.mlflow_database, url) if with_mlflow else []
    if different:
        raise NotProvedError(_first(different, "tables"))
    return [
        f"{sum(table.rows for table in moved):,} rows of {part} by their digests in {len(moved)} tables"
        for part, moved in parts.items()
    ]


@contextmanager
def _registry(layout: Layout, url: str) -> Iterator[str]:
    """Yield the address of MLflow's tables: those of the target, or a copy of those here."""
    if url:
        from appliance.mlflow_postgres import mlflow_uri  # noqa: PLC0415 - psycopg

        yield mlflow_uri(url)
        return
    with tempfile.TemporaryDirectory(prefix="migrate-") as directory:
        copy = Path(directory) / "mlflow.db"
        with snapshot(layout.mlflow_database) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        yield f"sqlite:///{copy}"


def _first(different: list[str], what: str) -> str:
    more = f" and {len(different) - 3:,} more" if len(different) > 3 else ""
    return f"{len(different):,} {what} differ: {', '.join(different[:3])}{more}; run this again"


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _what_to_do(settings: Settings) -> str:
    """Return what the user does after the last pass."""
    lines = ["now put the target into .env, and start with make up:"]
    if settings.database_url.get_secret_value():
        lines.append("  DATABASE_URL=…  (as you gave it here, with its password)")
    if settings.artifacts_uri:
        lines.append(f"  ARTIFACTS_URI={settings.artifacts_uri}  (the variables of AWS stay in the environment)")
    lines.append(
        f"The key that signs versions was not moved. Here it stays in {key_file(settings)}; on other machines mount "
        "a copy of that file and name it with SIGNING_KEY_FILE, or nothing that is registered will serve there."
    )
    return "\n".join(lines)


def _run(file: str) -> int:
    """Make a pass, and return the exit code: 0 done, 3 a retraining runs."""
    if file:
        given = dotenv_values(file) if Path(file).is_file() else {}
        if not any(given.get(name) for name in TARGET):
            raise RefusedError(f"{file} does not name DATABASE_URL or ARTIFACTS_URI")
        os.environ.update({name: given.get(name) or "" for name in TARGET})
    settings = load_settings()
    layout = Layout(settings.state_dir)
    if not settings.database_url.get_secret_value() and not settings.artifacts_uri:
        raise RefusedError("name where to: DATABASE_URL, ARTIFACTS_URI or both, in the environment or in a FILE")
    if not layout.database.exists():
        raise RefusedError(f"STATE_DIR={layout.root} has no {layout.database.name}: there is nothing to move")
    final = not in_use(layout.root)
    began = time.monotonic()
    with ExitStack() as stack:
        if final:
            check_not_running(layout.root)  # and keep it from being started
        try:
            stack.enter_context(
                retraining_lock(layout, "a migration", database_url=settings.database_url.get_secret_value())
            )
        except BusyError as busy:
            sys.stderr.write(f"nothing is moved now: {busy}; try again when it has ended\n")
            return BUSY
        migrate(settings, final=final)
    seconds = time.monotonic() - began
    if final:
        _tell(f"{_what_to_do(settings)}\nin {seconds:.1f} s")
    else:
        _tell(
            f"in {seconds:.1f} s; the appliance runs, and what it stores from now on is not there yet: stop it (make "
            "down) and run this once more"
        )
    return 0


def main() -> int:
    """Return the exit code of a pass, whose failure is one line."""

    def run(file: str) -> int:
        try:
            return _run(file)
        except (NotProvedError, StorageError) as error:
            raise RefusedError(str(error)) from None

    return reported(run, "not moved")


if __name__ == "__main__":
    sys.exit(main())
