"""/openapi.json says what the service does: schemathesis asks what it allows, a client made from it works."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.file_predictions import MEDIA_TYPES
from app.schemas import ID_EXAMPLE, DriftReport
from monitoring.drift_monitor import Monitor
from tableloop.api_keys import add, remove
from tableloop.settings import RegistrySettings
from tableloop.state.layout import Layout
from tests.integration.service.conftest import EXAMPLE, ROOT, Registry, Service, StartService, clean_environment
from tests.waiting import free_port, wait_for

EXAMPLES_PER_OPERATION = 15
IMPOSSIBLE = EXAMPLE | {"MedInc": 1001}
Spec = dict[str, Any]


@pytest.fixture(scope="module")
def service(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a real model, a watchdog's report and a drift report."""
    state = tmp_path_factory.mktemp("described") / "state"
    (state / "run").mkdir(parents=True)
    health = {"mlflow": {"state": "up", "detail": "HousePriceModel@Production is version 1", "address": registry.uri}}
    report = {"checked_at": "2026-01-01T00:00:00+00:00", "services": health}
    (state / "run" / "health.json").write_text(json.dumps(report))
    service = Service(state, {"MLFLOW_TRACKING_URI": registry.uri}).start()
    try:
        assert service.client.post("/predict/batch", json=[EXAMPLE] * 600).status_code == 200
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STATE_DIR", str(state))
            patch.setenv("RETRAIN_ON_DRIFT", "off")
            Monitor(Layout(state), interval=60).look()
        yield service
    finally:
        service.stop()


def test_schemathesis_finds_nothing(service: Service, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{service.port}/openapi.json"
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run", address),
        *("--checks", "all", "--continue-on-failure", "--warnings", "off", "--no-color", "--no-shrink"),
        *("--max-examples", str(EXAMPLES_PER_OPERATION), "--seed", "1", "--generation-database", "none"),
    ]
    environment = clean_environment(SCHEMATHESIS_HOOKS="tests.integration.service.schemathesis_files")
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"Operations: +11 selected / 11 total", run.stdout), run.stdout
    assert int(re.findall(r"(\d+) generated", run.stdout)[-1]) > 200


@pytest.fixture
def client_package(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that openapi-python-client has made from the description."""
    subprocess.run(
        [
            *(Path(sys.executable).parent / "openapi-python-client", "generate", "--meta", "none"),
            *("--url", f"http://127.0.0.1:{service.port}/openapi.json", "--output-path", "house_prices"),
        ],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "house_prices"
    for name in [name for name in sys.modules if name.partition(".")[0] == "house_prices"]:
        del sys.modules[name]


def test_a_client_made_from_the_description_works(service: Service, client_package: str) -> None:
    def part(name: str) -> Any:
        return importlib.import_module(f"{client_package}.{name}")

    models = part("models")
    key = add(RegistrySettings(state_dir=service.state_dir), "crm", "label")
    with part("client").AuthenticatedClient(base_url=f"http://127.0.0.1:{service.port}", token=key) as to:
        house = models.HouseFeatures.from_dict(EXAMPLE)

        prediction = part("api.predictions.predict").sync(client=to, body=house)
        assert isinstance(prediction, models.Prediction)
        assert prediction.interval.low < prediction.predicted_median_house_value < prediction.interval.high

        batch = part("api.predictions.predict_batch").sync(client=to, body=[house, house])
        assert [type(item) for item in batch] == [models.Prediction] * 2

        label = models.Label(prediction_id=prediction.prediction_id, actual_value=4.526)
        feedback = part("api.feedback.feedback")
        stored = feedback.sync(client=to, body=label)
        assert isinstance(stored, models.Feedback)
        assert stored.received_at.tzinfo is not None
        refused = feedback.sync_detailed(client=to, body=label)
        assert (refused.status_code, type(refused.parsed)) == (409, models.Problem)
        several = [models.Label(prediction_id=item.prediction_id, actual_value=4.0) for item in batch]
        assert feedback.sync(client=to, body=several).stored == 2

        card = part("api.system.model").sync(client=to)
        assert isinstance(card, models.ModelCard)
        assert card.training_range["MedInc"] == service.get("/model").json()["training_range"]["MedInc"]
        assert part("api.system.ready").sync(client=to).status == "ready"
        assert part("api.system.health").sync(client=to).services["mlflow"].state == "up"
        assert isinstance(part("api.drift.drift").sync(client=to), models.DriftReport)
        versions = part("api.system.versions").sync(client=to)
        assert isinstance(versions, models.Versions)
        assert card.version in [version.version for version in versions.versions]
        house.latitude = 91
        wrong = part("api.predictions.predict").sync(client=to, body=house)
        assert wrong.detail[0].loc == ["body", "Latitude"]


def test_the_drift_report_has_the_fields_of_its_description_and_no_other(service: Service) -> None:
    report = service.get("/drift").json()
    assert DriftReport.model_validate(report, extra="forbid").model_dump(exclude_unset=True) == report
    assert report["monitor"]["retrain_on_drift"] is False


# -- the examples of errors are answers of the service ------------------------------------------------------------


def _post(path: str, **request: Any) -> Callable[[Service], Any]:
    return lambda service: service.client.post(path, **request)


def _typed(path: str, sent: str, content: bytes = b"x", **headers: str) -> Callable[[Service], Any]:
    return _post(path, content=content, headers={"content-type": sent, **headers})


def _labelled_twice(service: Service) -> Any:
    label = {"prediction_id": service.predict().json()["prediction_id"], "actual_value": 4.526}
    service.client.post("/feedback", json=label)
    return service.client.post("/feedback", json=label)


def _no_room(service: Service) -> Any:
    (service.state_dir / "spool").write_text("where the directory should be")
    return _typed("/predict/batch", "text/csv", b"MedInc\n1\n")(service)


_NOBODY = {"prediction_id": "nobody", "actual_value": 1}
_LARGE = b" " * (10 * 1024 * 1024 + 1)


def _of_another_scope(service: Service) -> Any:
    settings = RegistrySettings(state_dir=service.state_dir)
    key = add(settings, "crm", "predict")
    answer = httpx.post(
        f"{service.client.base_url}/feedback", json=_NOBODY, headers={"Authorization": f"Bearer {key}"}
    )
    remove(settings, "crm")
    return answer


PROVOKED: dict[tuple[str, str], Callable[[Service], Any]] = {
    ("/predict", "413"): _typed("/predict", "application/json", _LARGE),
    ("/predict", "415"): _typed("/predict", "text/plain"),
    ("/predict", "422"): _post("/predict", json=IMPOSSIBLE),
    ("/predict/batch", "406"): _typed("/predict/batch", "text/csv", accept="image/png"),
    ("/predict/batch", "413"): _typed("/predict/batch", "application/json", _LARGE),
    ("/predict/batch", "415"): _typed("/predict/batch", "text/plain"),
    ("/predict/batch", "507"): _no_room,
    ("/explain", "404"): _post("/explain", json={"prediction_id": ID_EXAMPLE}),
    ("/explain", "413"): _typed("/explain", "application/json", _LARGE),
    ("/explain", "415"): _typed("/explain", "text/plain"),
    ("/explain", "422"): _post("/explain", json=IMPOSSIBLE),
    ("/feedback", "207"): _post("/feedback", json=[_NOBODY]),
    ("/feedback", "401"): lambda service: httpx.post(f"{service.client.base_url}/feedback", json=_NOBODY),
    ("/feedback", "403"): _of_another_scope,
    ("/feedback", "404"): _post("/feedback", json=_NOBODY),
    ("/feedback", "409"): _labelled_twice,
    ("/feedback", "413"): _typed("/feedback", "application/json", _LARGE),
    ("/feedback", "415"): _typed("/feedback", "text/plain"),
    ("/feedback", "422"): _post("/feedback", json=_NOBODY | {"actual_value": -1}),
    ("/drift", "404"): lambda service: service.get("/drift"),
    ("/drift", "422"): lambda service: service.get("/drift?format=pdf"),
    ("/retrainings", "422"): lambda service: service.get("/retrainings?limit=0"),
    ("/versions", "422"): lambda service: service.get("/versions?limit=21"),
}
WITHOUT_A_MODEL: dict[tuple[str, str], Callable[[Service], Any]] = {
    ("/predict", "503"): _post("/predict", json=EXAMPLE),
    ("/predict/batch", "503"): _post("/predict/batch", json=[EXAMPLE]),
    ("/model", "503"): lambda service: service.get("/model"),
    ("/ready", "503"): lambda service: service.get("/ready"),
}
# What another test provokes: a crash, too many explanations, a log that is behind and a store that cannot be read in
# tests/unit/app; both kinds of a batch's problems are in one example, test_files.py has the one of a file.
ELSEWHERE = {
    *(("/explain", "503"), ("/feedback", "503"), ("/retrainings", "503"), ("/versions", "503")),
    ("/predict/batch", "422"),
}


def _examples(spec: Spec) -> dict[tuple[str, str], Any]:
    return {
        (path, status): response["content"]["application/json"]["example"]
        for path, methods in spec["paths"].items()
        for operation in methods.values()
        for status, response in operation["responses"].items()
        if status not in ("200", "201", "500")
    }


def _timeless(body: dict[str, Any]) -> Any:
    """Return an answer with everything equal that differs from run to run; FastAPI leaves nulls out of examples."""
    text = json.dumps({name: value for name, value in body.items() if value is not None})
    for pattern in (
        r"[0-9a-f]{8}-[0-9a-f-]{27}",
        r"\d{4}-\d\d-\d\dT[0-9:.+]+",
        r"kept in .*? \(.*?\)",
        r"127\.0\.0\.1:\d+",
    ):
        text = re.sub(pattern, "…", text)
    return json.loads(text)


def test_every_example_of_an_error_is_an_answer_of_the_service(start_service: StartService) -> None:
    sound = start_service()
    nowhere = start_service(ready=False, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}", MODEL_POLL_SECONDS=1)
    wait_for("a registry that does not answer", lambda: "answer" in nowhere.client.get("/ready").json()["detail"])
    examples = _examples(sound.get("/openapi.json").json())
    assert examples.keys() == PROVOKED.keys() | WITHOUT_A_MODEL.keys() | ELSEWHERE
    for service, provoked in ((sound, PROVOKED), (nowhere, WITHOUT_A_MODEL)):
        for (path, status), provoke in provoked.items():
            answer = provoke(service)
            assert (path, str(answer.status_code)) == (path, status)
            assert _timeless(answer.json()) == _timeless(examples[path, status]), (path, status)


def test_the_example_of_a_file_is_answered_with_the_columns_of_its_example(start_service: StartService) -> None:
    service = start_service()
    batch = service.get("/openapi.json").json()["paths"]["/predict/batch"]["post"]
    for described in (batch["requestBody"], batch["responses"]["200"]):
        assert set(described["content"]) == {"application/json", *MEDIA_TYPES}
    sent = batch["requestBody"]["content"]["text/csv"]["example"]
    shown = batch["responses"]["200"]["content"]["text/csv"]["example"]
    answer = _typed("/predict/batch", "text/csv", sent.encode())(service)
    assert answer.text.splitlines()[0].replace('"', "") == shown.splitlines()[0]
    assert len(answer.text.splitlines()) == len(shown.splitlines())


def test_every_field_and_operation_is_described(start_service: StartService) -> None:
    spec = start_service().get("/openapi.json").json()
    groups = {group["name"] for group in spec["tags"] if group["description"]}
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert operation["description"], path
            assert set(operation["tags"]) <= groups
            assert re.fullmatch(r"[a-z_]+", operation["operationId"]), "the name of a function in a client"
            for status, response in operation["responses"].items():
                assert response["description"] not in ("Successful Response", "Validation Error"), (path, status)
    for name, schema in spec["components"]["schemas"].items():
        assert schema["description"], name
        for field, described in schema["properties"].items():
            assert described.get("description") or "$ref" in described or "anyOf" in described, f"{name}.{field}"
    assert spec["info"]["license"]["identifier"] in (ROOT / "pyproject.toml").read_text()
