"""What goes wrong in a container: a service ill, a crash loop, a failed training, a hard stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.image.conftest import ROOT, FirstStart
from tests.image.docker import HARDENED, PROGRAMS, Container, docker

PORTS = {"api": 8000, "mlflow": 5002, "prometheus": 9090}


def unhealthy_within(container: Container, seconds: float) -> str:
    """Return what Docker's own health check said when it turned unhealthy."""
    deadline = time.monotonic() + seconds
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


def test_each_service_killed_once_is_back(trained: Container) -> None:
    for program in PROGRAMS:
        before = trained.pids(program)
        trained.kill_program(program)
        healthy_within(trained, 15)
        assert trained.pids(program) != before


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_service_that_does_not_answer_makes_the_container_unhealthy(trained: Container, program: str) -> None:
    _until_docker_says_healthy(trained)
    trained.kill_program(program, "STOP")
    assert program in unhealthy_within(trained, 30)
    trained.kill_program(program, "CONT")
    healthy_within(trained, 30)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_service_that_answers_500_makes_the_container_unhealthy(trained: Container, program: str) -> None:
    _until_docker_says_healthy(trained)
    trained.exec("supervisorctl", "-c", "/app/supervisord.conf", "stop", f"appliance:{program}", check=False)
    ill = (
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class Ill(BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_error(500)\n"
        "    do_POST = do_GET\n"
        f"HTTPServer(('0.0.0.0', {PORTS[program]}), Ill).serve_forever()\n"
    )
    docker("exec", "--detach", trained.name, "python", "-c", ill)
    said = unhealthy_within(trained, 30)
    assert program in said
    assert "500" in said


def test_a_crash_loop_after_the_start_ends_the_container(
    run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart, tmp_path: Path
) -> None:
    broken = tmp_path / "main.py"
    broken.write_text("import time\ntime.sleep(3)\nraise SystemExit('the third second is the last')\n")
    container = _with_file(run, volumes(first_start.volume), broken, "app/main.py")
    assert container.wait_exit(60) == 1
    assert container.logs().strip().splitlines()[-1].startswith("api ended")


def test_a_program_that_cannot_start_ends_the_container(
    run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart, tmp_path: Path
) -> None:
    broken = tmp_path / "main.py"
    broken.write_text("raise SystemExit('no such thing')\n")
    container = _with_file(run, volumes(first_start.volume), broken, "app/main.py")
    assert container.wait_exit(60) == 1
    last = container.logs().strip().splitlines()[-1]
    assert "api" in last
    assert "no such thing" in last


@pytest.mark.parametrize(
    "case",
    [
        ("preprocess", "data/raw/california_housing.csv", "8.3252,41.0", "8.3252,-41.0"),
        ("train", "params.yaml", "max_depth: 14", "max_depth: deep"),
    ],
)
def test_a_training_that_fails_ends_the_container_and_names_the_stage(
    run: Callable[..., Container], volumes: Callable[..., str], tmp_path: Path, case: tuple[str, str, str, str]
) -> None:
    stage, file, old, new = case
    text = (ROOT / file).read_text()
    assert old in text
    broken = tmp_path / Path(file).name
    broken.write_text(text.replace(old, new, 1))
    container = _with_file(run, volumes(), broken, file)
    assert container.wait_exit(90) == 1
    assert f"training failed in stage {stage}" in container.logs().strip().splitlines()[-1]


def test_docker_stop_in_the_middle_of_the_first_training_is_quick_and_clean(
    run: Callable[..., Container], volumes: Callable[..., str]
) -> None:
    container = run([*HARDENED, "--volume", f"{volumes()}:/data"])
    container.wait_log("Running stage 'train'", 60)
    _stops_cleanly(container)


def test_docker_stop_is_quick_and_clean(trained: Container) -> None:
    _stops_cleanly(trained)


def test_killed_in_the_middle_of_a_retraining_the_former_champion_serves_and_the_next_retraining_works(
    trained: Container, first_start: FirstStart
) -> None:
    trained.exec("sh", "-c", "rm -rf /data/workspace/.dvc/cache /data/workspace/models")
    docker("exec", "--detach", trained.name, "make", "retrain")
    deadline = time.monotonic() + 30
    while "pipeline.train" not in str(trained.processes()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    docker("kill", trained.name)
    docker("start", trained.name)
    deadline = time.monotonic() + 60
    while trained.logs().count("ready in") < 2:  # the log goes on where it ended
        assert time.monotonic() < deadline, trained.logs()[-2000:]
        time.sleep(0.3)
    assert trained.exec("cat", "/data/champion/current.json") == first_start.model
    assert "Version 1 serves" in trained.exec("make", "retrain")


def test_twenty_kills_leave_no_zombie_and_no_orphan(trained: Container) -> None:
    supervised = {"mlflow", "api", "prometheus"}
    for cycle in range(20):
        program = sorted(supervised)[cycle % 3]
        deadline = time.monotonic() + 15
        while not (before := trained.pids(program)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        trained.kill_program(program)
        while not (set(trained.pids(program)) - set(before)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    healthy_within(trained, 30)
    table = trained.processes()
    assert [command for _, state, command in table.values() if state == "Z"] == []
    supervisord = next(pid for pid, (_, _, command) in table.items() if "supervisord" in command)
    orphans = {pid: row for pid, row in table.items() if row[0] in {"0", "1"} and pid not in {"1", supervisord}}
    assert orphans == {}
    for program in supervised:
        assert len(trained.pids(program)) == 1


def test_a_volume_of_an_older_mlflow_is_backed_up_and_migrated(
    image: str, run: Callable[..., Container], volumes: Callable[..., str]
) -> None:
    volume = volumes()
    _database_of(image, volume, "-3")
    container = run([*HARDENED, "--volume", f"{volume}:/data"])
    container.wait_ready(120)
    told = [line for line in container.logs().splitlines() if "migrated" in line]
    assert len(told) == 1
    assert "backup" in told[0]
    assert len(container.exec("sh", "-c", "ls /data/mlflow/mlflow-*.db").splitlines()) == 1


def test_a_volume_of_a_newer_mlflow_is_refused_in_one_line(
    image: str, run: Callable[..., Container], volumes: Callable[..., str]
) -> None:
    volume = volumes()
    _database_of(image, volume, "head", "UPDATE alembic_version SET version_num = 'f00df00df00d'")
    container = run([*HARDENED, "--volume", f"{volume}:/data"])
    assert container.wait_exit(20) == 1
    assert len(container.logs().strip().splitlines()) == 1
    assert "f00df00df00d" in container.logs()
    assert "newer" in container.logs()


def test_status_and_retrain_work_inside(trained: Container) -> None:
    assert "model version 1" in trained.exec("make", "status")
    assert "unchanged" in trained.exec("make", "retrain")
    trained.kill_program("prometheus", "STOP")
    assert docker("exec", trained.name, "make", "status", check=False).returncode != 0
    trained.kill_program("prometheus", "CONT")
    assert json.loads(trained.exec("cat", "/data/workspace/reports/registration.json"))["serving_version"] == "1"


def _with_file(run: Callable[..., Container], volume: str, file: Path, path: str) -> Container:
    file.chmod(0o644)
    file.parent.chmod(0o755)
    return run([*HARDENED, "--volume", f"{volume}:/data", "--volume", f"{file}:/app/{path}:ro"])


def _stops_cleanly(container: Container) -> None:
    start = time.monotonic()
    docker("stop", container.name)
    assert time.monotonic() - start < 8
    assert container.state()["ExitCode"] == 0


def _until_docker_says_healthy(container: Container) -> None:
    deadline = time.monotonic() + 30
    while container.state()["Health"]["Status"] != "healthy":
        assert time.monotonic() < deadline, container.state()["Health"]
        time.sleep(0.5)


def _database_of(image: str, volume: str, revision: str, then: str = "") -> None:
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
