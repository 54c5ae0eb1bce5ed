"""Files whose columns are categories, booleans and dates, and have values missing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tableloop.files import Kind, TableError, TableReader, check_table
from tableloop.table import Table
from tests.unit.tableloop.test_table import CONTENT

TABLE = Table.model_validate(CONTENT)
FRAME = pd.DataFrame(
    {
        "age": [30.0, 40.0, 50.0],
        "bmi": [np.nan, 25.5, 31.0],
        "smoker": [True, False, True],
        "region": ["north, east", "south", "mars"],
        "seen": ["2013-05-05T10:00:00", "2013-01-01T00:00:00", "1999-12-31T23:59:59"],
    }
)
CODED = TABLE.coding.frame(FRAME)


def file_of(frame: pd.DataFrame, kind: Kind) -> io.BytesIO:
    file = io.BytesIO()
    frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file, index=False)
    file.seek(0)
    return file


def read(file: io.BytesIO, kind: Kind) -> Any:
    (rows,) = TableReader(file, kind, TABLE).batches()
    return rows


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"smoker": ["yes", "NO", "1"]},
        {"seen": pd.to_datetime(FRAME["seen"])},
        {"region": pd.Categorical(FRAME["region"])},
        {"smoker": pd.array([True, False, True], dtype="boolean")},
    ],
)
def test_rows_are_coded_as_those_of_a_data_frame(kind: Kind, changed: dict[str, Any]) -> None:
    rows = read(file_of(FRAME.assign(**changed), kind), kind)
    np.testing.assert_array_equal(rows.features, CODED)
    values = [*map(list, rows.values())]
    assert values[0][2:] == [True, "north, east", "2013-05-05T10:00:00"]
    assert values[2][3] == "mars"  # what was asked is logged, though no model knows it
    assert np.isnan(values[0][1])
    assert rows.batch.num_rows == 3


def test_words_for_missing_values_are_understood_where_a_value_may_be_missing() -> None:
    text = FRAME.to_csv(index=False).replace("30.0,,", "30,NA,").replace("25.5", "null")
    rows = read(io.BytesIO(text.encode()), "csv")
    assert np.isnan(rows.features[:2, 1]).all()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("smoker", "perhaps", "'perhaps' is neither true nor false (line 3 of the file)"),
        ("seen", "yesterday", "'yesterday' is no moment like 2013-05-06T14:30:00 (line 3 of the file)"),
        ("seen", "2150-01-01", "the greatest possible is 2100-01-01T00:00:00 (line 3 of the file)"),
        ("smoker", None, "a value is missing (line 3 of the file)"),
        ("age", None, "a value is missing (line 3 of the file)"),
    ],
)
def test_a_wrong_value_is_told_with_its_line(column: str, value: Any, message: str) -> None:
    values: list[Any] = FRAME[column].tolist()
    frame = FRAME.assign(**{column: [values[0], value, values[2]]})
    with pytest.raises(TableError) as caught:
        check_table(file_of(frame, "csv"), "csv", TABLE, "csv")
    (problem,) = caught.value.problems
    assert (problem.row, problem.column, problem.text) == (2, column, message)


def test_a_column_of_lists_is_refused() -> None:
    frame = FRAME.assign(region=pd.Series([["a"], ["b"], ["c"]], dtype=pd.ArrowDtype(pa.list_(pa.string()))))
    with pytest.raises(TableError, match="not a string"):
        TableReader(file_of(frame, "parquet"), "parquet", TABLE)
