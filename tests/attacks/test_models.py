"""Whoever can write to the registry tries to run code in the service, or to have a model of their own serve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

from pipeline.trust import NotTrustedError, trust
from tableloop.model.conformal import ConformalRegressor
from tableloop.model.trusted_types import TRUSTED_TYPES
from tableloop.settings import RegistrySettings
from tests.integration.service.conftest import (
    ALIAS,
    EXAMPLE,
    FEATURE_NAMES,
    NAME,
    ROOT,
    Registry,
    Service,
    StartService,
    training_rows,
)
from tests.waiting import wait_for


@pytest.fixture
def service(registry: Registry, start_service: StartService, tmp_path: Path) -> Iterator[Service]:
    """A service of version 1, which must still serve at the end, with nothing run that was sent."""
    mark = tmp_path / "mark"
    registry.promote("1")
    service = start_service(MLFLOW_TRACKING_URI=registry.uri, MARK=mark)
    assert service.get("/ready").json()["model_version"] == "1"
    yield service
    assert service.predict().json()["model_version"] == "1"
    assert not mark.exists()
    registry.promote("1")


def refusal(service: Service, version: str) -> str:
    """Return what `/ready` says once the version is refused."""
    start = f"version {version} cannot be used"
    return str(
        wait_for("the refusal", lambda: (said := service.get("/ready").json()["detail"]).startswith(start) and said)
    )


class Marks(LinearRegression):  # type: ignore[misc]
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("echo a pickle ran >> $MARK",)


def register(model: object, **options: object) -> str:
    """Register a model as anybody would, and return its version."""
    X, y = training_rows()
    frame = pd.DataFrame(X[:20], columns=list(FEATURE_NAMES))
    with mlflow.start_run():
        signature = infer_signature(frame, y[:20])
        settings: dict[str, object] = {"pip_requirements": ["scikit-learn"], "signature": signature} | options
        info = mlflow.sklearn.log_model(model, name="mine", **settings)
    return str(mlflow.register_model(info.model_uri, NAME).version)


def own_model() -> ConformalRegressor:
    X, y = training_rows()
    model = ConformalRegressor(LinearRegression(), list(FEATURE_NAMES))
    return model.fit(X[:5000], y[:5000]).calibrate(X[5000:6000], y[5000:6000])


def own_metadata() -> dict[str, object]:
    return {
        "family": "mine",
        "interval_coverage": 0.9,
        "training_range": {name: [-200, 40_000] for name in FEATURE_NAMES},
    }


def in_skops(**options: object) -> dict[str, object]:
    return {"serialization_format": "skops", "skops_trusted_types": list(TRUSTED_TYPES)} | options


def settings_of(service: Service, registry: Registry) -> RegistrySettings:
    return RegistrySettings(state_dir=service.state_dir, mlflow_tracking_uri=registry.uri)


def test_a_pickle_under_the_alias_is_not_loaded(registry: Registry, service: Service) -> None:
    version = register(Marks(), serialization_format="pickle")
    registry.promote(version)
    assert "it is not signed" in refusal(service, version)
    with pytest.raises(NotTrustedError, match=r"it has no model\.skops"):
        trust(registry.client, settings_of(service, registry), version)


def test_code_that_comes_with_a_version_is_not_imported(registry: Registry, service: Service, tmp_path: Path) -> None:
    package = tmp_path / "tableloop"
    package.mkdir()
    (package / "__init__.py").write_text("import os; os.system('echo code ran >> $MARK')\n")
    version = register(own_model(), **in_skops(code_paths=[str(package)], metadata=own_metadata()))
    registry.promote(version)
    assert "it is not signed" in refusal(service, version)
    with pytest.raises(NotTrustedError, match="it brings code"):
        trust(registry.client, settings_of(service, registry), version)


def test_a_file_that_is_replaced_after_the_registration_is_noticed(registry: Registry, service: Service) -> None:
    version = registry.publish(offset=1.0)
    directory = registry.artifact_directory(version)
    path = directory.relative_to(registry.directory / "artifacts").as_posix()
    address = f"{registry.uri}/api/2.0/mlflow-artifacts/artifacts/{path}"
    assert httpx.put(f"{address}/model.skops", content=b"another model").status_code == 200
    registry.promote(version)
    assert "model.skops was changed" in refusal(service, version)


def test_the_files_of_a_signed_version_under_another_run_do_not_serve(registry: Registry, service: Service) -> None:
    source = registry.client.get_model_version(NAME, "1").source
    run = registry.client.create_run("0").info.run_id
    version = str(
        registry.client.create_model_version(NAME, source, run, model_id=source.removeprefix("models:/")).version
    )
    registry.promote(version)
    assert "signed for something else" in refusal(service, version)


def test_metadata_that_make_no_sense_are_refused_and_metrics_go_on(registry: Registry, service: Service) -> None:
    X, _ = training_rows()
    version = registry.publish_model(own_model(), X[:1000], X[1000:2000], {"family": "mine", "scores": None})
    registry.promote(version)
    assert "its metadata cannot be used: scores: Input should be a valid dictionary" in refusal(service, version)
    assert service.get("/metrics").status_code == 200


def test_a_version_of_ones_own_serves_once_it_is_trusted(
    registry: Registry, start_service: StartService, tmp_path: Path
) -> None:
    version = register(own_model(), **in_skops(metadata=own_metadata()))
    registry.promote(version)
    service = start_service(ready=False, MLFLOW_TRACKING_URI=registry.uri)
    try:
        assert "it is not signed" in refusal(service, version)
        environment = os.environ | {"STATE_DIR": str(service.state_dir), "MLFLOW_TRACKING_URI": registry.uri}
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.trust", version],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"version {version} is signed" in done.stdout
        second = start_service(service.state_dir, ready=False, MLFLOW_TRACKING_URI=registry.uri)
        wait_for("the trusted version", lambda: second.get("/ready").json()["model_version"] == version)
        values = np.array([second.predict().json()["predicted_median_house_value"]])
        example = pd.DataFrame([[*EXAMPLE.values()]], columns=list(FEATURE_NAMES))
        np.testing.assert_allclose(values, own_model().predict(example), atol=1e-6)
    finally:
        registry.promote("1")
    assert registry.client.get_model_version_by_alias(NAME, ALIAS).version == "1"
