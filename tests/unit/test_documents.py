"""The tables of the documents agree with the code. Every block of commands is run or says why not."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app
from tableloop.settings import Settings
from tableloop.state import shadows
from tableloop.state.database import Store
from tests.documents import DOCUMENTS, ROOT, RUN, SHOWN, assert_prints, blocks, difference
from tests.unit.app.conftest import EXAMPLE
from tests.unit.app.test_drift_metrics import REPORT, write

README = (ROOT / "README.md").read_text()
METRICS = (ROOT / "docs" / "metrics.md").read_text()


def settings_table() -> str:
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, bool):
            default = "on" if default else "off"
        shown = f"`{default}`" if str(default or "") else "empty"
        rows.append(f"| `{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


def commands_table() -> str:
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = ["| command | what it does |", "|---|---|"]
    commands = re.findall(r"^ +(make \S+) +(.*)$", help_text, re.MULTILINE)
    rows += [f"| `{command}` | {text} |" for command, text in commands]
    return "\n".join(rows)


def test_the_settings_are_those_of_the_code() -> None:
    assert settings_table() in README


def test_the_commands_are_those_of_the_makefile() -> None:
    assert commands_table() in README


def test_the_variables_of_the_example_file_are_settings() -> None:
    named = re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert set(named) == {name.upper() for name in Settings.model_fields}


def rows_of(heading: str) -> list[list[str]]:
    """Return the rows of the table behind a heading of docs/metrics.md."""
    section = METRICS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows, heading
    return rows


def test_the_metrics_are_those_of_the_service(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, test_mode=True)
    write(settings, REPORT)
    store = Store.of(settings)
    shadow = shadows.begin(store, settings.model_name, "2", "run")
    used = {"memory_bytes": 1, "cpu_seconds": 1, "uptime_seconds": 1}
    health = {"services": {"api": {"state": "up"}}, "processes": {"api": used}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "health.json").write_text(json.dumps(health))
    with TestClient(create_app(settings)) as client:
        made = client.post("/predict", json=EXAMPLE).json()["prediction_id"]
        (prediction,) = store.newest_predictions(1)
        shadows.add_values(store, shadow, [shadows.Value(prediction.id, 2.5, 1.5, 3.5)], prediction.id)
        client.post("/feedback", json={"prediction_id": made, "actual_value": 3})
        text = client.get("/metrics").text
    documented = {
        row[0].strip("`"): (row[1], set(re.findall(r"`(\w+)`", row[2]))) for row in rows_of("Metrics of the service")
    }
    served = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        name = family.name + "_total" * (family.type == "counter")
        labels = {label for sample in family.samples for label in sample.labels} - {"le", "quantile"}
        # the dummy model of this service has no test rows, so no sample of their error
        served[name] = (family.type, labels if family.samples else documented[name][1])
    assert documented == served


def test_the_alerts_and_recorded_series_are_those_of_prometheus() -> None:
    groups = yaml.safe_load((ROOT / "monitoring/prometheus/rules.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = [rule for group in groups for rule in group["rules"]]
    alerts = {rule["alert"]: rule["labels"]["severity"] for rule in rules if "alert" in rule}
    assert {row[0].strip("`"): row[1] for row in rows_of("Alerts")} == alerts
    assert {row[0].strip("`") for row in rows_of("Recorded series")} == {
        rule["record"] for rule in rules if "record" in rule
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(document: Path) -> None:
    for block in blocks(document):
        if block.language in SHOWN:
            assert block.not_run, f"{block.name} shows what no command above it prints, and does not say why"
        else:
            assert block.language in (*RUN, "mermaid"), f"{block.name}: {block.language} is not run"
        assert block.not_run is None or len(block.not_run) > 10, block.name


def test_the_messages_of_troubleshooting_are_those_of_the_product() -> None:
    section = (ROOT / "docs/operating.md").read_text().split("\n## Troubleshooting\n")[1]
    files = [
        file
        for part in ("app", "appliance", "monitoring", "pipeline", "scenarios", "tableloop")
        for file in (ROOT / part).rglob("*.py")
    ]
    code = "\n".join(file.read_text() for file in [*files, ROOT / "Makefile"])
    plain = re.sub(r'"\s+f?"', "", code)  # a message over two lines
    messages = re.findall(r"^\| [^|]*?`([^`]{12,})`[^|]* \|", section, re.MULTILINE)
    assert len(messages) > 30
    for message in messages:
        for part in message.split("…"):
            words = part.strip(" =:")
            assert words in plain or words.startswith("Input should be"), message  # pydantic's


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    # The code host's page and picture of a workflow.
    text = re.sub(r"\.\./\.\./actions(/workflows/\w+\.yml)(/badge\.svg)?", r".github\1", document.read_text())
    for target in [*re.findall(r"\]\((?!http)([^)]+)\)", text), *re.findall(r'<img src="([^"]+)"', text)]:
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{document.name}: {target}"


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        links = {
            (document.parent / target.partition("#")[0]).resolve()
            for document in new
            if document.suffix == ".md"
            for target in re.findall(r"\]\((?!http)([^)#][^)]*)\)", document.read_text())
        }
        new = links - reached
    assert set(DOCUMENTS) <= reached


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_what_is_named_in_the_text_exists(document: Path) -> None:
    """Paths and make targets between backquotes."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in re.findall(r"`make ([a-z-]+)", text):
        assert name in targets, f"{document.name}: make {name}"
    for path in re.findall(r"`((?:app|appliance|bench|data|docs|monitoring|pipeline|tests)/[\w./-]*\w)`", text):
        assert (ROOT / path).exists(), f"{document.name}: {path}"


def test_printed_output_is_compared_in_shape(tmp_path: Path) -> None:
    assert difference({"a": 1.0, "b": [1, "…"]}, {"a": 1.01, "b": [1, 2, 3]}) is None
    assert difference({"a": 1.0}, {"a": 1.2}) == ".a is 1.2, not 1.0"
    assert difference({"a": 1}, {"a": 1, "b": 2}) == "it has the names ['a', 'b'], not ['a']"
    assert difference({"a": 1, "…": "…"}, {"a": 1, "b": 2}) is None
    assert difference({"id": "01a2075a-3a41-763b-9b8c-d69e5df70ea4"}, {"id": "another"}) is None
    document = tmp_path / "document.md"
    text = "```bash\nmake x\n```\n\nIt prints:\n\n<!-- not run: because -->\n```text\nx\n```\n"
    document.write_text(text)
    assert [block.not_run for block in blocks(document)] == [None, "because"]
    document.write_text("```bash\nmake x\n```\n\n```text\nready in 3.1 s: … done\n…\nend\n```\n")
    (block,) = blocks(document)
    assert block.prints is not None
    assert_prints(block.prints, "ready in 17 s: one two done\nmore\nmore\nend\n")
    with pytest.raises(AssertionError):
        assert_prints(block.prints, "ready in no s: one two done\nend\n")
