"""A whole appliance with its store and MLflow's tables in PostgreSQL: trained, asked, backed up, started again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

from tableloop.state.layout import Layout
from tableloop.state.locks import retraining_lock
from tableloop.table import load_table
from tests.integration.conftest import Appliance
from tests.postgres import PASSWORD, Postgres


def test_a_whole_appliance_keeps_everything_but_files_in_the_database(
    new_appliance: Callable[..., Appliance], postgres: Postgres, tmp_path: Path
) -> None:
    url = postgres.new_database()
    appliance = new_appliance(DATABASE_URL=url)
    appliance.start()
    api = f"http://127.0.0.1:{appliance.ports['API_PORT']}"
    made = httpx.post(f"{api}/predict", json=load_table().example).json()
    assert made["model_version"] == "1"
    assert not (appliance.state / "predictions.db").exists()
    assert not (appliance.state / "mlflow" / "mlflow.db").exists()
    status = appliance.make("status").stdout
    assert "version 1" in status
    assert "the first start" in status
    assert "nothing was predicted" not in appliance.make("drift").stdout
    appliance.extra["FILE"] = f"{tmp_path}/out.csv"
    exported = appliance.make("export")
    del appliance.extra["FILE"]
    assert exported.returncode == 0, exported.stderr
    assert made["prediction_id"] in (tmp_path / "out.csv").read_text()
    backup = appliance.make("backup")
    assert "save that with pg_dump" in backup.stdout
    with retraining_lock(Layout(tmp_path), database_url=url):  # another machine retrains
        busy = appliance.make("retrain")
        assert "runs already" in busy.stdout + busy.stderr
    for process in appliance.processes():
        assert PASSWORD[:6] not in " ".join(process.cmdline())
        if process.name() in ("prometheus", "grafana", "alertmanager"):
            assert "DATABASE_URL" not in process.environ()
    logs = "".join(file.read_text() for file in appliance.state.glob("logs/*.log"))
    assert PASSWORD[:6] not in logs + appliance.console() + status
    assert appliance.make("down").returncode == 0
    appliance.start()  # nothing is trained again
    assert httpx.get(f"{api}/model").json()["version"] == "1"
    assert appliance.make("down").returncode == 0
