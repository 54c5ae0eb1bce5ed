"""What is in deploy/: the Compose file of a cluster and the manifests of Kubernetes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tableloop.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy" / "compose.cluster.yaml"
KUBERNETES = ROOT / "deploy" / "kubernetes"
FILES = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
OLDEST, NEWEST = "1.30", kubernetes_validate.latest_version()
ROLES = re.findall(r"^    ([a-z-]+)\)$", (ROOT / "entrypoint.sh").read_text(), re.MULTILINE)
# Variables that are no settings: of the clients of S3, and two that only `entrypoint.sh` reads.
OTHERS = {
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"),
    *("API_HOST", "PROMETHEUS_URL"),
}
KNOWN = {name.upper() for name in Settings.model_fields} | OTHERS
SECRETS = {"DATABASE_URL", "ADMIN_PASSWORD", "API_KEYS", "ALERT_WEBHOOK_URL", "AWS_ACCESS_KEY_ID"} | {
    "AWS_SECRET_ACCESS_KEY"
}
OF_OTHERS = {"postgres", "s3", "bucket"}  # services of images that are not ours

Document = dict[str, Any]
DOCUMENTS: list[Document] = [
    document for file in FILES for document in yaml.safe_load_all(file.read_text()) if document
]


def name_of(document: Document) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def pod_of(document: Document) -> Document | None:
    """Return the specification of the pods that a document makes."""
    if document["kind"] == "CronJob":
        document = document["spec"]["jobTemplate"]
    template: Document = document.get("spec", {}).get("template", {})
    return template.get("spec")


PODS = [document for document in DOCUMENTS if pod_of(document)]


def containers() -> Iterator[Document]:
    for document in PODS:
        yield from (pod_of(document) or {})["containers"]


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_kubernetes_would_take_each_document(document: Document, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_the_kustomization_has_just_the_files_that_are_there() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert kustomization["resources"] == [file.name for file in FILES]


@pytest.mark.parametrize("document", PODS, ids=name_of)
def test_each_pod_may_do_as_little_as_the_restricted_standard_asks_for(document: Document) -> None:
    pod = pod_of(document)
    assert pod is not None
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False  # else Kubernetes sets MLFLOW_PORT and others of our variables
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"].keys() == {"requests", "limits"}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_manifests_use_variables_that_are_settings_and_no_secret_is_written_there() -> None:
    (settings,) = [document["data"] for document in DOCUMENTS if document["kind"] == "ConfigMap"]
    assert settings.keys() <= KNOWN - SECRETS
    for container in containers():
        for variable in container.get("env", []):
            assert variable["name"] in KNOWN
            assert ("valueFrom" in variable) == (variable["name"] in SECRETS)
    assert not [document for document in DOCUMENTS if document["kind"] == "Secret"]


def test_what_the_pods_are_told_to_run_is_a_role_or_a_module() -> None:
    for container in containers():
        first, *rest = container["args"]
        assert first in ROLES or (first == "python" and is_module(rest[1]))
        assert container["image"] == "tableloop"


def test_only_the_front_is_open_and_each_policy_names_roles_that_there_are() -> None:
    roles = {document["metadata"]["labels"]["role"] for document in PODS}
    assert {container["name"] for container in containers()} == roles
    policies = [document for document in DOCUMENTS if document["kind"] == "NetworkPolicy"]
    (closed,) = [one for one in policies if "ingress" not in one["spec"]]
    assert closed["spec"] == {"podSelector": {"matchLabels": {"app": "tableloop"}}, "policyTypes": ["Ingress"]}
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            role = policy["spec"]["podSelector"]["matchLabels"]["role"]
            assert role in roles
            assert "from" in rule or role == "front"
            assert {each["podSelector"]["matchLabels"]["role"] for each in rule.get("from", [])} <= roles


def is_module(name: str) -> bool:
    return (ROOT / f"{name.replace('.', '/')}.py").exists()


def service(name: str) -> Document:
    found: Document = yaml.safe_load(COMPOSE.read_text())["services"][name]
    return found


@pytest.mark.parametrize("name", sorted(yaml.safe_load(COMPOSE.read_text())["services"].keys() - OF_OTHERS))
def test_each_service_of_the_compose_file_is_a_role_with_settings_and_a_disk_of_its_own(name: str) -> None:
    described = service(name)
    first, *rest = described["command"]
    assert first in ROLES or (first == "python" and is_module(rest[1]))
    assert described["environment"].keys() <= KNOWN
    assert described["read_only"]
    own, table = described["volumes"]
    assert own in ("/data", f"{name}:/data")
    assert table.endswith(":ro")
    if (check := described["healthcheck"].get("test")) is not None:
        assert check == ["CMD", "python", "-m", "monitoring.health", name]


@pytest.mark.parametrize("name", ["dask-scheduler", "dask-worker", "postgres", "s3", "api"])
def test_what_only_the_cluster_may_reach_is_not_published(name: str) -> None:
    assert "ports" not in service(name)


def answers(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_compose_reads_the_file() -> None:
    commands = (["docker", "compose"], ["docker-compose"])  # the plugin, or the program of its own
    command = next((one for one in commands if shutil.which(one[0]) and answers([*one, "version"])), None)
    if command is None:
        pytest.skip("NOT RUN: there is no Compose on PATH")
    needed = ("ADMIN_PASSWORD", "DATABASE_URL", "POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    read = subprocess.run(
        [*command, "--file", COMPOSE, "config", "--quiet"],
        env=dict.fromkeys(needed, "given") | {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
