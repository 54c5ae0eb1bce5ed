"""What is pinned in several files is pinned alike."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from appliance.binaries import GRAFANA, PROMETHEUS, Release

ROOT = Path(__file__).resolve().parents[2]
TAGS = dict(re.findall(r"^ARG (\w+_TAG)=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))


def test_a_plain_build_takes_the_images_whose_digests_are_kept() -> None:
    for line in (ROOT / "images.lock").read_text().splitlines():
        found = re.fullmatch(r"[a-z/]+:(\S+)@sha256:[0-9a-f]{64} (\w+_TAG)", line)
        assert found, line
        assert TAGS[found[2]] == found[1]


@pytest.mark.parametrize("release", [PROMETHEUS, GRAFANA], ids=lambda release: release.name)
def test_image_and_native_installation_have_the_same_release(release: Release) -> None:
    tag = TAGS[f"{release.name.upper()}_TAG"]
    assert tag.removeprefix("v").removesuffix("-ubuntu") == release.version


def test_actions_are_pinned_by_commit() -> None:
    used = [
        line.split("uses:")[1]
        for file in (ROOT / ".github" / "workflows").glob("*.yml")
        for line in file.read_text().splitlines()
        if "uses:" in line
    ]
    assert used
    for action in used:
        assert re.fullmatch(r" [a-z/-]+@[0-9a-f]{40}  # v[\d.]+", action)


def test_the_version_has_its_place_in_the_changelog() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## [{version}]\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_hooks_before_a_commit_are_those_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    for tool in ("-m ruff check", "-m ruff format", "-m mypy", "lint-imports"):
        assert tool in recipe
        assert sum(tool in hook["entry"] for hook in hooks) == 1
    assert len(hooks) == recipe.count("\n\t@")
