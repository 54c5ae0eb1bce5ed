"""What the default start does not pay for: it imports none of the packages of a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER = {"psycopg", "boto3", "botocore", "s3fs", "aiobotocore", "fsspec", "dask", "distributed", "lightgbm"}
ASKING = "Store(Path('/nowhere/predictions.db')).retrainings(1)"
SERVING = (
    "import os; from appliance.mlflow_server import server_environment; os.environ.update(server_environment());"
    "from mlflow.server.fastapi_app import app"
)


@pytest.mark.parametrize(
    ("program", "allowed"),
    [
        ("import app.main", set()),
        ("import appliance.prepare, appliance.status, appliance.backup, appliance.restore", set()),
        ("import monitoring.drift_monitor, monitoring.drift_check, monitoring.shadow_scoring", set()),
        ("import pipeline.retrain, pipeline.revoke, pipeline.export, pipeline.preprocess", set()),
        # skops imports every module of scikit-learn, one of which tries what array libraries there are.
        ("import pipeline.train, pipeline.register, pipeline.rollback", {"dask"}),
        (SERVING, set()),
    ],
    ids=["service", "appliance", "drift monitor", "retraining", "stages", "MLflow"],
)
def test_the_default_start_imports_nothing_of_a_cluster(program: str, allowed: set[str], tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}\n"
        f"from pathlib import Path; from tableloop.state.database import Store; {ASKING}\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert CLUSTER & set(ended.stdout.split()) <= allowed
