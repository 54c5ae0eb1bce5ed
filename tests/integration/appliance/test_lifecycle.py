"""Start, stop and refuse, with the commands of the user."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from appliance.prepare import prepare_database, revision
from monitoring.health import ask, check_all
from tableloop.table import load_table
from tests.integration.conftest import ROOT, Appliance, copy_checkout, wait_until

FEATURES = load_table().features

NewAppliance = Callable[..., Appliance]
READY = re.compile(
    r"ready in ([\d.]+) s \((.*)\): API http://localhost:\d+ MLflow http\S+ Prometheus http\S+ Grafana \S+"
)

# The schema as it was one revision before the installed MLflow's.
MAKE_OLDER_DATABASE = """
import sys
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
from mlflow.store.tracking.dbmodels.initial_models import Base
engine = create_sqlalchemy_engine(sys.argv[1])
Base.metadata.create_all(engine)
config = _get_alembic_config(sys.argv[1])
script = ScriptDirectory.from_config(config)
before = script.get_revision(script.get_current_head()).down_revision
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, before)
"""


def test_the_first_start_trains_and_says_how_long_each_phase_took(
    first_start: tuple[Appliance, str], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = first_start[1]
    found = READY.search(printed)
    assert found, printed
    with capsys.disabled():
        sys.stdout.write(f"\nfirst start: {found.group(0)}\n")
    assert {"prepare", "train", "register", "mlflow", "api"} <= {part.split()[0] for part in found[2].split(", ")}
    assert float(found[1]) < 120  # twice what is promised on two free cores
    assert "appliance     | " in printed
    assert "custom_rmse" in printed


def test_the_console_of_a_clean_start_names_a_service_in_every_line(first_start: tuple[Appliance, str]) -> None:
    lines = first_start[0].console().splitlines()
    assert lines
    assert [
        line
        for line in lines
        if not re.match(r"(appliance|mlflow|bootstrap|api|drift-monitor|prometheus|grafana) +\| ", line)
    ] == []
    assert [line for line in lines if re.search(r"ERROR|CRITICAL|Traceback", line)] == []


def test_a_second_start_trains_nothing_even_after_everything_was_killed(
    new_appliance: NewAppliance, first_start: tuple[Appliance, str], capsys: pytest.CaptureFixture[str]
) -> None:
    again = new_appliance(state_of=first_start[0])
    printed = again.start()
    found = READY.search(printed)
    assert found, printed
    with capsys.disabled():
        sys.stdout.write(f"\nsecond start: {found.group(0)}\n")
    assert "Running stage" not in again.console()[len(first_start[0].console()) :]
    assert ask(again.services.api, "/ready")["model_version"] == "1"
    assert float(found[1]) < 60  # 20 s are promised on two free cores

    repeated = again.make("up")
    assert repeated.returncode == 0
    assert READY.search(repeated.stdout), repeated.stdout

    # As when the machine loses its power: what is left behind does not prevent the next start.
    for process in again.processes():
        with suppress(psutil.NoSuchProcess):  # some end with their parents
            process.kill()
    wait_until(lambda: not again.processes(), 5, "the end of all processes")
    status = again.make("status")
    assert status.stdout.startswith("stopped: make up starts it\n")
    assert "model    version 1; registered " in status.stdout
    assert "status] Error 3" in status.stderr
    again.start()
    assert ask(again.services.api, "/ready")["model_version"] == "1"

    started = time.monotonic()
    assert again.make("down").returncode == 0
    assert time.monotonic() - started < 10
    assert again.processes() == []
    assert not again.is_ready()
    assert again.make("down").returncode == 0


def test_sigterm_in_the_middle_of_the_first_training_ends_everything_in_8_s_with_exit_0(
    new_appliance: NewAppliance,
) -> None:
    fresh = new_appliance()
    process = fresh.entrypoint()
    assert process.stdout is not None
    for line in process.stdout:
        if "Running stage 'train'" in line:
            break
    wait_until(lambda: fresh.program("pipeline.train"), 10, "the training process")
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=15)
    assert time.monotonic() - started < 8
    assert process.returncode == 0
    wait_until(lambda: not fresh.processes(), 1, "the end of all processes")


def test_a_failed_training_ends_non_zero_and_names_the_stage(new_appliance: NewAppliance, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    copy_checkout(checkout)
    for name in (".venv", ".runtime"):
        (checkout / name).symlink_to(ROOT / name)
    data = checkout / "data" / "raw" / "california_housing.csv"
    header, first, *rest = data.read_text().splitlines()
    data.write_text("\n".join([header, "-" + first, *rest]) + "\n")
    broken = new_appliance(root=checkout)
    result = broken.make("up")
    assert result.returncode != 0
    last = result.stderr.splitlines()[0]
    assert last.startswith("training failed in stage preprocess: "), result.stderr
    assert broken.processes() == []


def test_test_mode_serves_without_mlflow(new_appliance: NewAppliance) -> None:
    dummy = new_appliance(TEST_MODE="1")
    printed = dummy.start()
    assert "MLflow missing" in printed
    row = {column.name: column.example for column in FEATURES}
    assert ask(dummy.services.api, "/predict", body=row)["predicted_median_house_value"] > 0
    status = dummy.make("status")
    assert status.returncode == 0
    assert "without mlflow: not used in TEST_MODE\n" in status.stdout
    assert "model    version dummy" in status.stdout


def test_several_processes_are_one_service(new_appliance: NewAppliance) -> None:
    appliance = new_appliance(TEST_MODE="1", API_PROCESSES="2")
    appliance.start()

    def is_well() -> bool:
        seen = check_all(appliance.services, ["api"])["api"]
        return seen.up and seen.detail.endswith(", 2 processes") and appliance.is_ready()

    wait_until(is_well, 20, "both processes")
    for victim in ("a child", "the parent"):
        parent = appliance.program("app.main")
        assert parent
        status = appliance.make("status").stdout
        assert status.startswith("healthy\n"), status
        assert f" {parent.pid} " in status
        ending = [parent, *parent.children()] if victim == "the parent" else parent.children()[:1]
        ending[0].kill()
        psutil.wait_procs(ending, 10)
        wait_until(is_well, 30, f"both processes after {victim} was killed")
    assert "process 1 of the service was ended by SIGKILL and is started again" in appliance.console()
    row = {column.name: column.example for column in FEATURES}
    assert ask(appliance.services.api, "/predict", body=row)["model_version"] == "dummy"
    assert appliance.make("down").returncode == 0
    assert appliance.processes() == []


@pytest.mark.parametrize("variable", ["API_PORT", "MLFLOW_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"])
def test_a_busy_port_is_refused_in_one_line_that_names_the_variable(
    new_appliance: NewAppliance, variable: str
) -> None:
    appliance = new_appliance()
    with socket.socket() as other:
        other.bind(("127.0.0.1", appliance.ports[variable]))
        other.listen()
        assert_refused(appliance, f"{variable}={appliance.ports[variable]} cannot be used")


def test_an_unwritable_state_directory_is_refused_in_one_line(new_appliance: NewAppliance, tmp_path: Path) -> None:
    appliance = new_appliance()
    appliance.state = tmp_path / "file" / "state"
    appliance.state.parent.write_text("not a directory")
    assert_refused(appliance, f"STATE_DIR={appliance.state}: uid ")


def test_a_wrong_value_is_refused_with_its_name(new_appliance: NewAppliance) -> None:
    assert_refused(new_appliance(LOG_LEVEL="LOUD"), "LOG_LEVEL='LOUD'")


def test_an_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "sh", "env", "awk"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    make = shutil.which("make")
    assert make
    result = subprocess.run(
        [make, "setup"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{tools}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert result.stderr.splitlines()[0].startswith("Python 3.11 or newer is needed"), result.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_database_of_an_older_mlflow_is_backed_up_and_migrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template, older = ROOT / ".runtime" / "mlflow.db", tmp_path / "mlflow.db"
    subprocess.run([sys.executable, "-c", MAKE_OLDER_DATABASE, f"sqlite:///{older}"], check=True, capture_output=True)
    before = revision(older)
    assert before != revision(template)
    prepare_database(older, template)
    assert revision(older) == revision(template)
    (backup,) = tmp_path.glob("mlflow-*.db")
    assert revision(backup) == before
    line = (
        f"appliance     | MLflow database migrated from schema {before} to {revision(template)}; backup: {backup}\n"
    )
    assert capsys.readouterr().out == line


def assert_refused(appliance: Appliance, beginning: str) -> None:
    result = appliance.make("up", seconds=20)
    assert result.returncode != 0
    line, makes_own = result.stderr.splitlines()
    assert line.startswith(beginning), result.stderr
    assert makes_own.startswith("make: ***")
    assert appliance.processes() == []
