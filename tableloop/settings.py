"""Every setting of the appliance, an environment variable or a line of ``.env``: typed, checked once at the start."""

from __future__ import annotations

import ipaddress
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from tableloop.credentials import basic
from tableloop.host_names import own_host, with_port
from tableloop.schedule import next_time
from tableloop.table import SHIPPED, load_table

OF_NO_PROCESS = {"admin_password", "alert_webhook_url", "alert_smtp_password"}  # what a start writes to files
Port = Annotated[int, Field(ge=1, le=65535)]
LONGEST_INTERVAL = 86_400.0  # seconds


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{error}".rstrip(".") + ": write the path without ~") from None


def _address(value: str) -> str:
    address = ipaddress.ip_address(value)
    if address.is_multicast or value == "255.255.255.255":
        raise ValueError("an address of this machine is needed")
    return str(getattr(address, "ipv4_mapped", None) or address)


def _host(name: str) -> str:
    if name and not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", name):
        raise ValueError("a host name or an address without a port is needed")
    return name


Address = Annotated[str, AfterValidator(_address)]


# MLflow's own rules, told at the start and not at the end of a training.
def _model_name(name: str) -> str:
    if not name:
        return name
    if not name.strip() or re.search("[/:]", name) or name == "." or name.startswith(".."):
        raise ValueError("a name without / and : is needed, which is no path either")
    return name


def _model_alias(alias: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", alias):
        raise ValueError("only letters, digits, - and _ can be in an alias, 255 at most")
    if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ValueError("MLflow keeps this name for itself")
    if alias.lower() == "shadow":
        raise ValueError("that is the alias of the version in the shadow")
    return alias


class RegistrySettings(BaseSettings):
    """Where the state lies, and how to find the registry and the model in it."""

    # Editors on Windows write a mark of its encoding before the first line.
    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8-sig", env_ignore_empty=True, extra="ignore"
    )

    table: Annotated[Path, AfterValidator(_absolute)] = Field(
        Path("data"),
        description="Directory of the table: `table.yaml`, its data in `raw/`, and where it has them its own "
        "`params.yaml`",
    )
    state_dir: Annotated[Path, AfterValidator(_absolute)] = Field(
        Path("state"),
        description="Everything that is kept: registry, predictions, logs (`/data` in the container). With another "
        "`TABLE` it is `state-NAME`, NAME being that of its directory",
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        description="Address of a PostgreSQL database, `postgresql://user:password@host/name`, for the store and the "
        "tables of MLflow; empty: SQLite files in `STATE_DIR`",
    )
    artifacts_uri: str = Field(
        "",
        description="Folder in object storage, `s3://bucket/folder`, for the files of runs and versions, DVC's data, "
        "batches of labels and backups; empty: files in `STATE_DIR`. Login and endpoint are those variables of AWS "
        "that every client of S3 reads",
    )
    dask_scheduler: str = Field(
        "",
        description="Address of a Dask scheduler, `tcp://host:8786`, on whose workers trainings and the scoring of "
        "files run; empty: processes of this machine",
    )
    mlflow_port: Port = Field(5002, description="Port of the MLflow server")
    bind_address: Address = Field(
        "127.0.0.1",
        description="Address of this machine that all servers listen on (`0.0.0.0`, all of them, in the container)",
    )
    mlflow_host: Annotated[str, AfterValidator(_host)] = Field(
        "", description="Where the appliance's own MLflow server is (Compose sets it); empty: at `BIND_ADDRESS`"
    )
    mlflow_tracking_uri: str = Field(
        "",
        description="Address of an MLflow server that hands artifacts through; empty: the appliance's own, at "
        "`MLFLOW_HOST` and `MLFLOW_PORT`",
    )
    mlflow_tracking_username: str = Field("", description="Login at that server, if it wants one")
    mlflow_tracking_password: SecretStr = Field(SecretStr(""), description="Its password")
    model_name: Annotated[str, AfterValidator(_model_name)] = Field(
        "", description="Name of the registered model; empty: the one that `table.yaml` gives it"
    )
    model_alias: Annotated[str, AfterValidator(_model_alias)] = Field(
        "Production", description="Alias of the version that serves"
    )

    signing_key_file: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        None,
        description="File with the key that signs the registered versions; empty: `secrets/signing-key` in "
        "`STATE_DIR`, made at the first start",
    )

    promote: Literal["auto", "ask", "shadow"] = Field(
        "auto",
        description="What becomes of a new version that passes the gate: `auto`, it serves; `ask`, it waits for "
        "`make promote` or `make reject`; `shadow`, it is tried on the requests to come, and labels of these decide",
    )
    shadow_days: float = Field(
        7,
        gt=0,
        le=3650,
        description="With `PROMOTE=shadow`, how many days a version may wait for enough labels; then it is rejected",
    )
    retrain_from_scratch: bool = Field(
        False, description="`on`: train every candidate, also where nothing has changed since it was trained last"
    )

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        if secret := value.get_secret_value():
            try:
                address = urlsplit(secret)
                named = address.hostname and address.path.strip("/") and (address.port or True)
            except ValueError:
                named = False
            if not named or address.scheme != "postgresql" or re.search(r"[\s#]", secret):
                raise ValueError(
                    "an address such as postgresql://user:password@host:5432/name is needed; what is no letter or "
                    "digit in the password is written as in other addresses, a / as %2F"
                )
        return value

    @field_validator("artifacts_uri")
    @classmethod
    def _is_s3(cls, value: str) -> str:
        if value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)*/?", value):
            raise ValueError(
                "a bucket and a folder are needed, such as s3://bucket/folder; the endpoint is in AWS_ENDPOINT_URL"
            )
        return value.rstrip("/")

    @field_validator("dask_scheduler")
    @classmethod
    def _is_a_scheduler(cls, value: str) -> str:
        if value and not re.fullmatch(r"(tcp|tls)://[A-Za-z0-9._-]+:\d+|(tcp|tls)://\[[0-9A-Fa-f:]+\]:\d+", value):
            raise ValueError("an address such as tcp://host:8786 is needed")
        return value

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _is_http(cls, value: str) -> str:
        address = urlsplit(value)
        if value and (address.scheme not in ("http", "https") or not address.hostname or re.search(r"[\s?#]", value)):
            raise ValueError("an address that starts with http:// or https:// is needed, without ?, # and blanks")
        try:
            _ = address.port
        except ValueError:
            raise ValueError("its port is no number from 0 to 65535") from None
        return value.rstrip("/")

    @model_validator(mode="after")
    def _of_the_table(self) -> RegistrySettings:
        if "table" not in self.model_fields_set or self.table.resolve() == SHIPPED:
            self.table = SHIPPED
        elif "state_dir" not in self.model_fields_set:
            self.state_dir = Path(f"state-{self.table.name}").absolute()
        table = load_table(self.table)  # whatever is wrong with it is said at the start
        self.model_name = self.model_name or table.model
        return self

    @model_validator(mode="after")
    def _default_tracking_uri(self) -> RegistrySettings:
        """Fill in the appliance's own address; take the login out of another, which is shown in many places."""
        address = urlsplit(self.mlflow_tracking_uri)
        if not self.mlflow_tracking_uri or f"http://localhost:{self.mlflow_port}" == self.mlflow_tracking_uri:
            self.mlflow_tracking_uri = self.own_tracking_uri
        if address.username is not None:
            self.mlflow_tracking_username = unquote(address.username)
            self.mlflow_tracking_password = SecretStr(unquote(address.password or ""))
            self.mlflow_tracking_uri = without_login(self.mlflow_tracking_uri, "")
        if not self.has_foreign_registry:  # what was meant for another server
            self.mlflow_tracking_username, self.mlflow_tracking_password = "", SecretStr("")
        return self

    @property
    def own_tracking_uri(self) -> str:
        """The address of the MLflow server that the appliance runs itself."""
        return f"http://{with_port(self.mlflow_host or own_host(self.bind_address), self.mlflow_port)}"

    @property
    def has_foreign_registry(self) -> bool:
        """Whether the registry is another server than the one that the appliance runs itself."""
        return self.mlflow_tracking_uri != self.own_tracking_uri

    @property
    def registry(self) -> str:
        """The registry in words, with the setting that names it where there is one."""
        if self.has_foreign_registry:
            return f"MLFLOW_TRACKING_URI={self.mlflow_tracking_uri}: the MLflow server there"
        return f"the MLflow server at {self.mlflow_tracking_uri}"

    @property
    def registry_login(self) -> str:
        """The Authorization header for the registry; empty where the appliance's own is asked, which needs none."""
        if not self.mlflow_tracking_username:
            return ""
        return basic(self.mlflow_tracking_password.get_secret_value(), self.mlflow_tracking_username)


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _plain_names(value: str) -> str:
    for name in filter(None, map(str.strip, value.split(","))):
        if name != "*" and re.search(r"[/:*\s]", name):
            raise ValueError(f"{name!r} is no host name; write it without scheme and port, or * for any name")
    return value


def _password(value: SecretStr) -> SecretStr:
    secret = value.get_secret_value()
    if secret != secret.strip() or not secret.isprintable():
        raise ValueError("blanks at its ends, line ends and control characters cannot be in a password")
    return value


def _prefix(path: str) -> str:
    path = path.strip().rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("a path that begins with / is needed, of letters, digits and ._~-")
    return path


def _public(address: str) -> str:
    """Return an address to open in a browser; a port alone is one of the host that the page is seen under."""
    if re.fullmatch(r"\d{1,5}", address):
        return f"http://localhost:{address}"
    if address and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", address):
        raise ValueError("a port, or an address that starts with http:// or https:// is needed")
    return address.rstrip("/")


PublicAddress = Annotated[str, AfterValidator(_public)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]


class Settings(RegistrySettings):
    """The settings of all processes; the README's table is this class, held equal by a test."""

    api_port: Port = Field(8000, description="Port of the prediction service")
    prometheus_port: Port = Field(9090, description="Port of Prometheus")
    grafana_port: Port = Field(3000, description="Port of Grafana")
    allowed_hosts: Annotated[str, AfterValidator(_plain_names)] = Field(
        "",
        description="More host names that the servers answer under, with commas between them; `*` for any name. "
        "Addresses, `localhost` and names without a dot need no mention",
    )
    tls_cert: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        None,
        description="File with the certificate (PEM, with those between it and its root): the service then speaks "
        "HTTPS. A renewed file is used from the next connection on",
    )
    tls_key: Annotated[Path, AfterValidator(_absolute)] | None = Field(
        None, description="File with the private key of `TLS_CERT`, without a passphrase"
    )
    admin_password: Annotated[SecretStr, AfterValidator(_password)] = Field(
        SecretStr(""),
        description="Password of the user `admin`, who may change what others may only look at; empty: a random one "
        "in `secrets/admin-password` under `STATE_DIR`",
    )
    api_keys: str = Field(
        "",
        description="More keys of programs, `name:scope:hash` with spaces between them, beside those of `make key`; "
        "with them `/predict` needs a key too",
    )
    alert_webhook_url: SecretStr = Field(
        SecretStr(""), description="Address that alerts are posted to; with it or `ALERT_EMAIL_TO`, Alertmanager runs"
    )
    alert_webhook_format: Literal["generic", "slack", "teams"] = Field(
        "generic", description="What that address takes: `generic` (Alertmanager's JSON), `slack` or `teams`"
    )
    alert_email_to: str = Field("", description="Addresses that alerts are mailed to, with commas between them")
    alert_email_from: str = Field("", description="Sender of these mails")
    alert_smtp_host: str = Field("", description="Mail server for them, as `host:port`")
    alert_smtp_user: str = Field("", description="User at the mail server; empty: no login")
    alert_smtp_password: SecretStr = Field(SecretStr(""), description="Password of that user")
    alert_smtp_tls: bool = Field(True, description="`on` or `off`: whether the mail server must speak TLS")
    alertmanager_host: str = Field("", description="Where Alertmanager is; empty: on this machine (Compose sets it)")
    root_path: Annotated[str, AfterValidator(_prefix)] = Field(
        "", description="Path under which a reverse proxy shows the service, such as `/houses`"
    )
    public_url: PublicAddress = Field(
        "",
        description="Address under which others see the service's page, for links; empty: the one on this machine",
    )
    public_mlflow_url: PublicAddress = Field(
        "", description="The same for MLflow, or only the port under which it is published"
    )
    public_prometheus_url: PublicAddress = Field("", description="The same for Prometheus")
    public_grafana_url: PublicAddress = Field("", description="The same for Grafana")
    api_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="How many processes answer at `API_PORT`, for as many cores ([what each "
        "costs](docs/operating.md#more-cores))",
    )
    client_connections: int = Field(
        256,
        ge=1,
        description="How many connections one address may hold at the service; this machine's own has no such limit",
    )
    drain_seconds: float = Field(
        0,
        ge=0,
        le=60,
        description="How long the service that is told to stop goes on answering, while `/ready` says 503 so that a "
        "load balancer turns to the other copies; 0 where there are none",
    )
    model_poll_seconds: float = Field(
        5, gt=0, le=LONGEST_INTERVAL, description="How often the service asks for a new version"
    )
    prediction_log: bool = Field(True, description="`on` or `off`: write every prediction to `predictions.db`")
    log_retention_days: float = Field(
        90,
        ge=0,
        le=100_000,
        description="Predictions without a label are deleted from the log after so many days; 0 keeps all. Labelled "
        "ones are always kept",
    )
    # A check of new predictions takes two seconds of a core; without new ones there is none.
    drift_interval_seconds: float = Field(
        15, gt=0, le=LONGEST_INTERVAL, description="How often the drift monitor looks at the newest predictions"
    )
    # On, because it takes labels that somebody sent on purpose, the gate keeps the better model, and at most one
    # training an hour comes of it.
    retrain_on_drift: bool = Field(
        True,
        description="`on` or `off`: the drift monitor retrains by itself when drift lasts and there are enough new "
        "labels; off, it only says so",
    )
    retrain_every: str = Field(
        "",
        description="Retrains on a schedule too: a period since the last retraining, such as `12h` or `7d`, or a "
        "cron line in UTC, such as `0 3 * * 1` for Mondays at three; empty: not by the clock",
    )
    log_level: LogLevel = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`")
    test_mode: bool = Field(False, description="`1`: the service answers from a tiny dummy model, without MLflow")

    @field_validator("retrain_every")
    @classmethod
    def _is_a_schedule(cls, value: str) -> str:
        if value:
            next_time(value, 0.0)
        return value

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("TLS_CERT and TLS_KEY are needed together")
        return self

    @model_validator(mode="after")
    def _mail_has_a_sender_and_a_server(self) -> Settings:
        if self.alert_email_to and not (self.alert_email_from and self.alert_smtp_host):
            raise ValueError("ALERT_EMAIL_TO needs ALERT_EMAIL_FROM and ALERT_SMTP_HOST")
        return self

    @field_validator("alert_webhook_url")
    @classmethod
    def _webhook_is_http(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"(https?://\S+)?", value.get_secret_value()):
            raise ValueError("an address that starts with http:// or https:// is needed")
        return value

    @field_validator("alert_smtp_host")
    @classmethod
    def _has_a_port(cls, value: str) -> str:
        if value and not re.fullmatch(r".+:\d+", value):
            raise ValueError("a host and its port are needed, such as smtp.example.org:587")
        return value


def load_settings() -> Settings:
    """Return the settings of this process, or end it with a line for each wrong variable."""
    try:
        _check_text(Path(".env"))
        return Settings()
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            field = Settings.model_fields.get(name.lower())
            secret = field is not None and field.annotation is SecretStr
            shown = "…" if secret else repr(without_login(str(problem["input"])))
            text = problem["msg"].removeprefix("Value error, ")
            sys.stderr.write(f"{name}={shown}: {text}\n" if name else f"{text}\n")
    except (OSError, UnicodeError) as error:
        sys.stderr.write(f".env cannot be read ({error}): it has to be a text in UTF-8 that this user may read\n")
    sys.exit(2)


def _check_text(file: Path) -> None:
    if file.is_file() and "\0" in file.read_text("utf-8"):
        raise UnicodeError("there are zero bytes in it")  # UTF-16 without its mark: every line would be ignored


def without_login(address: str, instead: str = "…@") -> str:
    """Return an address without the user and password that may be in it."""
    return re.sub(r"(?<=//)\S*@", instead, address)


def as_environment(settings: RegistrySettings) -> dict[str, str]:
    """Return the settings as environment variables, in the spelling that `Settings` reads back.

    Secrets that a start writes to files are left out: no process has them in its environment.
    """
    values = settings.model_dump(exclude=OF_NO_PROCESS)
    return {name.upper(): _plain(value) for name, value in values.items()}


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return "" if value is None else str(value)
