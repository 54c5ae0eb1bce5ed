"""The commands of the Makefile, inside the running container and in a second one."""

from __future__ import annotations

import json
from collections.abc import Callable

from tableloop.table import load_table
from tests.image.conftest import FirstStart
from tests.image.docker import HARDENED, Container, docker

FEATURES = load_table().features

ROWS = 600  # more than the drift check needs


def test_status_names_the_services_and_the_version(appliance: Container) -> None:
    said = appliance.exec("make", "status")
    for part in ("api", "mlflow", "prometheus", "drift-monitor", "version 1"):
        assert part in said
    appliance.kill_program("prometheus", "STOP")
    ill = docker("exec", appliance.name, "make", "status", check=False)
    appliance.kill_program("prometheus", "CONT")
    assert ill.returncode != 0
    assert "prometheus" in ill.stdout


def test_drift_is_found_in_rows_that_are_all_the_same(appliance: Container) -> None:
    assert docker("exec", appliance.name, "make", "drift", check=False).returncode != 0
    rows = [{column.name: column.example for column in FEATURES}] * ROWS
    script = (
        "import sys, urllib.request as u\n"
        "url, kind = 'http://127.0.0.1:8000/predict/batch', {'content-type': 'application/json'}\n"
        "print(len(u.urlopen(u.Request(url, sys.argv[1].encode(), kind)).read()))\n"
    )
    appliance.exec("python", "-c", script, json.dumps(rows))
    drift = docker("exec", appliance.name, "make", "drift", check=False)
    assert drift.returncode != 0
    assert "drift" in drift.stdout
    assert "MedInc" in drift.stdout


def test_retrain_works_inside_a_running_container(appliance: Container) -> None:
    assert "Version 1 serves" in appliance.exec("make", "retrain")


def test_retrain_works_in_a_container_of_its_own_on_the_volume(
    image: str, volumes: Callable[..., str], first_start: FirstStart
) -> None:
    volume = volumes(first_start.volume)
    mount = ("--volume", f"{volume}:/data")
    done = docker("run", "--rm", *HARDENED, *mount, image, "make", "retrain")
    assert "Version 1 serves" in done.stdout


def test_retrain_beside_a_running_container_says_where_to_do_it(
    run: Callable[..., Container], image: str, volumes: Callable[..., str]
) -> None:
    mount = ("--volume", f"{volumes()}:/data")
    run([*HARDENED, *mount]).wait_log("listening", 60)
    beside = docker("run", "--rm", *HARDENED, *mount, image, "make", "retrain", check=False)
    assert beside.returncode != 0
    assert "docker exec" in beside.stdout


def test_a_test_alert_arrives(
    run: Callable[..., Container], volumes: Callable[..., str], first_start: FirstStart
) -> None:
    webhook = ("--env", "ALERT_WEBHOOK_URL=http://127.0.0.1:18080/a-secret")
    container = run([*HARDENED, *webhook, "--volume", f"{volumes(first_start.volume)}:/data"])
    container.wait_ready(60)
    receiver = (
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class Receiver(BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        open('/tmp/alert', 'ab').write(self.rfile.read(int(self.headers['content-length'])))\n"
        "        self.send_response(200); self.end_headers()\n"
        "HTTPServer(('127.0.0.1', 18080), Receiver).serve_forever()\n"
    )
    docker("exec", "--detach", container.name, "python", "-c", receiver)
    container.exec("make", "test-alert")
    container.wait_for("grep -q 'A test message' /tmp/alert", 15)
    assert "a-secret" not in container.logs()
    assert "a-secret" not in container.exec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
