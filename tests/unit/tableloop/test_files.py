"""Files of rows: what is passed through unchanged, and how an error names its row and column."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tableloop import files
from tableloop.files import (
    BATCH_ROWS,
    MAX_BATCH_BYTES,
    Kind,
    TableError,
    TableReader,
    TableWriter,
    check_table,
)
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
        check_table(file, kind, TABLE, kind)
    return list(map(str, caught.value.problems))


def assert_example(file: io.BytesIO, kind: Kind = "csv") -> pa.RecordBatch:
    ((batch, features, _),) = TableReader(file, kind, TABLE).batches()
    np.testing.assert_array_equal(features[0], [column.example for column in FEATURES])
    return batch


@pytest.mark.parametrize("kind_out", KINDS)
@pytest.mark.parametrize("kind_in", KINDS)
def test_rows_and_other_columns_go_through_in_their_order(kind_in: Kind, kind_out: Kind) -> None:
    count = 2 * BATCH_ROWS + 5
    frame = rows(count, note=[f'a "quoted", {row}\nline' for row in range(count)])
    frame = frame[["note", *reversed(FEATURE_NAMES)]]
    file = file_of(frame, kind_in)
    assert check_table(file, kind_in, TABLE, kind_out) == count
    reader = TableReader(file, kind_in, TABLE)
    sink = io.BytesIO()
    writer = TableWriter(sink, reader.schema, kind_out, TABLE.answer)
    for batch, features, _ in reader.batches():
        assert batch.num_rows == len(features) <= BATCH_ROWS
        income = features[:, 0]
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
    assert_example(text(line))


def test_a_type_that_the_first_rows_do_not_show() -> None:
    ages = ["41"] * 30_000 + ["41.5"]
    frame = rows(len(ages), HouseAge=ages, zip=["00123"] * len(ages))
    last, features, _ = list(TableReader(file_of(frame, "csv"), "csv", TABLE).batches())[-1]
    assert features[-1, 1] == 41.5
    assert last.column("zip")[0].as_py() == "00123"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "a value is missing"),
        ("ten", "a finite number is needed (it is ten; line 9002 of the file)"),
        ("1,5", "Expected 8 columns, got 9"),
        ("nan", "a finite number is needed (it is nan; line 9002 of the file)"),
        ("-inf", "a finite number is needed (it is -inf; line 9002 of the file)"),
        ("1e999", "a finite number is needed (it is 1e999; line 9002 of the file)"),
        ("-0.5", "the least possible is 0 (it is -0.5; line 9002 of the file)"),
        ("1001", "the greatest possible is 1000 (it is 1001; line 9002 of the file)"),
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
        (
            HEADER.replace("MedInc", "Wage") + f"\n{LINE}",
            [
                "column MedInc: the column MedInc is missing; the file has Wage, HouseAge, AveRooms, AveBedrms, "
                "Population, AveOccup, Latitude and Longitude: perhaps it has another name there"
            ],
        ),
        (f"{HEADER},low\n{LINE},1", ["column low: a column of the answer has this name: rename or remove yours"]),
        (f"{HEADER},MedInc\n{LINE},1", ["column MedInc: there is more than one column of this name: 1 and 9"]),
        (
            f"medinc,MEDINC,{HEADER[7:]}\n1,{LINE}",
            ["column MedInc: there is more than one column of this name: 1 and 2"],
        ),
        (
            f"{HEADER}\n{LINE}\n{LINE},5",
            [f"row 2: Expected 8 columns, got 9: {LINE},5; a value with a , in it needs quotes (line 3 of the file)"],
        ),
        (LINE + "\n", ["its first line must name the columns, and seems to be a row"]),
        (HEADER.replace(",", " ") + "\n1 2 3\n", ["columns are separated by commas, semicolons or tabs"]),
        ("Houses of 1990\n\n" + HEADER + "\n", ["the file has Houses of 1990: columns are separated by commas"]),
        ("\n" * 200, ["its first 100 lines are blank"]),
        (HEADER.replace("MedInc", "MedIncome") + f"\n{LINE}", ["perhaps rename MedIncome to MedInc"]),
        (
            "longitude,latitude,total_rooms\n1,2,3\n",
            ["the file has longitude, latitude and total_rooms: it seems to be"],
        ),
        (",".join(f"c{number}" for number in range(50)) + "\n", ["c18, c19 and 30 more: it seems to be"]),
        ('[{"MedInc": 1}]', ["it looks like JSON: send it as application/json"]),
        ("PAR1 and more", ["it looks like Parquet: send it as application/vnd.apache.parquet"]),
        ("\x1f\x8b\x08", ["it looks like gzip: send it with Content-Encoding: gzip"]),
        ("PK\x03\x04\n", ["it looks like an Excel workbook or a ZIP archive: save it as CSV"]),
        ("<html>\n", ["it looks like HTML or XML"]),
    ],
)
def test_what_a_file_lacks_and_what_it_has(content: str, found: list[str]) -> None:
    said = problems(io.BytesIO(content.encode("latin-1")))
    assert len(said) == len(found)
    assert all(part in line for part, line in zip(found, said, strict=True)), said


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "\n", "\r\n", ";;;;\n\n", "\ufeff", "sep={s}\r\n"])
def test_separators_and_what_may_stand_before_the_names(separator: str, first: str) -> None:
    lines = "\n".join([HEADER, LINE, ""]).replace(",", separator)
    assert_example(text(first.format(s=separator) + lines))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_decimal_comma_where_nothing_else_is_a_comma(separator: str) -> None:
    comma = f"{HEADER}\n{LINE}".replace(",", separator).replace(".", ",")
    assert_example(text(f"{comma}\n"))
    (found,) = problems(text(f"{comma}\n{comma.splitlines()[1].replace('37,88', '37.88')}\n"))[:1]
    assert "a decimal point and no other mark" in found


def test_a_decimal_comma_stays_one_in_later_rows() -> None:
    line = LINE.replace(",", ";").replace(".", ",")
    lines = [HEADER.replace(",", ";"), *[line] * 20_000, line.replace("37,88", "37.88"), ""]
    (found,) = problems(text("\n".join(lines)))
    assert found == (
        "row 20001, column Latitude: a finite number is needed, with a decimal comma as in the rows before "
        "(it is 37.88; line 20002 of the file)"
    )


@pytest.mark.parametrize("value", ['"8,3252"', '"1,200"'])
def test_a_comma_that_may_be_between_thousands_is_refused(value: str) -> None:
    (found,) = problems(text(f"{HEADER}\n{LINE.replace('8.3252', value)}\n"))
    assert "a finite number is needed, with a decimal point and no other mark" in found


@pytest.mark.parametrize(
    "spelt",
    [
        str.lower,
        str.upper,
        lambda names: names.replace(",", ", "),
        lambda names: '"' + names.replace(",", '", "') + '"',
        lambda names: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", names),
        lambda names: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", names).lower(),
    ],
)
def test_names_in_other_letters_are_kept_in_the_answer(spelt: Callable[[str], str]) -> None:
    header = spelt(HEADER)
    names = [name.strip(' "') for name in header.split(",")]
    for kind in KINDS:
        frame = rows(1)
        frame["MedInc"] = TABLE.example["MedInc"]
        file = text(f"{header}\n{LINE}\n") if kind == "csv" else file_of(frame.set_axis(names, axis=1), "parquet")
        assert assert_example(file, kind).schema.names == names


def test_a_name_of_several_lines() -> None:
    assert assert_example(text(f'"a\nb",{HEADER}\nmine,{LINE}\n')).schema.names[0] == "a\nb"


def test_the_exact_name_goes_before_a_similar_one() -> None:
    batch = assert_example(text(f"medinc,{HEADER}\nmine,{LINE}\n"))
    assert batch.column(0)[0].as_py() == "mine"


def test_other_columns_may_have_one_name_but_not_in_parquet() -> None:
    file = text(f"{HEADER},note,note\n{LINE},1,2\n")
    assert check_table(file, "csv", TABLE, "csv") == 1
    with pytest.raises(TableError, match="column note: a Parquet file cannot hold two columns of this name"):
        check_table(file, "csv", TABLE, "parquet")


def test_the_line_of_a_row_behind_blank_lines_and_long_values() -> None:
    wrong = LINE.replace("37.88", "99")
    (found,) = problems(text(f'\nnote,{HEADER}\n\n"a\nb",{LINE}\n\n"c\nd",{wrong}\n'))
    assert found == "row 2, column Latitude: the greatest possible is 90 (it is 99; line 7 of the file)"


class SlowFile(io.BytesIO):
    """A file on a slow disk: what reads ahead in a thread of its own is still at it when others want the file."""

    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(0.01)
        return super().read(size)


def test_arrow_reads_ahead_and_nobody_is_disturbed() -> None:
    content = rows(30_000).to_csv(index=False)  # three blocks of what Arrow reads
    for _ in range(10):  # two would have failed when the file was opened twice
        file = SlowFile(content.encode())
        assert check_table(file, "csv", TABLE, "csv") == 30_000
        assert sum(batch.num_rows for batch, _, _ in TableReader(file, "csv", TABLE).batches()) == 30_000
        wrong = content.replace("37.88", "99", 1) + f"{LINE},1\n"
        found = problems(SlowFile(wrong.encode()))
        assert found[0].endswith("(it is 99; line 2 of the file)")
        assert found[1].endswith("(line 30002 of the file)")


def test_the_line_of_a_row_behind_a_first_name_of_two_lines_and_a_byte_order_mark() -> None:
    wrong = LINE.replace("37.88", "99")
    (found,) = problems(text(f'\ufeff"a\nnote",{HEADER}\n1,{wrong}\n'))
    assert found == "row 1, column Latitude: the greatest possible is 90 (it is 99; line 3 of the file)"


def test_how_many_problems_are_not_listed() -> None:
    wrong = [LINE.replace("37.88", "99").replace("322", "x")] * 9_000
    with pytest.raises(TableError, match="17,900 more problems are not listed") as caught:
        check_table(text("\n".join([HEADER, *wrong, ""])), "csv", TABLE, "csv")
    assert (len(caught.value.problems), caught.value.unlisted) == (100, 17_900)


def test_text_that_is_not_utf8() -> None:
    file = io.BytesIO(f"{HEADER},town\n{LINE},".encode() + "Cañada".encode("latin-1"))
    assert "its text is not UTF-8 in line 2" in problems(file)[0]
    assert "it looks like text in UTF-16: save it as UTF-8" in problems(io.BytesIO(HEADER.encode("utf-16")))[0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", LINE.encode()])
def test_what_is_no_parquet_file(content: bytes) -> None:
    (found,) = problems(io.BytesIO(content), "parquet")
    assert "no Parquet file that can be read" in found
    assert ("it looks like text: send CSV as text/csv" in found) is (content == LINE.encode())


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
    ((batch, features, _),) = TableReader(file, "parquet", TABLE).batches()
    assert batch.schema.field("HouseAge").type == pa.int8()
    assert features[:, 1:3].tolist() == [[1, 1.5], [2, 2.5], [3, 3.5]]


@pytest.mark.parametrize(
    ("column", "type_"),
    [
        (pa.array([[1], [2, 3]]), "list"),
        (pa.array([{"a": 1}, None]), "struct"),
        (pa.array([b"sound", b"\xff\xfe"]), "binary"),
        (pa.array([0, 1], pa.timestamp("us", "US/Pacific-New")), "timestamp"),
        (pa.array([b"0" * 16, b"\xff" * 16], pa.uuid()), "binary"),
        (pa.array([b"\xff", b"a"]).dictionary_encode(), "dictionary"),
    ],
)
def test_what_a_csv_file_cannot_hold_goes_through_parquet(column: pa.Array, type_: str) -> None:
    table = pa.Table.from_pandas(rows(2), preserve_index=False).append_column("more", column)
    file = io.BytesIO()
    pq.write_table(table, file)
    assert check_table(file, "parquet", TABLE, "parquet") == 2
    with pytest.raises(TableError, match=f"column more: a CSV file cannot hold .*{type_}.*: ask for Parquet"):
        check_table(file, "parquet", TABLE, "csv")


def test_text_and_numbers_in_other_forms_go_into_csv() -> None:
    table = pa.Table.from_pandas(rows(2), preserve_index=False)
    table = table.append_column("text", pa.array(["a", "ü"], pa.string_view()))
    table = table.append_column("flag", pa.array([1, 0], pa.int8()).cast(pa.bool8()))
    file, sink = io.BytesIO(), io.BytesIO()
    pq.write_table(table, file)
    assert check_table(file, "parquet", TABLE, "csv") == 2
    reader = TableReader(file, "parquet", TABLE)
    writer = TableWriter(sink, reader.schema, "csv", TABLE.answer)
    for batch, features, _ in reader.batches():
        income = features[:, 0]
        writer.write(batch, Answers(income, income, income, None), "7", ["id"] * len(income))
    writer.close()
    answer = pd.read_csv(io.BytesIO(sink.getvalue()))
    assert answer[["text", "flag"]].to_numpy().tolist() == [["a", 1], ["ü", 0]]


def test_text_in_parquet_that_is_no_text_does_not_go_into_csv() -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(rows(1), preserve_index=False).append_column("more", broken), file)
    with pytest.raises(TableError, match="column more: a CSV file cannot hold"):
        check_table(file, "parquet", TABLE, "csv")


def test_types_and_the_index_of_pandas_are_kept() -> None:
    frame = rows(3, zone=pd.Categorical(["a", "b", "a"]), day=pd.to_datetime(["2026-01-01"] * 3, utc=True))
    frame = frame.astype({"HouseAge": "int64", "Population": "int32"}).set_axis(["x", "y", "z"]).rename_axis("tract")
    file, sink = io.BytesIO(), io.BytesIO()
    frame.to_parquet(file)
    reader = TableReader(file, "parquet", TABLE)
    writer = TableWriter(sink, reader.schema, "parquet", TABLE.answer)
    for batch, features, _ in reader.batches():
        income = features[:, 0]
        writer.write(batch, Answers(income, income, income, None), "7", ["id"] * len(income))
    writer.close()
    pd.testing.assert_frame_equal(pd.read_parquet(sink)[list(frame.columns)], frame)


def test_too_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROWS", 9_000)
    assert check_table(file_of(rows(9_000), "csv"), "csv", TABLE, "csv") == 9_000
    assert problems(file_of(rows(9_001), "csv")) == ["there are more than 9,000 rows"]


def test_a_parquet_file_of_long_texts_or_many_columns_is_read_in_fewer_rows_at_a_time() -> None:
    random = np.random.default_rng(0)
    texts = [random.bytes(2_500).hex() for _ in range(BATCH_ROWS)]
    many = {f"c{number}": np.zeros(BATCH_ROWS) for number in range(900)}
    for frame in (rows(BATCH_ROWS, note=texts), pd.concat([rows(BATCH_ROWS), pd.DataFrame(many)], axis="columns")):
        reader = TableReader(file_of(frame, "parquet"), "parquet", TABLE)
        batches = [batch for batch, _, _ in reader.batches()]
        assert sum(batch.num_rows for batch in batches) == BATCH_ROWS
        assert max(batch.nbytes for batch in batches) <= MAX_BATCH_BYTES
