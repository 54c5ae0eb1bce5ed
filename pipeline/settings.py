"""The environment variables that the pipeline and the service share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=1, le=65535)]


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


class RegistrySettings(BaseSettings):
    """Where the state lies, and how to find the registry and the model in it."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    state_dir: Annotated[Path, AfterValidator(_absolute)] = Field(
        Path("state"), description="Everything that is kept: registry, predictions, logs (`/data` in the container)"
    )
    mlflow_port: Port = Field(5002, description="Port of the MLflow server")
    mlflow_tracking_uri: str = Field(
        "", description="Address of the MLflow server; empty: `http://127.0.0.1:` and `MLFLOW_PORT`"
    )
    # The patterns are MLflow's own rules, told at the start and not at the end of a training.
    model_name: str = Field(
        "HousePriceModel", pattern=r"^[^/:]*[^/:\s][^/:]*$", description="Name of the registered model"
    )
    model_alias: str = Field(
        "Production", pattern=r"^[A-Za-z0-9_-]+$", max_length=255, description="Alias of the version that serves"
    )

    @model_validator(mode="after")
    def _default_tracking_uri(self) -> RegistrySettings:
        if not self.mlflow_tracking_uri:
            self.mlflow_tracking_uri = f"http://127.0.0.1:{self.mlflow_port}"
        return self
