from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
# Where something is computed, and by which code, not what comes of it: that is the same on any worker.
NOT_OF_THE_RESULT = {"tableloop/settings.py", "pipeline/workers.py", "pipeline/code_identity.py"}


def imported_files(name: str, seen: set[str] | None = None) -> set[str]:
    """Return the files of our packages that a module loads, itself included."""
    seen = set() if seen is None else seen
    if name in seen or name in NOT_OF_THE_RESULT:
        return seen
    seen.add(name)
    tree = ast.parse((ROOT / name).read_text())
    tree.body = [node for node in tree.body if "TYPE_CHECKING" not in ast.dump(getattr(node, "test", ast.Pass()))]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("pipeline.", "tableloop.")):
            imported_files(f"{node.module.replace('.', '/')}.py", seen)
    return seen


@pytest.mark.parametrize("stage", ["preprocess", "train"])
def test_a_stage_that_dvc_may_skip_declares_every_file_it_loads(stage: str) -> None:
    declared = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("pipeline/", "tableloop/"))]
    loaded = imported_files(f"pipeline/{stage}.py")
    assert not [file for file in loaded if not any(Path(file).is_relative_to(dep) for dep in declared)]
    assert not [dep for dep in declared if not any(Path(file).is_relative_to(dep) for file in loaded)]


def test_every_parameter_is_declared_by_its_stage() -> None:
    for section in PARAMS:
        if section == "drift":  # of the monitor, which is no stage
            continue
        assert section in STAGES[section]["params"]  # as a whole: another table may leave some of it out


def test_only_register_runs_always() -> None:
    assert [name for name, stage in STAGES.items() if stage.get("always_changed")] == ["register"]


def test_the_committed_lock_file_is_of_the_committed_data() -> None:
    data = ROOT / "data/raw/california_housing.csv"
    dependencies = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["preprocess"]["deps"]
    dependency = next(entry for entry in dependencies if entry["path"] == "data/raw/california_housing.csv")
    assert dependency["md5"] == hashlib.md5(data.read_bytes()).hexdigest()
