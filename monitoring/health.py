"""Ask the services whether they do their work: ``python -m monitoring.health [NAME]`` says which do not.

Only the standard library: the watchdog imports this and stays small. ``http.client`` knows no proxy variables.
"""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tableloop.state.layout import Layout

TIMEOUT = 3.0  # seconds for one question; a stopped process accepts connections and never answers
LONGEST_LOOK = 90.0  # seconds that the drift monitor may take for one of its rounds


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

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Services:
        """Read the variables of `tableloop.settings`, every one of which must be there."""
        bind = environment["BIND_ADDRESS"]
        host = "127.0.0.1" if bind in {"0.0.0.0", "::"} else f"[{bind}]" if ":" in bind else bind  # noqa: S104
        return cls(
            api=f"http://{host}:{environment['API_PORT']}",
            mlflow=environment["MLFLOW_TRACKING_URI"].rstrip("/"),
            prometheus=f"http://{host}:{environment['PROMETHEUS_PORT']}",
            grafana=f"http://{host}:{environment['GRAFANA_PORT']}",
            model_name=environment["MODEL_NAME"],
            model_alias=environment["MODEL_ALIAS"],
            test_mode=environment["TEST_MODE"] == "on",
        )

    def addresses(self) -> dict[str, str]:
        """Return what to open in a browser, by service."""
        urls = {"api": self.api, "mlflow": self.mlflow, "prometheus": self.prometheus, "grafana": self.grafana}
        return {name: url.replace("//127.0.0.1:", "//localhost:") for name, url in urls.items()}

    def missing(self) -> dict[str, str]:
        """Return the services that are not run here, each with the reason and the remedy."""
        absent = {
            name: f"no {name} on PATH or in .runtime: install it, or run `make setup` where it can be fetched"
            for name in ("prometheus", "grafana")
            if shutil.which(name) is None
        }
        return absent | ({"mlflow": "not used in TEST_MODE"} if self.test_mode else {})


def check_all(services: Services, names: Sequence[str] = ()) -> dict[str, Check]:
    """Ask the services, by default every one that is run here, all at once; it takes a few seconds at most."""
    questions: dict[str, Callable[[Services], str]] = {
        "api": _check_api,
        "mlflow": _check_mlflow,
        "prometheus": _check_prometheus,
        "grafana": _check_grafana,
    }
    absent = services.missing()
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = {
            name: pool.submit(_answer, question, services)
            for name, question in questions.items()
            if name not in absent and (name in names or not names)
        }
        return {name: answer.result() for name, answer in answers.items()}


def check_drift_monitor(heartbeat: Path, interval: float) -> Check:
    """Return whether the drift monitor, which has no address, has left its heartbeat when it was due."""
    try:
        age = time.time() - heartbeat.stat().st_mtime
    except OSError as error:
        return Check(up=False, detail=f"no heartbeat yet ({error.strerror})")
    return Check(up=age <= interval + LONGEST_LOOK, detail=f"its last look was {age:.0f} s ago")


def check_whole(services: Services, features: Mapping[str, float]) -> Check:
    """Ask for a real prediction, for the model's alias, and Prometheus whether it sees the API."""
    return _answer(_predict_and_be_seen, services, features)


def ask(base: str, path: str, body: Mapping[str, object] | None = None) -> Any:
    """Return the JSON answer of ``GET base + path``, or of ``POST`` when there is a body.

    Raises
    ------
    UnwellError
        When the answer is no 200, no JSON, or does not come in `TIMEOUT` seconds.
    """
    address = urlsplit(base)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    method, text = ("GET", None) if body is None else ("POST", json.dumps(body))
    try:
        with closing(kind(address.hostname or "", address.port, timeout=TIMEOUT)) as connection:
            connection.request(
                method, address.path + path, text, {"Content-Type": "application/json"} if text else {}
            )
            response = connection.getresponse()
            answer = response.read()
        if response.status != http.HTTPStatus.OK:
            raise UnwellError(f"{path.partition('?')[0]} answered {response.status}", response.status)
        return json.loads(answer)
    except TimeoutError:
        raise UnwellError(f"no answer in {TIMEOUT:.0f} s") from None
    except (OSError, http.client.HTTPException) as error:
        raise UnwellError(getattr(error, "strerror", None) or repr(error)) from None
    except ValueError:
        raise UnwellError(f"{path.partition('?')[0]} answered no JSON") from None


def _answer(question: Callable[..., str], *arguments: object) -> Check:
    try:
        return Check(up=True, detail=question(*arguments))
    except UnwellError as problem:
        return Check(up=False, detail=str(problem))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        return Check(up=False, detail=f"an answer of another shape: {error!r}")


def _check_api(services: Services) -> str:
    answer = ask(services.api, "/ready")
    return f"model version {answer['model_version']}, {answer['source']}"


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
    answer = ask(services.mlflow, f"/api/2.0/mlflow/registered-models/alias?{query}")
    return str(answer["model_version"]["version"])


def _check_prometheus(services: Services) -> str:
    if _scraped(services, "prometheus") != 1:
        raise UnwellError("does not scrape itself")
    return "answers queries"


def _check_grafana(services: Services) -> str:
    answer = ask(services.grafana, "/api/health")
    if answer["database"] != "ok":
        raise UnwellError(f"database: {answer['database']}")
    return f"version {answer.get('version')}"


def _predict_and_be_seen(services: Services, features: Mapping[str, float]) -> str:
    version = ask(services.api, "/predict", body=features)["model_version"]
    if not services.test_mode:
        _alias(services)
    if "prometheus" not in services.missing() and _scraped(services, "api") != 1:
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
    names = sys.argv[1:]
    if names == ["drift-monitor"]:
        heartbeat = Layout(settings.state_dir).heartbeat
        checks = {"drift-monitor": check_drift_monitor(heartbeat, settings.drift_interval_seconds)}
    else:
        checks = check_all(Services.from_environment(as_environment(settings)), names)
    ill = {name: check.detail for name, check in checks.items() if not check.up}
    sys.stdout.write("".join(f"{name}: {detail}\n" for name, detail in ill.items()) or "healthy\n")
    sys.exit(1 if ill else 0)


if __name__ == "__main__":
    main()
