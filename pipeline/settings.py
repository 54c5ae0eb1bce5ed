"""The environment variables that the pipeline and the service share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=1, le=65535)]


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


# MLflow's own rules, told at the start and not at the end of a training.
def _model_name(name: str) -> str:
    if not name.strip() or re.search("[/:]", name) or name == "." or name.startswith(".."):
        raise ValueError("a name without / and : is needed, which is no path either")
    return name


def _model_alias(alias: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", alias):
        raise ValueError("only letters, digits, - and _ can be in an alias, 255 at most")
    if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ValueError("MLflow keeps this name for itself")
    return alias


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
    model_name: Annotated[str, AfterValidator(_model_name)] = Field(
        "HousePriceModel", description="Name of the registered model"
    )
    model_alias: Annotated[str, AfterValidator(_model_alias)] = Field(
        "Production", description="Alias of the version that serves"
    )

    @model_validator(mode="after")
    def _default_tracking_uri(self) -> RegistrySettings:
        if not self.mlflow_tracking_uri:
            self.mlflow_tracking_uri = self.own_tracking_uri
        return self

    @property
    def own_tracking_uri(self) -> str:
        """The address of the MLflow server that the appliance runs itself."""
        return f"http://127.0.0.1:{self.mlflow_port}"
