"""The application in TEST_MODE, in this process, without a registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from app.main import create_app
from tableloop.credentials import basic, write_secret
from tableloop.settings import Settings
from tableloop.state.layout import Layout
from tableloop.table import load_table

EXAMPLE = load_table().example
IN_EACH_STORE = pytest.mark.usefixtures("place")
PASSWORD = "the administrator's"
LOGIN = {"Authorization": basic(PASSWORD)}


@pytest.fixture
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Return settings with the store in a file, or where `place` says for a test that uses it too."""
    write_secret(Layout(tmp_path).admin_password, PASSWORD)
    place = request.getfixturevalue("place") if "place" in request.fixturenames else None
    return Settings(
        state_dir=tmp_path, test_mode=True, database_url=SecretStr(place if isinstance(place, str) else "")
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), headers=LOGIN) as client:
        yield client
