from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from pipeline.describe.raw_file import FileError, RawFile, read_raw

ROWS = "größe,price\n1,2\n3,4\n"


def read(directory: Path, content: bytes, target: str = "price") -> RawFile:
    file = directory / "mine.csv"
    file.write_bytes(content)
    return read_raw(file, target)


def refusal(directory: Path, content: bytes, target: str = "price") -> str:
    with pytest.raises(FileError) as caught:
        read(directory, content, target)
    return str(caught.value).removeprefix(f"{directory}/mine.csv ").removeprefix(f"{directory}/mine.csv: ")


def values(raw: RawFile) -> list[list[str]]:
    return [column.to_pylist() for column in raw.columns]


@pytest.mark.parametrize(
    ("content", "written"),
    [
        (ROWS.encode(), "UTF-8"),
        (ROWS.encode("utf-8-sig"), "UTF-8"),
        (ROWS.encode("utf-16"), "UTF-16"),
        (ROWS.encode("utf-16-le"), "UTF-16"),
        (ROWS.encode("utf-16-be"), "UTF-16"),
        (ROWS.encode("cp1252"), "Windows-1252"),
        (gzip.compress(ROWS.encode(), mtime=0), "UTF-8"),
        (ROWS.replace("\n", "\r\n").encode(), "UTF-8"),
        (ROWS.replace("\n", "\r").encode(), "UTF-8"),
        (f"\n\n{ROWS}\n".encode(), "UTF-8"),
    ],
)
def test_text_is_read_in_any_usual_encoding(tmp_path: Path, content: bytes, written: str) -> None:
    raw = read(tmp_path, content)
    assert raw.names == ["größe", "price"]
    assert values(raw) == [["1", "3"], ["2", "4"]]
    assert raw.written == f"CSV, separated by commas, {written}"
    assert bool(raw.notes) == (written == "Windows-1252")


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_the_separator_is_seen(tmp_path: Path, separator: str, word: str) -> None:
    raw = read(
        tmp_path, f'size{separator}"price, in €"\n"1,5"{separator}2\n'.replace("|", separator).encode(), "price, in €"
    )
    assert (raw.names, values(raw)) == (["size", "price, in €"], [["1,5"], ["2"]])
    assert word in raw.written


def test_values_in_quotes_may_have_separators_and_lines(tmp_path: Path) -> None:
    raw = read(tmp_path, b'text,price\n"a, ""b""\nc",2\nd,3\n')
    assert values(raw) == [['a, "b"\nc', "d"], ["2", "3"]]
    assert raw.where([0, 1]) == "lines 2, 4"


def test_a_header_with_one_name_less_is_that_of_r_and_one_with_a_mark_less_of_a_spreadsheet(tmp_path: Path) -> None:
    raw = read(tmp_path, b'"size","price"\n"first",1,2\n"second",3,4\n')
    assert (raw.names, values(raw)[0]) == (["", "size", "price"], ["first", "second"])
    assert raw.notes
    raw = read(tmp_path, b"size,price\n1,2,\n3,4,\n")
    assert (raw.names, values(raw)[0]) == (["size", "price", ""], ["1", "3"])


def test_a_parquet_file_is_known_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "mine.data"
    pd.DataFrame({"size": [1, 2], "price": [1.5, None]}, index=[7, 9]).to_parquet(file)
    raw = read_raw(file, "price")
    assert (raw.names, raw.written) == (["size", "price", ""], "Parquet")
    assert raw.where([0]) == "row 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty: its first line must name the columns"),
        (b"size,price\n", "there are no rows"),
        (b"size,prize\n1,2\n", "has no column 'price'; did you mean 'prize'?"),
        (b"1,2\n3,4\n", "Its first line must name the columns; they are: 1, 2"),
        (b"price,size,price\n1,2,3\n", "has 2 columns 'price': rename all but the one to predict"),
        (
            b"size,price\n1,2\n1,5,3\n",
            "line 3 has 3 values and the header 2 names: a value with a ',' in it needs quotes",
        ),
        (b"size,price\n1,2\n\n1\n", "line 4 has 1 values and the header 2 names: remove or complete it"),
        (b"PK\x03\x04\x00\x00\xff", "looks like an Excel workbook or a ZIP archive: save it as CSV or Parquet"),
        (b'[{"price": 1}]\n[]\n', "looks like JSON: save it as CSV or Parquet"),
        (b"PAR1broken", "is no Parquet file that can be read"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_line_and_a_remedy(
    tmp_path: Path, content: bytes, message: str
) -> None:
    assert message in refusal(tmp_path, content)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none.csv cannot be read: No such file"):
        read_raw(tmp_path / "none.csv", "price")
