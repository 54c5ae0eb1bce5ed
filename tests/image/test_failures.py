"""What goes wrong in a container: a service ill, a crash loop, a failed training, a hard stop."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.conftest import ROOT, FirstStart, readable
from tests.image.docker import HARDENED, PROGRAMS, WITHOUT_ADDRESS, Container, docker

PORTS = {"api": 8000, "mlflow": 5002, "prometheus": 9090}


def test_each_service_killed_once_is_back_within_15_seconds(appliance: Container) -> None:
    for program in PROGRAMS | WITHOUT_ADDRESS:
        before = appliance.pids(program)
        appliance.kill_program(program)
        deadline = time.monotonic() + 15
        healthy_within(appliance, 15)
        while not set(appliance.pids(program)) - set(before):
            assert time.monotonic() < deadline, appliance.logs()[-2000:]


def test_a_service_that_does_not_answer_makes_the_container_unhealthy(appliances: dict[str, Container]) -> None:
    for container in appliances.values():
        until_docker_says_healthy(container)
    stopped = {}
    for program, container in appliances.items():
        container.kill_program(program, "STOP")
        stopped[program] = time.monotonic()
    for program, container in appliances.items():
        assert program in unhealthy_by(container, stopped[program] + 30)
        container.kill_program(program, "CONT")
    for container in appliances.values():
        healthy_within(container, 30)


def test_a_service_that_answers_500_makes_the_container_unhealthy(appliances: dict[str, Container]) -> None:
    for container in appliances.values():
        until_docker_says_healthy(container)
    replaced = {}
    for program, container in appliances.items():
        supervise(container, "stop", program)
        ill = (
            "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
            "class Ill(BaseHTTPRequestHandler):\n"
            "    def do_GET(self): self.send_error(500)\n"
            "    do_POST = do_GET\n"
            f"HTTPServer(('0.0.0.0', {PORTS[program]}), Ill).serve_forever()\n"
        )
        docker("exec", "--detach", container.name, "python", "-c", ill)
        replaced[program] = time.monotonic()
    for program, container in appliances.items():
        said = unhealthy_by(container, replaced[program] + 30)
        assert program in said
        assert "500" in said
        container.kill("class Ill")
        supervise(container, "start", program)
    for container in appliances.values():
        healthy_within(container, 30)


def test_twenty_kills_leave_no_zombie_and_no_orphan(appliance: Container) -> None:
    for cycle in range(20):
        program = sorted(PROGRAMS)[cycle % len(PROGRAMS)]
        appliance.kill_program(program)
        healthy_within(appliance, 15)
    table = appliance.processes()
    assert [command for _, state, command in table.values() if state == "Z"] == []
    supervisord = next(pid for pid, (_, _, command) in table.items() if "supervisord" in command)
    ours = {pid: row for pid, row in table.items() if "monitoring.health" not in row[2]}  # Docker itself starts that
    orphans = {pid: row for pid, row in ours.items() if row[0] in {"0", "1"} and pid not in {"1", supervisord}}
    assert orphans == {}
    for program in PROGRAMS:
        assert len(appliance.pids(program)) == 1


ENDS_AFTER_STARTSECS = """
import time
time.sleep(3)
raise SystemExit('the third second is the last')
"""
ANSWERS_FOR_SOME_SECONDS = """
import os, runpy, threading, time
import urllib.request as u
def die():
    while True:
        time.sleep(0.1)
        try: u.urlopen('http://127.0.0.1:8000/ready', timeout=2)
        except OSError: continue
        time.sleep(2.5)
        os.write(2, b'that is enough\\n')
        os._exit(1)
threading.Thread(target=die, daemon=True).start()
runpy.run_path('/app/app/real.py', run_name='__main__')
"""
CANNOT_START = "raise SystemExit('no such thing')"


@pytest.mark.parametrize(
    "case",
    [
        (ENDS_AFTER_STARTSECS, r"api ended 9 times in \d+ s: the third second"),
        (ANSWERS_FOR_SOME_SECONDS, r"api ended 9 times in \d+ s: that is enough"),
        # The second of startsecs may be over before it fails.
        (CANNOT_START, r"api (does not start|ended 9 times in \d+ s): no such thing"),
    ],
    ids=["ends-after-startsecs", "answers-and-ends", "cannot-start"],
)
def test_a_service_that_goes_on_crashing_ends_the_container_within_a_minute(
    run: Callable[..., Container],
    volumes: Callable[..., str],
    first_start: FirstStart,
    tmp_path: Path,
    case: tuple[str, str],
) -> None:
    code, last = case
    broken, real = tmp_path / "main.py", tmp_path / "real.py"
    broken.write_text(code)
    real.write_text(docker("run", "--rm", "--entrypoint", "cat", first_start.image, "app/main.py").stdout)
    container = with_files(run, volumes(first_start.volume), {"app/main.py": broken, "app/real.py": real})
    assert container.wait_exit(60) == 1
    assert re.match(last, container.logs().strip().splitlines()[-1])


@pytest.mark.parametrize(
    "case",
    [
        ("preprocess", "data/raw/california_housing.csv", "8.3252,41.0", "8.3252,-41.0"),
        ("train", "params.yaml", "max_depth: 14", "max_depth: deep"),
    ],
    ids=["preprocess", "train"],
)
def test_a_training_that_fails_ends_the_container_and_names_the_stage(
    run: Callable[..., Container], volumes: Callable[..., str], tmp_path: Path, case: tuple[str, str, str, str]
) -> None:
    stage, file, old, new = case
    text = (ROOT / file).read_text()
    assert old in text
    broken = tmp_path / Path(file).name
    broken.write_text(text.replace(old, new, 1))
    container = with_files(run, volumes(), {file: broken})
    assert container.wait_exit(90) == 1
    assert f"training failed in stage {stage}" in container.logs().strip().splitlines()[-1]


def test_docker_stop_in_the_middle_of_the_first_training_is_quick_and_clean(
    run: Callable[..., Container], volumes: Callable[..., str]
) -> None:
    container = run([*HARDENED, "--env", "RETRAIN_FROM_SCRATCH=1", "--volume", f"{volumes()}:/data"])
    container.wait_log("Running stage 'train'", 60)
    stops_cleanly(container)


def test_killed_in_the_middle_of_a_retraining_the_former_champion_serves_and_the_next_retraining_works(
    run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart, small_params: Path
) -> None:
    container = with_files(run, volumes(first_start.volume), {"params.yaml": small_params})
    container.wait_ready(60)
    docker("exec", "--detach", container.name, "make", "retrain")
    container.wait_for("grep -q '[p]ipeline.train' /proc/[0-9]*/cmdline", 60)
    docker("kill", container.name)
    docker("start", container.name)
    container.wait_log("ready in", 60, times=2)  # the log goes on where it ended
    assert container.exec("cat", "/data/champion/current.json") == first_start.model
    assert "Version 1 serves" in container.exec("make", "retrain")


def test_a_volume_of_an_older_mlflow_is_backed_up_and_migrated(
    run: Callable[..., Container], volumes: Callable[..., str], image: str, small_params: Path
) -> None:
    volume = volumes()
    database_of(image, volume, "-3")
    container = with_files(run, volume, {"params.yaml": small_params})
    container.wait_ready(120)
    told = [line for line in container.logs().splitlines() if "migrated" in line]
    assert len(told) == 1
    assert "backup" in told[0]
    assert len(container.exec("sh", "-c", "ls /data/mlflow/mlflow-*.db").splitlines()) == 1


def test_a_volume_of_a_newer_mlflow_is_refused_in_one_line(
    image: str, run: Callable[..., Container], volumes: Callable[..., str]
) -> None:
    volume = volumes()
    database_of(image, volume, "head", "UPDATE alembic_version SET version_num = 'f00df00df00d'")
    container = run([*HARDENED, "--volume", f"{volume}:/data"])
    assert container.wait_exit(20) == 1
    assert len(container.logs().strip().splitlines()) == 1
    assert "f00df00df00d" in container.logs()
    assert "newer" in container.logs()


def unhealthy_by(container: Container, deadline: float) -> str:
    """Return the message of Docker's health check when the container turned unhealthy."""
    while True:
        health = container.state()["Health"]
        if health["Status"] == "unhealthy":
            return str(health["Log"][-1]["Output"])
        assert time.monotonic() < deadline, f"{health}\n{container.logs()[-2000:]}"
        time.sleep(0.5)


def healthy_within(container: Container, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while container.health() != (0, "healthy"):
        assert time.monotonic() < deadline, f"{container.health()}\n{container.logs()[-2000:]}"
        time.sleep(0.3)


def until_docker_says_healthy(container: Container) -> None:
    deadline = time.monotonic() + 60
    while container.state()["Health"]["Status"] != "healthy":
        assert time.monotonic() < deadline, container.state()["Health"]
        time.sleep(0.5)


def supervise(container: Container, action: str, program: str) -> None:
    container.exec("supervisorctl", "-c", "/app/supervisord.conf", action, f"appliance:{program}", check=False)


def stops_cleanly(container: Container) -> None:
    start = time.monotonic()
    docker("stop", container.name)
    assert time.monotonic() - start < 8
    assert container.state()["ExitCode"] == 0


def with_files(run: Callable[..., Container], volume: str, files: dict[str, Path]) -> Container:
    """Start a container in which some files of the appliance are others."""
    mounts = [part for path, file in files.items() for part in ("--volume", f"{readable(file)}:/app/{path}:ro")]
    return run([*HARDENED, "--volume", f"{volume}:/data", *mounts])


def database_of(image: str, volume: str, revision: str, then: str = "") -> None:
    """Put an MLflow database of another schema revision into a volume; "-3" is three migrations ago."""
    script = (
        "import sqlite3, pathlib\n"
        "from alembic import command\n"
        "from alembic.script import ScriptDirectory\n"
        "from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine_with_retry\n"
        "from mlflow.store.tracking.dbmodels.initial_models import Base\n"
        "pathlib.Path('/data/mlflow').mkdir()\n"
        "url = 'sqlite:////data/mlflow/mlflow.db'\n"
        "config = _get_alembic_config(url)\n"
        "Base.metadata.create_all(create_sqlalchemy_engine_with_retry(url))\n"
        "revisions = [r.revision for r in ScriptDirectory.from_config(config).walk_revisions()]\n"
        f"wanted = 'head' if {revision!r} == 'head' else revisions[-int({revision!r})]\n"
        "command.upgrade(config, wanted)\n"
        f"with sqlite3.connect('/data/mlflow/mlflow.db') as c: c.execute({then!r} or 'SELECT 1')\n"
    )
    docker("run", "--rm", "--entrypoint", "python", "--volume", f"{volume}:/data", image, "-c", script)
