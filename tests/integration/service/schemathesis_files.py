"""Files for schemathesis, which makes JSON by itself: tables that /predict/batch accepts."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import schemathesis
from hypothesis import strategies as st

from tableloop.table import load_table

FEATURES = load_table().features

_NUMBERS = {
    column.name: st.floats(max(column.minimum, -1000), min(column.maximum, 1000), allow_subnormal=False)
    for column in FEATURES
}
_TABLES = st.lists(st.fixed_dictionaries(_NUMBERS), min_size=1, max_size=5).map(pd.DataFrame)


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def _parquet(table: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    table.to_parquet(file)
    return file.getvalue()


schemathesis.openapi.media_type("text/csv", _TABLES.map(_csv))
schemathesis.openapi.media_type("application/vnd.apache.parquet", _TABLES.map(_parquet))


@schemathesis.hook
def before_load_schema(_context: object, schema: dict[str, Any]) -> None:
    """Take the example of a CSV file out: of types with a strategy of ours schemathesis sends no text.

    `test_openapi.py` sends it.
    """
    del schema["paths"]["/predict/batch"]["post"]["requestBody"]["content"]["text/csv"]["example"]
