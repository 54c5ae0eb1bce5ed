"""What the machine, the shell and the user's own files do to an appliance."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from monitoring.health import ask
from tests.integration.conftest import ROOT, Appliance, copy_checkout, wait_until

NewAppliance = Callable[..., Appliance]
DVC_CONFIG = "[core]\n    remote = theirs\n[cache]\n    dir = {}\n    type = symlink\n"


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, str]:
    """Return variables, and a home directory, that are meant for other programs."""
    modules, home, nowhere = tmp_path / "modules", tmp_path / "home", "http://127.0.0.1:9"
    for name in ("numpy", "pydantic", "yaml"):
        (modules / name).mkdir(parents=True)
        (modules / name / "__init__.py").write_text("raise ImportError('not the one that is installed')\n")
    (modules / "sitecustomize.py").write_text("raise SystemExit('not this one')\n")
    (home / ".config/dvc").mkdir(parents=True)
    (home / ".config/dvc/config").write_text(DVC_CONFIG.format(home / "shared"))
    (home / ".netrc").write_text("default login somebody password else\n")
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"), nowhere)
    return proxies | {
        "HOME": str(home),
        "PYTHONPATH": str(modules),
        "PYTHONOPTIMIZE": "2",
        "PYTHONWARNINGS": "error",
        "MLFLOW_REGISTRY_URI": nowhere,
        "MLFLOW_RUN_ID": "0" * 32,
        "MLFLOW_TRACKING_USERNAME": "somebody",
        "MLFLOW_TRACKING_PASSWORD": "else",
        "DVC_ROOT": "/nowhere",
        "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
        "WEB_CONCURRENCY": "auto",
        "MPLBACKEND": "module://nowhere",
        "GIT_DIR": "/nowhere",
        "RETRAIN_FORCED": '{"by": "somebody", "reason": "none"}',
        "LC_ALL": "C",
    }


def test_what_was_meant_for_other_programs_does_not_reach_ours(
    new_appliance: NewAppliance, first_start: tuple[Appliance, str], hostile: dict[str, str]
) -> None:
    home = Path(hostile["HOME"])
    before = sorted(home.rglob("*"))
    appliance = new_appliance(state_of=first_start[0], **hostile)
    (appliance.state / "workspace/dvc.lock").unlink()  # so that DVC looks for every output in its cache
    appliance.start()
    retrained = appliance.make("retrain")
    assert retrained.returncode == 0, retrained.stdout + retrained.stderr
    assert "unchanged" in retrained.stdout
    assert ask(appliance.services.api, "/ready")["source"] == "registry"
    assert sorted(home.rglob("*")) == before
    assert appliance.make("down").returncode == 0


@pytest.mark.parametrize("address", ["127.0.0.2", "::1", "::"])
def test_every_server_listens_on_any_address_of_the_machine(
    new_appliance: NewAppliance, first_start: tuple[Appliance, str], address: str
) -> None:
    appliance = new_appliance(state_of=first_start[0], BIND_ADDRESS=address)
    appliance.start()
    assert appliance.make("status").stdout.startswith("healthy\n")
    assert appliance.make("down").returncode == 0


def test_a_start_without_enough_open_files_says_so(new_appliance: NewAppliance) -> None:
    appliance = new_appliance()
    started = subprocess.run(
        ["bash", "-c", "ulimit -n 512; make --no-print-directory up"],
        cwd=ROOT,
        env=appliance.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode
    assert started.stderr.startswith("the limit of open files (ulimit -n) is 512, and at least 1024 are needed")


def test_an_appliance_whose_state_is_removed_ends_by_itself(
    new_appliance: NewAppliance, first_start: tuple[Appliance, str]
) -> None:
    appliance = new_appliance(state_of=first_start[0])
    process = appliance.entrypoint()
    wait_until(appliance.is_ready, 60, "ready")
    shutil.rmtree(appliance.state)
    output, _ = process.communicate(timeout=30)
    assert process.returncode
    assert output.splitlines()[-1] == f"STATE_DIR={appliance.state} was removed while the appliance ran: it has ended"
    wait_until(lambda: not appliance.processes(), 3, "the end of all processes")


def test_logs_that_are_removed_are_written_anew(
    new_appliance: NewAppliance, first_start: tuple[Appliance, str]
) -> None:
    appliance = new_appliance(state_of=first_start[0])
    appliance.start()
    logs = [appliance.state / "logs" / name for name in ("app.log", "appliance.log")]
    for log in logs:
        log.unlink()
    ask(appliance.services.api, "/model")
    assert appliance.make("down").returncode == 0
    assert "/model" in logs[0].read_text()
    assert "stopped" in logs[1].read_text()


def test_it_is_stopped_without_python_and_whatever_the_settings_are(
    new_appliance: NewAppliance, tmp_path: Path
) -> None:
    dummy = new_appliance(TEST_MODE="1")
    dummy.start()
    checkout = tmp_path / "checkout"
    copy_checkout(checkout)  # without .venv
    dummy.root, dummy.extra = checkout, {"LOG_LEVEL": "LOUD", "PATH": "/usr/bin:/bin"}
    stopped = dummy.make("down")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert stopped.stdout.splitlines()[-1] == "stopped"
    wait_until(lambda: not dummy.processes(), 3, "the end of all processes")
    assert dummy.make("down").stdout.splitlines()[-1] == "does not run"


@pytest.mark.parametrize("python", ["", "#!/bin/sh\necho None\n"])
def test_an_environment_of_a_python_that_has_gone_is_made_anew(tmp_path: Path, python: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (tmp_path / ".venv/.dependencies").touch()
    (programs / "python").symlink_to("python3")
    if python:
        (programs / "python3").write_text(python)
        (programs / "python3").chmod(0o755)
    said = subprocess.run(["make", "help"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "make setup installs it anew" in said
    assert not (tmp_path / ".venv").exists()


def test_a_checkout_on_windows_keeps_the_ends_of_lines(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no clone of git's")
    clone = ["git", "clone", "--quiet", "--depth", "1", "-c", "core.autocrlf=true", f"file://{ROOT}", "clone"]
    subprocess.run(clone, cwd=tmp_path, check=True)
    for name in ("entrypoint.sh", "Makefile", "data/raw/california_housing.csv"):
        assert b"\r" not in (tmp_path / "clone" / name).read_bytes(), name
