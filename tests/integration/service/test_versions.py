"""The versions side by side, with a real MLflow server behind them."""

from __future__ import annotations

from typing import Any

import pytest

from tableloop.mlflow_http import find_aliases, run_metrics, search_versions
from tableloop.state.database import PROMOTED
from tests.integration.service.conftest import ALIAS, NAME, Registry, StartService
from tests.waiting import free_port

MARKUP = "</td><script>alert(1)</script> 'quoted' \"twice\""


def found(answer: dict[str, Any], version: str) -> dict[str, Any]:
    return next(one for one in answer["versions"] if one["version"] == version)


def test_each_version_is_as_the_registry_has_it(registry: Registry, start_service: StartService) -> None:
    version, client = registry.publish(offset=0.5), registry.client
    run_id = client.get_model_version(NAME, version).run_id
    client.log_metric(run_id, "test_rmse", 0.73)
    tags = {"family": "linear", "gate": "waiting", "gate_reason": MARKUP, "gate_labels": "12", "data_md5": "0" * 32}
    for key, value in tags.items():
        client.set_model_version_tag(NAME, version, key, value)
    client.set_registered_model_alias(NAME, "Shadow", version)
    service = start_service(MLFLOW_TRACKING_URI=registry.uri)
    service.store.record_serving(NAME, version, run_id, PROMOTED, "by anna: agreed")
    answer = service.get("/versions").json()
    client.delete_registered_model_alias(NAME, "Shadow")
    assert answer["problem"] is None
    numbers = [int(one["version"]) for one in answer["versions"]]
    assert numbers == sorted(numbers, reverse=True)
    new, serving = found(answer, version), found(answer, answer["serves"])
    assert (new["aliases"], new["serves"], new["run_id"], new["family"]) == (["Shadow"], False, run_id, "linear")
    assert new["scores"] == {"test_rmse": 0.73}
    assert (new["gate"]["gate"], new["gate"]["reason"], new["gate"]["labels"]) == ("waiting", MARKUP, 12)
    assert [(event["event"], event["detail"]) for event in new["history"]] == [("promoted", "by anna: agreed")]
    assert (serving["aliases"], serving["serves"]) == ([ALIAS], True)
    assert (serving["family"], serving["scores"]["test_rmse"]) == ("linear", 0.73)  # of its files: it has no tags
    assert "serves" in [event["event"] for event in serving["history"]]


def test_without_the_registry_what_serves_is_still_shown(registry: Registry, start_service: StartService) -> None:
    service = start_service(MLFLOW_TRACKING_URI=registry.uri)
    serves = service.get("/ready").json()["model_version"]
    service.stop()
    again = start_service(service.state_dir, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}")
    answer = again.get("/versions").json()
    assert answer["problem"].startswith("the registry does not answer (")
    version = found(answer, serves)
    assert (version["serves"], version["family"], version["data_md5"]) == (True, "linear", "0" * 32)
    assert [event["event"] for event in version["history"]] == ["serves"]
    assert again.get("/versions?format=html").status_code == 200


@pytest.mark.parametrize("name", ["it's", "it's \"odd\", 100% _and_ 'so on'", 'say "hi"', "back\\slash's", "plain"])
def test_a_model_is_found_whatever_its_name(registry: Registry, name: str) -> None:
    client, alike = registry.client, name.replace("'", "x")
    run_id = client.create_run("0").info.run_id
    model_id = client.create_logged_model("0", "model", source_run_id=run_id).model_id

    def add(to: str) -> str:
        return str(client.create_model_version(to, f"models:/{model_id}", run_id, model_id=model_id).version)

    for each in {name, alike}:
        client.create_registered_model(each)
        add(each)
    newest = add(name)
    client.set_registered_model_alias(name, "Best", newest)
    versions = search_versions(registry.uri, name, 10)
    assert [(version["name"], int(version["version"])) for version in versions] == [(name, 2), (name, 1)]
    assert search_versions(registry.uri, name, 1) == versions[:1]
    assert find_aliases(registry.uri, name) == {"2": ["Best"]}
    for each in {name, alike}:
        client.delete_registered_model(each)


def test_what_is_not_there_is_nothing(registry: Registry) -> None:
    assert search_versions(registry.uri, "nobody's model", 5) == []
    assert find_aliases(registry.uri, "nobody's model") == {}
    assert run_metrics(registry.uri, "0" * 32) == {}
