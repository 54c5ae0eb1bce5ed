"""Every environment variable of the appliance: typed, checked once at the start.

``python -m app.settings`` prints them all, defaults filled in, as shell assignments for ``entrypoint.sh``.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import sys
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator

from pipeline.settings import Port, RegistrySettings


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
