"""The application in TEST_MODE, in this process, without a registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from tableloop.credentials import basic, write_secret
from tableloop.settings import Settings
from tableloop.state.layout import Layout
from tableloop.table import load_table

EXAMPLE = load_table().example
PASSWORD = "the administrator's"
LOGIN = {"Authorization": basic(PASSWORD)}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_secret(Layout(tmp_path).admin_password, PASSWORD)
    return Settings(state_dir=tmp_path, test_mode=True)


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), headers=LOGIN) as client:
        yield client
