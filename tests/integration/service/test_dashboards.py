"""What the dashboards say of two copies of the service, before and after a promotion, asked of a real Prometheus."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tests.dashboards import DASHBOARDS
from tests.integration.service.conftest import POLL_SECONDS, ROOT, Registry, Service
from tests.waiting import free_port, wait_for

RULES = ROOT / "monitoring" / "prometheus"
PANELS = {f"{uid}: {panel['title']}": panel for uid, dashboard in DASHBOARDS.items() for panel in dashboard["panels"]}
NAME_THE_VERSION = {
    "model: Error promised",
    "model: Live error now",
    "model: Model that serves",
    "overview: Live error now",
    "overview: Model that serves",
}


@dataclass
class Prometheus:
    """A running Prometheus with the appliance's own rules."""

    url: str

    def shows(self, target: dict[str, Any]) -> list[str]:
        """Return the name that Grafana gives each series of a query, of the last minute or of now."""
        query = {"query": target["expr"].replace("$__rate_interval", "8s")}
        if target["range"]:
            now = httpx.get(f"{self.url}/api/v1/query?query=time()").json()["data"]["result"][0]
            query |= {"start": str(now - 60), "end": str(now), "step": "2"}
        answer = httpx.get(f"{self.url}/api/v1/query{'_range' * target['range']}", params=query).json()
        assert answer["status"] == "success", answer
        legend = target["legendFormat"]
        return [
            re.sub(r"{{(\w+)}}", lambda label: series["metric"].get(label[1], ""), legend)  # noqa: B023
            for series in answer["data"]["result"]
        ]

    def names(self, panel: str) -> list[str]:
        return [name for target in PANELS[panel]["targets"] for name in self.shows(target)]


@pytest.fixture(scope="module")
def copies(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Service]]:
    """Two copies of the service on one state, as `docker compose up --scale api=2` makes them."""
    state_dir = tmp_path_factory.mktemp("copies") / "state"
    state_dir.mkdir()
    settings: dict[str, object] = {"MLFLOW_TRACKING_URI": registry.uri, "MODEL_POLL_SECONDS": POLL_SECONDS}
    one, other = (Service(state_dir, settings).start() for _ in range(2))
    yield one, other
    one.stop()
    other.stop()


@pytest.fixture(scope="module")
def prometheus(copies: tuple[Service, Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes both, and looks at its rules more often, so that the tests need not wait."""
    directory, port = tmp_path_factory.mktemp("prometheus"), free_port()
    targets = ", ".join(f"'127.0.0.1:{copy.port}'" for copy in copies)
    written = {
        "API_SCHEME": "http",
        "API_TARGETS": f"static_configs: [{{targets: [{targets}]}}]",
        "PROMETHEUS_PORT": str(port),
        "evaluation_interval: 5s": "evaluation_interval: 1s",
    }
    config = (RULES / "prometheus.yml").read_text()
    for word, value in written.items():
        config = config.replace(word, value)
    (directory / "prometheus.yml").write_text(config)
    shutil.copyfile(RULES / "rules.yml", directory / "rules.yml")
    binary = shutil.which("prometheus", path=f"{os.environ['PATH']}:{ROOT}/.runtime/prometheus")
    assert binary, "no prometheus on PATH or in .runtime/prometheus: make setup"
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(binary, "--config.file=prometheus.yml", "--storage.tsdb.path=data"),
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=directory,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for("Prometheus", lambda: httpx.get(f"{url}/-/ready").status_code == 200)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_copies_of_the_service_are_no_two_series_of_one_name(
    copies: tuple[Service, Service], prometheus: Prometheus
) -> None:
    for copy in copies:
        tell_the_truth(copy)
    errors = PANELS["model: Live error"]
    wait_for("both copies", lambda: prometheus.shows({**errors["targets"][0], "expr": "live_rmse"})[1:])
    for title in PANELS:
        names = prometheus.names(title)
        assert len(set(names)) == len(names), title


def test_a_firing_alert_is_shown_by_its_name(copies: tuple[Service, Service], prometheus: Prometheus) -> None:
    wait_for("nothing that fires", lambda: prometheus.names("overview: Alerts that fire") == ["none"])
    assert prometheus.names("overview: Alerts over time") == []
    store = Store(Layout(copies[0].state_dir).database)
    wait_for("a first scrape", lambda: "failed" in prometheus.names("model: Retrainings"))
    number = store.begin_retraining("user", "somebody wants one", "admin")
    store.end_retraining(number, "failed", None, "it could not be trained", {})
    for panel in ("overview: Alerts that fire", "overview: Alerts over time"):
        wait_for(panel, lambda: prometheus.names(panel) == ["RetrainingFailed "])  # noqa: B023


def test_after_a_promotion_what_says_now_names_only_the_version_that_serves(
    registry: Registry, copies: tuple[Service, Service], prometheus: Prometheus
) -> None:
    old = copies[0].get("/ready").json()["model_version"]
    tell_the_truth(copies[0])
    wait_for("the old version", lambda: prometheus.names("model: Live error now") == [f"version {old}"])

    new = registry.publish()
    registry.promote(new)
    for copy in copies:
        wait_for("the new version", lambda: copy.get("/ready").json()["model_version"] == new)  # noqa: B023
    tell_the_truth(copies[0])
    for panel in NAME_THE_VERSION:
        wait_for(f"the new version alone in {panel}", lambda: says_only(prometheus.names(panel), new))  # noqa: B023
    # which a range does not: the old version is in it for as long as it is shown
    (target,) = PANELS["model: Error promised"]["targets"]
    assert len(prometheus.shows(target | {"range": True})) == 2


def says_only(names: list[str], version: str) -> bool:
    return [re.findall(r"\d+", name)[0] for name in names] == [version]


def tell_the_truth(service: Service) -> None:
    made = service.predict().json()["prediction_id"]
    assert service.client.post("/feedback", json={"prediction_id": made, "actual_value": 3.0}).status_code == 201
