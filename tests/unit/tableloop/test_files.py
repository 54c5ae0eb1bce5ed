"""Files of rows: what goes through unchanged, and what is wrong with a file, by row and column."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tableloop import files
from tableloop.files import BATCH_ROWS, Kind, TableError, TableReader, TableWriter, check_table, features_of
from tableloop.model.intervals import Answers
from tableloop.table import load_table

TABLE = load_table()
FEATURES, FEATURE_NAMES = TABLE.features, TABLE.feature_names
KINDS: tuple[Kind, ...] = ("csv", "parquet")


def rows(count: int, **columns: Any) -> pd.DataFrame:
    """Return valid rows; the median income is the number of the row, from 1."""
    frame = pd.DataFrame({column.name: np.full(count, column.example) for column in FEATURES})
    frame["MedInc"] = np.arange(1, count + 1) % 1000
    return frame.assign(**columns)


def file_of(frame: pd.DataFrame, kind: Kind) -> io.BytesIO:
    file = io.BytesIO()
    frame.to_csv(file, index=False) if kind == "csv" else frame.to_parquet(file, index=False)
    file.seek(0)
    return file


def text(content: str) -> io.BytesIO:
    return io.BytesIO(content.encode())


HEADER = ",".join(FEATURE_NAMES)
LINE = ",".join(str(column.example) for column in FEATURES)


def problems(file: io.BytesIO, kind: Kind = "csv") -> list[str]:
    with pytest.raises(TableError) as caught:
        check_table(file, kind, TABLE)
    return list(map(str, caught.value.problems))


@pytest.mark.parametrize("kind_out", KINDS)
@pytest.mark.parametrize("kind_in", KINDS)
def test_rows_and_other_columns_go_through_in_their_order(kind_in: Kind, kind_out: Kind) -> None:
    count = 2 * BATCH_ROWS + 5
    frame = rows(count, note=[f'a "quoted", {row}\nline' for row in range(count)])
    frame = frame[["note", *reversed(FEATURE_NAMES)]]
    file = file_of(frame, kind_in)
    assert check_table(file, kind_in, TABLE) == count
    reader = TableReader(file, kind_in, TABLE)
    sink = io.BytesIO()
    writer = TableWriter(sink, reader.schema, kind_out, TABLE.answer)
    for batch in reader.batches():
        assert batch.num_rows <= BATCH_ROWS
        income = features_of(batch, FEATURE_NAMES)[:, 0]
        ids = [f"id-{value:g}" for value in income]
        writer.write(batch, Answers(income * 2, income, income * 3, None), "7", ids)
    writer.close()
    answer = pd.read_csv(io.BytesIO(sink.getvalue())) if kind_out == "csv" else pd.read_parquet(sink)
    assert list(answer.columns) == [*frame.columns, *files.output_columns(TABLE.answer)]
    assert answer["note"].tolist() == frame["note"].tolist()
    for name in FEATURE_NAMES:
        np.testing.assert_array_equal(answer[name], frame[name])
    np.testing.assert_array_equal(answer["predicted_median_house_value"], frame["MedInc"] * 2)
    np.testing.assert_array_equal(answer["high"], frame["MedInc"] * 3)
    assert set(answer["model_version"].astype(str)) == {"7"}
    assert answer["prediction_id"][4] == "id-5"


@pytest.mark.parametrize("content", ["\ufeff{h}\n{r}\n", "{h}\r\n{r}\r\n\r\n", "{h}\n{r}", '"{q}"\n {s}\n'])
def test_spellings_of_csv(content: str) -> None:
    line = content.format(h=HEADER, r=LINE, q=HEADER.replace(",", '","'), s=LINE.replace(",", " , "))
    (batch,) = TableReader(text(line), "csv", TABLE).batches()
    np.testing.assert_array_equal(features_of(batch, FEATURE_NAMES)[0], [column.example for column in FEATURES])


def test_a_type_that_the_first_rows_do_not_show() -> None:
    ages = ["41"] * 30_000 + ["41.5"]
    frame = rows(len(ages), HouseAge=ages, zip=["00123"] * len(ages))
    last = list(TableReader(file_of(frame, "csv"), "csv", TABLE).batches())[-1]
    assert features_of(last, FEATURE_NAMES)[-1, 1] == 41.5
    assert last.column("zip")[0].as_py() == "00123"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "a value is missing"),
        ("ten", "a finite number is needed (it is ten)"),
        ("1,5", "Expected 8 columns, got 9"),
        ("nan", "a finite number is needed (it is nan)"),
        ("-inf", "a finite number is needed (it is -inf)"),
        ("1e999", "a finite number is needed (it is 1e999)"),
        ("-0.5", "the least possible is 0 (it is -0.5)"),
        ("1001", "the greatest possible is 1000 (it is 1001)"),
    ],
)
def test_a_wrong_value_is_named_by_row_and_column(value: str, message: str) -> None:
    wrong = LINE.replace("8.3252", value)
    found = problems(text("\n".join([HEADER, *[LINE] * 9_000, wrong, LINE, ""])))
    assert len(found) == 1
    assert found[0].startswith(f"row 9001{'' if 'columns' in message else ', column MedInc'}: ")
    assert message in found[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e9])
def test_a_wrong_value_of_parquet_is_named_too(value: float) -> None:
    frame = rows(9_000)
    frame["Population"] = frame["Population"].astype(float)
    frame.loc[8_499, "Population"] = value
    (found,) = problems(file_of(frame, "parquet"), "parquet")
    assert found.startswith("row 8500, column Population: ")


def test_a_hundred_problems_are_enough() -> None:
    assert len(problems(text("\n".join([HEADER, *[LINE.replace("8.3252", "x")] * 500])))) == 100


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", ["the file is empty: its first line must name the columns"]),
        (HEADER, ["there are no rows"]),
        (HEADER.replace("MedInc", "Income") + f"\n{LINE}", ["column MedInc: the column is missing"]),
        (f"{HEADER},low\n{LINE},1", ["column low: a column of the answer has this name: rename or remove yours"]),
        (f"{HEADER},x,x\n{LINE},1,2", ["column x: there are two columns of this name"]),
        (f"{HEADER}\n{LINE}\n{LINE},5", ["row 2: Expected 8 columns, got 9"]),
    ],
)
def test_what_a_file_lacks(content: str, found: list[str]) -> None:
    assert [line.partition(f": {LINE[:3]}")[0] for line in problems(text(content))] == found


def test_text_that_is_not_utf8() -> None:
    file = io.BytesIO(f"{HEADER},town\n{LINE},".encode() + "Cañada".encode("latin-1"))
    assert "its text is not UTF-8" in problems(file)[0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", LINE.encode()])
def test_what_is_no_parquet_file(content: bytes) -> None:
    assert "no Parquet file that can be read" in problems(io.BytesIO(content), "parquet")[0]


def test_a_parquet_column_that_is_no_number(tmp_path: Path) -> None:
    found = problems(file_of(rows(3, AveOccup=["1", "2", "3"]), "parquet"), "parquet")
    assert len(found) == 1
    assert found[0].startswith("column AveOccup: its type is ")
    assert found[0].endswith("not a number")


def test_numbers_of_other_types_are_numbers() -> None:
    table = pa.Table.from_pandas(rows(3), preserve_index=False)
    table = table.set_column(1, "HouseAge", pa.array([1, 2, 3], pa.int8()))
    table = table.set_column(2, "AveRooms", pa.array([1.5, 2.5, 3.5], pa.float32()))
    file = io.BytesIO()
    pq.write_table(table, file)
    (batch,) = TableReader(file, "parquet", TABLE).batches()
    assert features_of(batch, FEATURE_NAMES)[:, 1:3].tolist() == [[1, 1.5], [2, 2.5], [3, 3.5]]


def test_nested_columns_go_through_parquet_but_not_into_csv() -> None:
    reader = TableReader(file_of(rows(2, nested=[[1], [2, 3]]), "parquet"), "parquet", TABLE)
    TableWriter(io.BytesIO(), reader.schema, "parquet", TABLE.answer)
    with pytest.raises(TableError, match="a CSV file cannot hold it"):
        TableWriter(io.BytesIO(), reader.schema, "csv", TABLE.answer)


def test_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROWS", 9_000)
    assert check_table(file_of(rows(9_000), "csv"), "csv", TABLE) == 9_000
    assert problems(file_of(rows(9_001), "csv")) == ["there are more than 9,000 rows"]
