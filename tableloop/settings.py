"""Every environment variable of the appliance: typed, checked once at the start.

``python -m tableloop.settings`` prints them all, defaults filled in, as shell assignments for ``entrypoint.sh``.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator
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


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _address(value: str) -> str:
    ipaddress.ip_address(value)
    return value


Address = Annotated[str, AfterValidator(_address)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]


class Settings(RegistrySettings):
    """The settings of all processes; the README's table is this class, held equal by a test."""

    api_port: Port = Field(8000, description="Port of the prediction service")
    prometheus_port: Port = Field(9090, description="Port of Prometheus")
    grafana_port: Port = Field(3000, description="Port of Grafana")
    bind_address: Address = Field(
        "127.0.0.1", description="Address that all servers listen on (`0.0.0.0` in the container)"
    )
    allowed_hosts: str = Field(
        "",
        description="More host names that MLflow answers under, with commas between them; `*` for any name. "
        "Addresses, `localhost` and names of a private network need no mention",
    )
    model_poll_seconds: float = Field(5, gt=0, description="How often the service asks for a new version")
    prediction_log: bool = Field(True, description="`on` or `off`: write every prediction to `predictions.db`")
    log_retention_days: float = Field(
        90,
        ge=0,
        allow_inf_nan=False,
        description="Predictions without a label are deleted from the log after so many days; 0 keeps all. Labelled "
        "ones are always kept",
    )
    # A check of new predictions takes two seconds of a core; without new ones there is none.
    drift_interval_seconds: float = Field(
        15, gt=0, allow_inf_nan=False, description="How often the drift monitor looks at the newest predictions"
    )
    # On, because it takes labels that somebody sent on purpose, the gate keeps the better model, and at most one
    # training an hour comes of it.
    retrain_on_drift: bool = Field(
        True,
        description="`on` or `off`: the drift monitor retrains by itself when drift lasts and there are enough new "
        "labels; off, it only says so",
    )
    log_level: LogLevel = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`")
    test_mode: bool = Field(False, description="`1`: the service answers from a tiny dummy model, without MLflow")

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not re.fullmatch(r"(https?://[^/\s]+(/\S*)?)?", value):
            raise ValueError("an address that starts with http:// or https:// is needed")
        return value


def load_settings() -> Settings:
    """Return the settings of this process, or end it with a line for each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            sys.stderr.write(f"{name}={problem['input']!r}: {problem['msg']}\n")
        sys.exit(2)


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the settings as environment variables, in the spelling that `Settings` reads back."""
    return {name.upper(): _plain(value) for name, value in settings.model_dump(mode="json").items()}


def _plain(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def main() -> None:
    """Print the settings as lines that a POSIX shell can evaluate."""
    for name, value in as_environment(load_settings()).items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    main()
