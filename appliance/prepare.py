"""What is done before anything starts: check the machine, make the directories, put the migrated database in place.

``python -m appliance.prepare`` ends with one line and exit 1 when something is in the way.
``python -m appliance.prepare --template`` makes the empty, migrated MLflow database that every new state starts from.

It runs at every start, so it imports no MLflow: migrating an empty file takes 6 s, copying a migrated one nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import yaml

from appliance.adopt import adopt
from monitoring import alerting
from monitoring.grafana import for_table
from pipeline.workspace import prepare as prepare_workspace
from tableloop.api_keys import KeysError, parse
from tableloop.credentials import NoPasswordError, keep_password, read_password
from tableloop.listener import listen
from tableloop.mlflow_http import UnusableServerError, check_server
from tableloop.settings import Settings, load_settings
from tableloop.signing import SigningKey, key_file
from tableloop.state.database import Store
from tableloop.state.errors import ServerAwayError, StoreError
from tableloop.state.former_files import take_in
from tableloop.state.layout import Layout
from tableloop.table import DATA, TableError, load_table, params_file
from tableloop.tls import CertificateError, offering

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / ".runtime" / "mlflow.db"
LOCK_DESCRIPTOR = 9  # entrypoint.sh opens run/lock there and keeps it open
LEAST_FREE_BYTES = 1_000_000_000
LONGEST_SOCKET_PATH = 103  # bytes; Linux takes 107, macOS 103
REGISTRY_SECONDS = 5.0
DATABASE_SECONDS = 20.0  # to wait for a PostgreSQL that was started at the same time
LEAST_LIMITS = (
    (resource.RLIMIT_NOFILE, "open files", "n", 1024),  # supervisord's own least, as the next one
    (resource.RLIMIT_NPROC, "processes", "u", 200),
    (resource.RLIMIT_FSIZE, "bytes of a file", "f", LEAST_FREE_BYTES),
    # Programs reserve more than they use.
    (resource.RLIMIT_AS, "bytes of address space", "v", 8 << 30),
)


class RefusedError(Exception):
    """What was asked for cannot be done; the message is one line with the remedy."""


def prepare(settings: Settings) -> None:
    """Make `settings.state_dir` ready for a start; refuse before anything of a running one has changed."""
    state = settings.state_dir
    check_writable(state)
    check_disk(state)
    check_socket_path(state)
    check_limits()
    check_not_running(state)
    check_table(Layout(state).workspace / "data")
    check_ports(settings)
    check_registry(settings)
    put_in_place(state)
    layout = Layout(state)
    for path in (layout.mlflow_artifacts, layout.champion, layout.prometheus, layout.grafana_plugins, layout.logs):
        path.mkdir(parents=True, exist_ok=True)
    clear_run_directory(layout)
    layout.marker.touch()
    layout.example.write_text(json.dumps(load_table().example) + "\n")  # for the watchdog
    check_keys(settings)
    check_certificate(settings)
    prepare_password(layout, settings.admin_password.get_secret_value())
    prepare_store(layout, Store.of(settings), settings.model_name)
    prepare_signing_key(settings)
    alerting.prepare(settings)
    for_table.prepare(layout)
    if not settings.test_mode:
        if url := settings.database_url.get_secret_value():
            prepare_server_database(url)
        else:
            prepare_database(layout.mlflow_database)
        prepare_workspace(state, ROOT)


def check_writable(state: Path) -> None:
    """Refuse a directory in which this user cannot make files, or whose content another user has made."""
    probe = state / f".probe-{os.getpid()}"
    try:
        state.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        layout = Layout(state)
        own = (layout.run, layout.mlflow, layout.champion, layout.workspace, layout.logs, layout.database)
        for path in own:  # what another user may have left
            if path.exists() and not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, f"{path} belongs to uid {path.stat().st_uid}")
    except OSError as error:
        raise RefusedError(
            f"STATE_DIR={state}: uid {os.getuid()} cannot write there ({error.strerror}); "
            f"give it to that user (chown -R {os.getuid()} {state}) or set STATE_DIR to another directory"
        ) from None


def check_table(trained: Path) -> None:
    """Refuse a state of another table than the one that is to serve: its store and registry are of that one."""
    try:
        former = load_table(trained).name
    except TableError:
        return  # none, or one that the workspace will have the present one of
    if former != load_table().name:
        raise RefusedError(
            f"the state is of the table {former}, and TABLE={DATA} is {load_table().name}: set STATE_DIR to another "
            "directory"
        )


def check_disk(state: Path) -> None:
    """Refuse when there is hardly room for a training and a day of metrics."""
    free = shutil.disk_usage(state).free
    if free < LEAST_FREE_BYTES:
        raise RefusedError(
            f"STATE_DIR={state}: {free / 1e9:.1f} GB free, {LEAST_FREE_BYTES / 1e9:.1f} GB needed; "
            "make room or set STATE_DIR to another disk"
        )


def check_socket_path(state: Path) -> None:
    """Refuse a path in which the control socket would not fit."""
    path = Layout(state).supervisord_socket
    # supervisord binds a name with its process id behind it first.
    excess = len(os.fsencode(path)) + len(".1234567") - LONGEST_SOCKET_PATH
    if excess > 0:
        raise RefusedError(f"STATE_DIR={state}: {excess} characters too long for a socket; set a shorter STATE_DIR")


def check_limits() -> None:
    """Refuse limits of this process with which a part would end, most likely without saying why."""
    for limit, what, flag, needed in LEAST_LIMITS:
        allowed = resource.getrlimit(limit)[1]  # supervisord raises what is below that
        if allowed != resource.RLIM_INFINITY and allowed < needed:
            raise RefusedError(
                f"the limit of {what} (ulimit -{flag}) is {allowed}, and at least {needed} are needed: raise it in "
                "the shell that starts the appliance, in the unit of systemd, or with docker run --ulimit"
            )


def check_registry(settings: Settings) -> None:
    """Refuse a registry other than the appliance's own that cannot be used."""
    if settings.test_mode or not settings.has_foreign_registry:
        return
    uri, deadline = settings.mlflow_tracking_uri, time.monotonic() + REGISTRY_SECONDS
    experiment = yaml.safe_load(params_file().read_text())["register"]["experiment"]
    while True:
        try:
            check_server(uri, experiment, settings.registry_login)
        except UnusableServerError as error:
            reason = str(error)
        except OSError as error:
            if time.monotonic() < deadline:  # both may have been started at the same time
                time.sleep(0.5)
                continue
            silence = f"no server answers there ({getattr(error, 'reason', error)})"
            if Layout(settings.state_dir).champion_pointer.exists():
                told = f"MLFLOW_TRACKING_URI={uri}: {silence}; the service starts with its local copy of the model"
                sys.stdout.write(f"appliance     | {told}\n")
                return
            reason = f"{silence}: start it"
        else:
            return
        raise RefusedError(f"MLFLOW_TRACKING_URI={uri}: {reason}; or unset the variable to use the appliance's own")


def check_not_running(state: Path) -> None:
    """Refuse a state that another appliance uses, and keep others from using it."""
    lock = Layout(state).run_lock
    lock.parent.mkdir(exist_ok=True)
    own = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    descriptor = LOCK_DESCRIPTOR if _is_same_file(LOCK_DESCRIPTOR, own) else own
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedError(
            f"STATE_DIR={state}: an appliance runs there already; stop it (make down) or set another STATE_DIR"
        ) from None


def check_ports(settings: Settings) -> None:
    """Refuse ports that are taken, or given twice, and name the variable to change."""
    ports = {
        "API_PORT": settings.api_port,
        "MLFLOW_PORT": settings.mlflow_port,
        "PROMETHEUS_PORT": settings.prometheus_port,
        "GRAFANA_PORT": settings.grafana_port,
    }
    if problem := _bind_problem(settings.bind_address, 0):
        raise RefusedError(
            f"BIND_ADDRESS={settings.bind_address}: no server can listen there ({problem}); set it to an address of "
            "this machine, or to 0.0.0.0 for all of them"
        )
    users: dict[int, str] = {}
    for variable, port in ports.items():
        if (other := users.setdefault(port, variable)) != variable:
            raise RefusedError(f"{variable}={port} is the same port as {other}; set one of them to another")
        if problem := _bind_problem(settings.bind_address, port):
            raise RefusedError(
                f"{variable}={port} cannot be used on {settings.bind_address} ({problem}); "
                f"stop the program that uses it or set {variable} to another port"
            )


def check_keys(settings: Settings) -> None:
    """Refuse API_KEYS that cannot be read."""
    try:
        parse(settings.api_keys)
    except KeysError as error:
        raise RefusedError(f"API_KEYS: {error}") from None


def check_certificate(settings: Settings) -> None:
    """Refuse a certificate that the service could not use, where one is given."""
    if settings.tls_cert and settings.tls_key:
        try:
            offering(settings.tls_cert, settings.tls_key)
        except CertificateError as error:
            raise RefusedError(f"TLS_CERT, TLS_KEY: {error}") from None


def clear_run_directory(layout: Layout) -> None:
    """Remove what a former start left behind, but the locks."""
    for entry in set(layout.run.iterdir()) - {layout.run_lock, layout.retraining_lock}:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    layout.phases.mkdir()


def prepare_store(layout: Layout, store: Store, model: str) -> None:
    """Bring the store up to date, and take in what was kept in files before there was one."""
    try:
        _prepare_when_there(store)
        if store.database_url:
            check_moved(store.database_url)
        take_in(layout, store, model)
    except StoreError as error:
        raise RefusedError(f"the store {store.place} cannot be used: {error}; {store.remedy(error)}") from None


def check_moved(url: str) -> None:
    """Refuse a database to which a state is being moved, and does not have all of it yet."""
    from tableloop.state.transfer import unfinished  # noqa: PLC0415 - psycopg

    if reason := unfinished(url):
        raise RefusedError(f"DATABASE_URL: {reason}")


def prepare_signing_key(settings: Settings) -> None:
    """Make the key that signs versions, unless there is one; what was registered before is signed with it."""
    file, layout = key_file(settings), Layout(settings.state_dir)
    if file.exists():
        return
    if settings.signing_key_file:
        raise RefusedError(f"SIGNING_KEY_FILE={file}: there is no such file; unset it, and a key is made")
    key = SigningKey.new()
    # Before the key is kept: killed in between, the next start signs everything once more.
    if count := adopt(layout, key):
        sys.stdout.write(f"appliance     | {count} versions of a time before signatures are signed now\n")
    key.keep(file)


def put_in_place(state: Path) -> Path | None:
    """Exchange the state for a backup that `appliance.restore` has unpacked whole, if there is one.

    Killed at any moment, it goes on from there when it is called again: at the next start, if nobody does it before.
    Returns where the former state lies now; None when there was none, or nothing to put in place.
    """
    layout = Layout(state)
    shutil.rmtree(layout.restoring, ignore_errors=True)  # of a restore that was killed before it had unpacked all
    restored = layout.restored
    if not restored.exists():
        return None
    plan = json.loads((restored / "plan.json").read_text())
    aside = state / plan["aside"]
    for name in plan["former"]:
        aside.mkdir(exist_ok=True)
        # Once it lies aside, what has its name is the new one.
        if (state / name).exists() and not (aside / name).exists():
            (state / name).rename(aside / name)
    for entry in (restored / "state").iterdir():
        entry.rename(state / entry.name)
    shutil.rmtree(restored)
    return aside if plan["former"] else None


def prepare_password(layout: Layout, given: str) -> None:
    """Put the administrator's password in place: the one that is given, the former one of Grafana's, or a new one."""
    try:
        if layout.former_password.exists():
            keep_password(layout.admin_password, given or read_password(layout.former_password))
            layout.former_password.unlink()
        keep_password(layout.admin_password, given)
        read_password(layout.admin_password)
    except NoPasswordError as error:
        raise RefusedError(str(error)) from None


def prepare_database(database: Path, template: Path = TEMPLATE) -> None:
    """Put an empty database of the installed MLflow's schema in place, or bring an older one up to it."""
    if not template.exists():
        make_template(template)
    if not database.exists():
        new = database.with_suffix(".new")
        shutil.copyfile(template, new)
        new.replace(database)
    elif revision(database) != revision(template):
        upgrade_database(database, template)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def prepare_server_database(url: str, template: Path = TEMPLATE) -> None:
    """Make MLflow's tables in PostgreSQL, or bring older ones to the installed MLflow's schema."""
    from appliance import mlflow_postgres  # noqa: PLC0415 - psycopg

    if not template.exists():
        make_template(template)
    try:
        done = mlflow_postgres.migrate(url, revision(template), known_revisions())
    except StoreError as error:
        raise RefusedError(f"DATABASE_URL: {error}") from None
    if done:
        sys.stdout.write(f"appliance     | {done}\n")


def upgrade_database(database: Path, template: Path) -> None:
    """Back up `database`, then migrate it to the installed MLflow's schema."""
    found, wanted = revision(database), revision(template)
    if found not in known_revisions():
        raise RefusedError(
            f"{database} has schema {found}, which this MLflow does not know (it has {wanted}); "
            "start the newer version of the appliance that wrote it"
        )
    backup = database.with_name(f"mlflow-{found}-{time.strftime('%Y%m%dT%H%M%S')}.db")
    with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    upgrade = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{database.name}"],
        cwd=database.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if upgrade.returncode or revision(database) != wanted:
        last = (upgrade.stderr.strip() or "no message").splitlines()[-1]
        raise RefusedError(f"{database} could not be migrated from {found} to {wanted} ({last}); backup: {backup}")
    sys.stdout.write(f"appliance     | MLflow database migrated from schema {found} to {wanted}; backup: {backup}\n")


def revision(database: Path) -> str:
    """Return the schema revision of an MLflow database."""
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    except (sqlite3.Error, TypeError):
        raise RefusedError(f"{database} is no MLflow database; move it away to start with an empty one") from None


def known_revisions() -> set[str]:
    """Return the schema revisions that the installed MLflow can start from, without importing it."""
    spec = find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise RefusedError("MLflow is not installed: run make setup")
    versions = Path(spec.origin).parent / "store" / "db_migrations" / "versions"
    return {file.name.partition("_")[0] for file in versions.glob("*.py")}


def make_template(template: Path) -> None:
    """Make an empty database with the installed MLflow's schema; artifacts go through the server."""
    template.parent.mkdir(parents=True, exist_ok=True)
    new = template.with_suffix(".new")
    new.unlink(missing_ok=True)
    code = "import sys; from mlflow.store.tracking import sqlalchemy_store as s; s.SqlAlchemyStore(*sys.argv[1:])"
    made = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{new.name}", "mlflow-artifacts:/"],
        cwd=new.parent, capture_output=True, text=True, check=False,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )  # fmt: skip
    if made.returncode:
        raise RefusedError(f"the MLflow database could not be made: {made.stderr.strip().splitlines()[-1]}")
    new.replace(template)


def _prepare_when_there(store: Store) -> None:
    """Bring the store up to date; a server that does not answer is waited for, because both may start at once."""
    deadline, told = time.monotonic() + DATABASE_SECONDS, False
    while True:
        try:
            store.prepare()
        except ServerAwayError as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                sys.stdout.write(f"appliance     | {store.place} does not answer yet ({error}); waiting for it\n")
                sys.stdout.flush()
            told = True
            time.sleep(0.5)
        else:
            return


def _bind_problem(address: str, port: int) -> str:
    """Return why a server could not listen there, empty when it could."""
    try:
        listen(address, port).close()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def _is_same_file(descriptor: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(descriptor, other)
    except OSError:  # nothing is open there
        return False


def main() -> None:
    """Prepare the state of this machine, or the template with ``--template``."""
    try:
        if sys.argv[1:] == ["--template"]:
            make_template(TEMPLATE)
        else:
            prepare(load_settings())
    except RefusedError as refusal:
        sys.stderr.write(f"{refusal}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
