"""A look of the drift monitor at a store, without a registry."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from monitoring.drift_check import look
from tableloop.settings import Settings
from tableloop.state import shadows
from tableloop.state.database import Store
from tableloop.state.shadows import Value
from tests.waiting import free_port


@pytest.mark.parametrize(("days", "kept"), [(0, 2), (1e-9, 0), (90, 2)])
def test_what_a_version_said_in_the_shadow_is_kept_as_long_as_predictions(
    tmp_path: Path, place: Path | str, days: float, kept: int
) -> None:
    settings = Settings(
        state_dir=tmp_path,
        database_url=SecretStr(place if isinstance(place, str) else ""),
        mlflow_tracking_uri=f"http://127.0.0.1:{free_port()}",
        log_retention_days=days,
    )
    store = Store.of(settings)
    shadow = shadows.begin(store, settings.model_name, "2", "run")
    shadows.add_values(store, shadow, [Value(number, 2.0, 1.0, 3.0) for number in (1, 2)], 2)
    shadows.end(store, settings.model_name, "rejected", "worse")
    time.sleep(0.01)
    assert look(settings, "none")["shadow"] is False
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM shadow_values").scalar() == kept
