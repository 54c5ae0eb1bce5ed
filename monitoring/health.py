"""Ask the services whether they do their work: ``python -m monitoring.health [NAME]`` says which do not.

Only the standard library: the watchdog imports this and stays small. ``http.client`` knows no proxy variables.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tableloop.credentials import NoPasswordError, basic, read_password
from tableloop.host_names import own_host, with_port
from tableloop.state.layout import Layout
from tableloop.tls import connect

TIMEOUT = 3.0  # seconds for one question; a stopped process accepts connections and never answers
LONGEST_LOOK = 90.0  # seconds that the drift monitor may take for one of its rounds
DASK = ("dask-scheduler", "dask-worker")
# What others open in a browser instead of the addresses here.
PUBLIC = {
    "api": "PUBLIC_URL",
    "mlflow": "PUBLIC_MLFLOW_URL",
    "prometheus": "PUBLIC_PROMETHEUS_URL",
    "grafana": "PUBLIC_GRAFANA_URL",
}


class UnwellError(Exception):
    """A service answered wrongly or not at all; the message says how, `status` is what it answered, if it did."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Check:
    """What one question to a service found."""

    up: bool
    detail: str


@dataclass(frozen=True)
class Services:
    """Where the services are: base addresses, and the model that the registry must know."""

    api: str
    mlflow: str
    prometheus: str
    grafana: str
    model_name: str
    model_alias: str
    test_mode: bool
    admin_password: Path
    certificate: Path | None = None  # of the API
    alertmanager: str = ""  # empty when alerts go nowhere
    public: Mapping[str, str] = field(default_factory=dict)  # what others open in a browser instead
    mlflow_login: str = ""  # of another server than the appliance's own

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Services:
        """Read the variables of `tableloop.settings`, every one of which must be there."""
        address = Layout(Path(environment["STATE_DIR"])).alertmanager_address
        host, certificate = own_host(environment["BIND_ADDRESS"]), environment.get("TLS_CERT")
        user, password = (environment.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
        return cls(
            api=f"{'https' if certificate else 'http'}://{with_port(host, environment['API_PORT'])}",
            mlflow=environment["MLFLOW_TRACKING_URI"].rstrip("/"),
            mlflow_login=basic(password, user) if user else "",
            prometheus=f"http://{with_port(host, environment['PROMETHEUS_PORT'])}",
            grafana=f"http://{with_port(host, environment['GRAFANA_PORT'])}",
            model_name=environment["MODEL_NAME"],
            model_alias=environment["MODEL_ALIAS"],
            test_mode=environment["TEST_MODE"] == "on",
            admin_password=Layout(Path(environment["STATE_DIR"])).admin_password,
            certificate=Path(certificate) if certificate else None,
            public={name: environment.get(variable, "") for name, variable in PUBLIC.items()},
            alertmanager=f"http://{address.read_text().strip()}" if address.exists() else "",
        )

    def addresses(self) -> dict[str, str]:
        """Return what to open in a browser, by service."""
        urls = {"api": self.api, "mlflow": self.mlflow, "prometheus": self.prometheus}
        if self.alertmanager:
            urls["alertmanager"] = ""  # its pages are open to change: nobody is sent there
        urls["grafana"] = self.grafana
        shown = {name: url.replace("//127.0.0.1:", "//localhost:") for name, url in urls.items()}
        return shown | {name: url for name, url in self.public.items() if name in shown and url}

    def ask_api(self, path: str, body: Mapping[str, object] | None = None, authorization: str = "") -> Any:
        """Return the service's JSON answer, as `ask` does."""
        return ask(self.api, path, body, authorization, self.certificate)

    def missing(self) -> dict[str, str]:
        """Return the services that are not run here, each with the reason and the remedy."""
        absent = {
            name: f"no {name} on PATH or in .runtime: install it, or run `make setup` where it can be fetched"
            for name in ("prometheus", "alertmanager", "grafana")
            if shutil.which(name) is None and (self.alertmanager or name != "alertmanager")
        }
        return absent | ({"mlflow": "not used in TEST_MODE"} if self.test_mode else {})


def check_all(services: Services, names: Sequence[str] = ()) -> dict[str, Check]:
    """Ask the services, by default every one that is run here, all at once; it takes a few seconds at most."""
    questions: dict[str, Callable[[Services], str]] = {
        "api": _check_api,
        "mlflow": _check_mlflow,
        "prometheus": _check_prometheus,
        "grafana": _check_grafana,
        "alertmanager": _check_alertmanager,
    }
    here = services.addresses().keys() - services.missing().keys()
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = {
            name: pool.submit(_answer, question, services)
            for name, question in questions.items()
            if name in here and (name in names or not names)
        }
        return {name: answer.result() for name, answer in answers.items()}


def check_drift_monitor(heartbeat: Path, interval: float) -> Check:
    """Return whether the drift monitor, which has no address, has left its heartbeat when it was due."""
    try:
        age = time.time() - heartbeat.stat().st_mtime
    except OSError as error:
        return Check(up=False, detail=f"no heartbeat yet ({error.strerror})")
    return Check(up=age <= interval + LONGEST_LOOK, detail=f"its last look was {age:.0f} s ago")


def check_scheduler(address: str) -> Check:
    """Return whether Dask's scheduler greets whoever connects; a worker that has lost it ends by itself."""
    where = urlsplit(address)
    try:
        with socket.create_connection((where.hostname or "", where.port or 0), TIMEOUT) as connection:
            connection.settimeout(TIMEOUT)
            greets = bool(connection.recv(1))
    except OSError as error:
        return Check(up=False, detail=f"{address or 'DASK_SCHEDULER'}: {error.strerror or error}")
    return Check(up=greets, detail=f"{address} {'greets' if greets else 'does not greet'}")


def given_up(layout: Layout) -> dict[str, str]:
    """Return the helpers that the watchdog has given up, each with the reason."""
    try:
        found: dict[str, str] = json.loads(layout.given_up.read_text())
    except (OSError, ValueError):
        return {}
    return found


def check_whole(services: Services, features: Mapping[str, float], without: Collection[str] = ()) -> Check:
    """Ask for a real prediction, for the model's alias, and Prometheus, unless it is ``without``, for the API."""
    return _answer(_predict_and_be_seen, services, features, without)


def ask(
    base: str,
    path: str,
    body: Mapping[str, object] | None = None,
    authorization: str = "",
    certificate: Path | None = None,
) -> Any:
    """Return the JSON answer of ``GET base + path``, or of ``POST`` when there is a body.

    With a ``certificate`` the server must have just that one.

    Raises
    ------
    UnwellError
        When the answer is no 200, no JSON, or does not come in `TIMEOUT` seconds.
    """
    address = urlsplit(base)
    method, text = ("GET", None) if body is None else ("POST", json.dumps(body))
    try:
        with closing(_connection(address.scheme, address.hostname or "", address.port, certificate)) as connection:
            headers = {"Content-Type": "application/json"} if text else {}
            headers |= {"Authorization": authorization} if authorization else {}
            connection.request(method, address.path + path, text, headers)
            response = connection.getresponse()
            answer = response.read()
        if response.status != http.HTTPStatus.OK:
            problem = f"{path.partition('?')[0]} answered {response.status}{_detail(answer)}"
            raise UnwellError(problem, response.status)
        return json.loads(answer)
    except TimeoutError:
        raise UnwellError(f"no answer in {TIMEOUT:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise UnwellError(getattr(error, "strerror", None) or repr(error)) from None
    except ValueError:
        raise UnwellError(f"{path.partition('?')[0]} answered no JSON") from None


def _detail(answer: bytes) -> str:
    """Return what the service says in a refusal, to be put behind its status."""
    try:
        detail = json.loads(answer)["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {detail}" if isinstance(detail, str) else ""


def _connection(scheme: str, host: str, port: int | None, certificate: Path | None) -> http.client.HTTPConnection:
    if scheme == "https" and certificate is None:
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT)
    return connect(host, port, TIMEOUT, certificate)


def _answer(question: Callable[..., str], *arguments: object) -> Check:
    try:
        return Check(up=True, detail=question(*arguments))
    except UnwellError as problem:
        return Check(up=False, detail=str(problem))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        return Check(up=False, detail=f"an answer of another shape: {error!r}")


def _check_api(services: Services) -> str:
    answer = services.ask_api("/ready")
    several = f", {count} processes" if (count := answer.get("processes", 1)) > 1 else ""
    return f"model version {answer['model_version']}, {answer['source']}{several}"


def _check_mlflow(services: Services) -> str:
    try:
        return f"{services.model_name}@{services.model_alias} is version {_alias(services)}"
    except UnwellError as problem:
        # Before the end of the first training the registry is well and has no model (404) or no alias (400).
        if problem.status in {http.HTTPStatus.NOT_FOUND, http.HTTPStatus.BAD_REQUEST}:
            return f"no {services.model_name}@{services.model_alias} yet"
        raise


def _alias(services: Services) -> str:
    query = urlencode({"name": services.model_name, "alias": services.model_alias}, quote_via=quote)
    path = f"/api/2.0/mlflow/registered-models/alias?{query}"
    answer = ask(services.mlflow, path, authorization=services.mlflow_login)
    return str(answer["model_version"]["version"])


def _check_prometheus(services: Services) -> str:
    if _scraped(services, "prometheus") != 1:
        raise UnwellError("does not scrape itself")
    return "answers queries"


def _check_alertmanager(services: Services) -> str:
    return f"version {ask(services.alertmanager, '/api/v2/status')['versionInfo']['version']}"


def _check_grafana(services: Services) -> str:
    answer = ask(services.grafana, "/api/health")
    if answer["database"] != "ok":
        raise UnwellError(f"database: {answer['database']}")
    return f"version {answer.get('version')}"


def _predict_and_be_seen(services: Services, features: Mapping[str, float], without: Collection[str]) -> str:
    try:
        authorization = basic(read_password(services.admin_password))
    except NoPasswordError as error:
        raise UnwellError(str(error)) from None
    version = services.ask_api("/predict", features, authorization)["model_version"]
    if not services.test_mode:
        _alias(services)
    if "prometheus" not in {*services.missing(), *without} and _scraped(services, "api") != 1:
        raise UnwellError("Prometheus has not scraped the API")
    return f"model version {version} predicts"


def _scraped(services: Services, job: str) -> float | None:
    query = urlencode({"query": f'up{{job="{job}"}}'})
    result = ask(services.prometheus, f"/api/v1/query?{query}")["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def main() -> None:
    """Print a line for each service that is ill, and exit 1 if there is one; all are asked unless one is named."""
    from tableloop.settings import as_environment, load_settings  # noqa: PLC0415 - the watchdog does without pydantic

    settings = load_settings()
    names = ["api" if name == "front" else name for name in sys.argv[1:]]  # it answers as a copy behind it does
    if names == ["drift-monitor"]:
        heartbeat = Layout(settings.state_dir).heartbeat
        checks = {"drift-monitor": check_drift_monitor(heartbeat, settings.drift_interval_seconds)}
    elif len(names) == 1 and names[0] in DASK:
        checks = {names[0]: check_scheduler(settings.dask_scheduler)}
    else:
        checks = check_all(Services.from_environment(as_environment(settings)), names)
    ill = {name: check.detail for name, check in checks.items() if not check.up}
    if not names:
        ill |= given_up(Layout(settings.state_dir))
    sys.stdout.write("".join(f"{name}: {detail}\n" for name, detail in ill.items()) or "healthy\n")
    sys.exit(1 if ill else 0)


if __name__ == "__main__":
    main()
