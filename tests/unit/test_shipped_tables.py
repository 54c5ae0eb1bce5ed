"""The tables under tables/ are whole: described, of rows that pass the first stage, with parameters and a source."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.preprocess import split
from pipeline.raw_rows import check, read_raw
from tableloop.table import load_table
from tests.documents import ROOT

TABLES = sorted(path.parent for path in ROOT.glob("tables/*/table.yaml"))
MOST_BYTES = 1_000_000


@pytest.mark.parametrize("directory", TABLES, ids=lambda path: path.name)
def test_a_shipped_table_is_whole(directory: Path) -> None:
    table = load_table(directory)
    params = yaml.safe_load((directory / "params.yaml").read_text())
    assert table.name == directory.name == params["register"]["experiment"]
    file = directory / table.path
    assert file.stat().st_size < MOST_BYTES
    fractions = params["preprocess"]
    rows = check(read_raw(file, table), table)
    parts = split(rows, table.feature_names, fractions["test_fraction"], fractions["validation_fraction"])
    assert len(parts["test"]) > fractions["gate_rows"]
    text = (directory / "table.yaml").read_text()
    assert "look:" not in text, "a question is left open"
    assert all(column.description and (column.unit or not column.is_number) for column in table.fields)
    assert table.description
    assert f"]({table.name}/table.yaml)" in (ROOT / "tables" / "README.md").read_text()


def test_the_tables_are_of_different_kinds() -> None:
    tables = [load_table(directory) for directory in TABLES]
    types = {column.type for table in tables for column in table.features}
    assert types >= {"number", "integer", "boolean", "string", "datetime"}
    assert any(not column.required for table in tables for column in table.features)
    assert any(table.place for table in tables)
    assert any(not table.place for table in tables)
