"""The guard in front of MLflow: what everyone may read, what needs the login, and what does not exist."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from loguru import logger

from appliance import mlflow_guard
from appliance.mlflow_guard import MlflowGuard
from tableloop.credentials import AdminLogin, write_secret
from tableloop.host_names import HostNames

API = "/api/2.0/mlflow"
RIGHT, WRONG = ("admin", "right"), ("admin", "wrong")


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowGuard:
    monkeypatch.setattr(mlflow_guard, "WRONG_LOGIN_SECONDS", 0.0)
    write_secret(tmp_path / "password", "right")
    return MlflowGuard(echo, HostNames(), AdminLogin(tmp_path / "password"))


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the size of the body and the Origin that came through."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    origin = dict(scope["headers"]).get(b"origin", b"none").decode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{size} {origin}".encode()})


async def ask(guard: MlflowGuard, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(guard)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:5002") as client:
        return await client.request(method, path, **options)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/static-files/static/js/main.js"),
        ("GET", f"{API}/experiments/get?experiment_id=0"),
        ("POST", f"{API}/runs/search"),
        ("GET", f"{API}/registered-models/alias?name=a&alias=b"),
        ("GET", "/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/directories"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/models/m-1/artifacts/model.skops"),
    ],
)
@pytest.mark.anyio
async def test_everyone_may_read(guard: MlflowGuard, method: str, path: str) -> None:
    assert (await ask(guard, method, path)).status_code == 200


@pytest.mark.anyio
async def test_clients_are_told_to_send_files_through_this_server(tmp_path: Path) -> None:
    async def mlflow(scope: Any, receive: Any, send: Any) -> None:
        content = b'{"store_type": "SqlStore", "multipart_downloads_enabled": true}'
        headers = [(b"content-type", b"application/json"), (b"Content-Length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in (content[:20], content[20:]):
            await send({"type": "http.response.body", "body": part, "more_body": part == content[:20]})

    answer = await ask(
        MlflowGuard(mlflow, HostNames(), AdminLogin(tmp_path / "none")), "GET", "/api/3.0/mlflow/server-info"
    )
    told = {"multipart_downloads_enabled": False, "multipart_uploads_enabled": False}
    assert answer.json() == {"store_type": "SqlStore", **told}
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{API}/registered-models/alias"),
        ("DELETE", f"{API}/registered-models/alias"),
        ("POST", f"{API}/registered-models/create"),
        ("POST", f"{API}/runs/delete"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/models/m-1/artifacts/model.skops"),
        ("DELETE", "/ajax-api/2.0/mlflow-artifacts/artifacts/1/models/m-1/artifacts/model.skops"),
        ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid=1&path=a"),
        ("PATCH", f"{API}/logged-models/m-1/tags"),
        ("DELETE", f"{API}/logged-models/m-1"),
        ("POST", "/api/3.0/mlflow/traces"),
    ],
)
@pytest.mark.anyio
async def test_changing_needs_the_login(guard: MlflowGuard, method: str, path: str) -> None:
    for login in (None, WRONG, ("root", "right"), ("admin", "")):
        answer = await ask(guard, method, path, auth=login)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert "MLFLOW_TRACKING_USERNAME" in answer.json()["message"]
    assert (await ask(guard, method, path, auth=RIGHT)).status_code == 200


@pytest.mark.parametrize("header", ["Basic", "Basic !!", "Bearer right", "Basic " + "A" * 5000, "basic YWRtaW46\xff"])
@pytest.mark.anyio
async def test_an_odd_login_is_a_wrong_one(guard: MlflowGuard, header: str) -> None:
    answer = await ask(guard, "POST", f"{API}/runs/delete", headers={"authorization": header.encode("latin-1")})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v1/traces",
        "/V1/traces",
        "//v1/traces",
        "/gateway/a/mlflow/invocations",
        "/ajax-api/2.0/mlflow/gateway-proxy",
        "/ajax-api/3.0/mlflow/gateway/secrets/list",
        "/ajax-api/3.0/mlflow/jobs/1",
        "/ajax-api/3.0/jobs",
        "/ajax-api/3.0/mlflow/assistant/message",
        "/ajax-api/3.0/mlflow/demo/generate",
        "/api/2.0/mlflow/runs/../gateway-proxy",
        "/api/2.0/mlflow/webhooks",
        "/api/2.0/mlflow/users/create",
        "/api//2.0/mlflow/runs/delete",
        "/x/api/2.0/mlflow/runs/delete",
    ],
)
@pytest.mark.anyio
async def test_what_nobody_needs_does_not_exist_with_the_login_either(guard: MlflowGuard, path: str) -> None:
    for method in ("GET", "POST", "PUT", "BREW"):
        assert (await ask(guard, method, path, auth=RIGHT)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "artifact_location": "file:///etc"},
        {"name": "a", "artifactLocation": "s3://bucket"},
        {"name": "a", "source": "file:///etc"},
        {"name": "a", "source": ["/etc"]},
        json.dumps({"name": "a", "artifact_location": "/etc"}),  # JSON in JSON, which MLflow reads
        {"name": "a", "artifact_location": "mlflow-artifacts://evil.example.com/a"},
    ],
)
@pytest.mark.anyio
async def test_artifacts_stay_on_this_server(guard: MlflowGuard, body: object) -> None:
    answer = await ask(guard, "POST", f"{API}/experiments/create", json=body, auth=RIGHT)
    assert answer.status_code == 400
    assert "artifacts are kept on this server" in answer.json()["message"]


@pytest.mark.anyio
async def test_a_body_too_deep_to_be_read_is_refused(guard: MlflowGuard) -> None:
    deep = b'{"artifact_location":"/etc","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert (await ask(guard, "POST", f"{API}/experiments/create", content=deep, auth=RIGHT)).status_code == 400


@pytest.mark.anyio
async def test_graphql_is_asked_by_post_only(guard: MlflowGuard) -> None:
    assert (await ask(guard, "GET", "/graphql?query=mutation{a}", auth=RIGHT)).status_code == 404


@pytest.mark.parametrize(("query", "status"), [("query { a }", 200), ("mutation { a }", 403), ("{", 403), ("", 403)])
@pytest.mark.anyio
async def test_graphql_answers_queries_only(guard: MlflowGuard, query: str, status: int) -> None:
    assert (await ask(guard, "POST", "/graphql", json={"query": query})).status_code == status


@pytest.mark.anyio
async def test_bodies_are_bounded(guard: MlflowGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_guard, "MOST_ARTIFACT", 3 << 20)
    json_call, file = f"{API}/runs/search", "/api/2.0/mlflow-artifacts/artifacts/1/a"

    async def chunks(count: int) -> Any:
        for _ in range(count):
            yield b" " * (1 << 20)

    for path, method, most in ((json_call, "POST", 1), (file, "PUT", 3)):
        assert (await ask(guard, method, path, content=b" " * (most << 20), auth=RIGHT)).status_code == 200
        assert (await ask(guard, method, path, content=b" " * ((most << 20) + 1), auth=RIGHT)).status_code == 413
        assert (await ask(guard, method, path, content=chunks(most + 1), auth=RIGHT)).status_code == 413
    packed = {"content-encoding": "gzip"}
    answer = await ask(guard, "PUT", file, content=gzip.compress(b" " * 9999), headers=packed, auth=RIGHT)
    assert answer.status_code == 415


@pytest.mark.anyio
async def test_a_foreign_page_changes_nothing_and_an_own_one_is_not_foreign(guard: MlflowGuard) -> None:
    call = ("POST", f"{API}/runs/delete")
    foreign = {"origin": "http://evil.example.com"}
    assert (await ask(guard, *call, headers=foreign, auth=RIGHT)).status_code == 403
    own = await ask(guard, *call, headers={"origin": "http://localhost:5002"}, auth=RIGHT)
    assert own.text == "0 none"
    assert (await ask(guard, *call, headers={"host": "evil.example.com"}, auth=RIGHT)).status_code == 403


@pytest.mark.anyio
async def test_every_change_is_one_line_of_a_log(guard: MlflowGuard) -> None:
    lines: list[str] = []
    handler = logger.add(lines.append, format="{message}")
    try:
        await ask(guard, "POST", f"{API}/registered-models/alias", json={"name": "a\nb", "alias": "P"}, auth=RIGHT)
        await ask(guard, "POST", f"{API}/registered-models/alias", json={"name": "x" * 5000}, auth=RIGHT)
        await ask(guard, "POST", f"{API}/runs/search", json={"name": "read"})
    finally:
        logger.remove(handler)
    assert (
        lines[0] == "admin from 127.0.0.1: POST /api/2.0/mlflow/registered-models/alias name=a\\nb alias=P -> 200\n"
    )
    assert len(lines) == 2
    assert len(lines[1]) < 400


@pytest.mark.anyio
async def test_without_a_password_nothing_is_changed_and_reading_goes_on(tmp_path: Path) -> None:
    guard = MlflowGuard(echo, HostNames(), AdminLogin(tmp_path / "none"))
    answer = await ask(guard, "POST", f"{API}/runs/delete", auth=("admin", ""))
    assert answer.status_code == 503
    assert "the next start makes" in answer.json()["message"]
    assert (await ask(guard, "GET", "/")).status_code == 200
