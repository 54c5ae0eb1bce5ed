from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.describe.column_values import Values, decimal_mark, read_column


def read(texts: list[Any], *, name: str = "a", mark: str = ".") -> Values:
    given = (
        pa.chunked_array([pa.array(texts, pa.string())]) if all(isinstance(t, str | None) for t in texts) else None
    )
    given = given or pa.chunked_array([pa.array(texts)])
    return read_column(name, given, mark, lambda rows: f"rows {[row + 1 for row in rows]}")


def plain(values: Values) -> list[Any]:
    return [None if pd.isna(value) else value for value in values.data]


@pytest.mark.parametrize(
    ("texts", "kind", "expected"),
    [
        (["1", " 2 ", "-3", "+4"], "integer", [1, 2, -3, 4]),
        (["1", "2.50", ".5", "1e3"], "number", [1, 2.5, 0.5, 1000]),
        (["1,5", "2,25", "1.234,5"], "number", [1.5, 2.25, 1234.5]),
        (["1,234.5", "12,345,678", "7"], "number", [1234.5, 12345678, 7]),
        (["1 234", "12 345", "7"], "integer", [1234, 12345, 7]),
        (["1'234.5", "1\u2019000"], "number", [1234.5, 1000]),
        (["(5)", "\u22127", "3"], "integer", [-5, -7, 3]),
        (['"12"', "'13", "14"], "integer", [12, 13, 14]),
        (["1.0", "", "3.0"], "integer", [1, None, 3]),  # what pandas makes of whole numbers with a gap
        (["1.0", "3.0"], "number", [1, 3]),
        (["1.5", "inf", "2"] + ["3"] * 10, "number", [1.5, None, 2] + [3] * 10),
        (["TRUE", "False", "true"], "boolean", [True, False, True]),
        (["yes", "no", "n/a"], "boolean", [True, False, None]),
        (["Ja", "nein"], "boolean", [True, False]),
        (["yes", "yes"], "string", ["yes", "yes"]),
        (["male", " female", "male "], "string", ["male", "female", "male"]),
        (["None", "Brick", "None"], "string", ["None", "Brick", "None"]),  # may be a level
        (["01067", "10115"], "string", ["01067", "10115"]),
        (["5", "two", "x", "7"], "string", ["5", "two", "x", "7"]),
        (["12 km", "3 km"], "string", ["12 km", "3 km"]),
        (["10.1.2.3", "10.1.2.4"], "string", ["10.1.2.3", "10.1.2.4"]),
        (["1. Yes", "2. No"], "string", ["1. Yes", "2. No"]),
    ],
)
def test_what_texts_mean(texts: list[str], kind: str, expected: list[Any]) -> None:
    values = read(texts)
    assert (values.type, plain(values)) == (kind, expected)
    assert ("unit" in " ".join(values.notes)) == (texts == ["12 km", "3 km"])


@pytest.mark.parametrize("missing", ["", "NA", "n/a", "null", "NaN", "-", "?", "#N/A", "."])
def test_what_stands_for_a_missing_value_is_said(missing: str) -> None:
    for texts, kind in ((["1", missing, "2"], "integer"), (["x", missing, "y"], "string")):
        values = read(texts)
        assert (values.type, int(values.data.isna().sum())) == (kind, 1)
        assert values.notes == ([f'read as missing: "{missing}" (1), rows [2]'] if missing else [])


@pytest.mark.parametrize(
    ("texts", "unit"),
    [
        (["$1,234.50", "$99", "-$5"], "$"),
        (["12,50 €", "3 €"], "€"),
        (["5 %", "7.5%"], "%"),
        (["10 USD", "20 usd"], "$"),
        (["12", "13"], ""),
    ],
)
def test_signs_of_money_and_percent_are_the_unit(texts: list[str], unit: str) -> None:
    values = read(texts)
    assert values.type in ("number", "integer")
    assert (values.unit, values.notes) == (unit, [])


def test_numbers_of_which_some_have_a_sign_are_doubtful() -> None:
    values = read(["5 %", "0.05", "7 %"])
    assert (values.unit, plain(values)) == ("", [5, 0.05, 7])
    assert "not all numbers have the same sign" in values.notes[0]


def test_a_few_texts_among_numbers_are_missing_and_named() -> None:
    values = read(["1", "2", "about 3", *map(str, range(4, 30))])
    assert (values.type, plain(values)[2]) == ("integer", None)
    assert values.notes == ['no numbers, read as missing: "about 3" (1), rows [3]']


@pytest.mark.parametrize(("mark", "value"), [(".", 1234.0), (",", 1.234)])
def test_a_mark_before_three_digits_is_read_as_in_the_rest_of_the_file(mark: str, value: float) -> None:
    values = read(["1,234", "2,500"], mark=mark)
    assert plain(values)[0] == value
    assert "its mark may stand between thousands or before decimals" in values.notes[0]


@pytest.mark.parametrize(
    ("columns", "separator", "mark"),
    [
        ([["1,5", "2"], ["1.234"]], ";", ","),
        ([["1.5"], ["1,234"]], ",", "."),
        ([["1,234"]], ",", "."),
        ([["1,234"]], ";", ","),
        ([["x", "y"]], "\t", "."),
    ],
)
def test_the_decimal_mark_of_a_file(columns: list[list[str]], separator: str, mark: str) -> None:
    assert decimal_mark([pa.chunked_array([column]) for column in columns], separator) == mark


@pytest.mark.parametrize(
    ("texts", "kind", "first"),
    [
        (["2013-05-06", "2014-01-31"], "date", "2013-05-06"),
        (["2013-05-06T14:30:00", "2014-01-31T00:00:00"], "datetime", "2013-05-06 14:30:00"),
        (["2013-05-06 14:30", "2014-01-31 00:00"], "datetime", "2013-05-06 14:30:00"),
        (["2013/05/06", "2014/01/31"], "date", "2013-05-06"),
        (["06.05.2013", "31.01.2014"], "date", "2013-05-06"),
        (["06/05/2013", "31/01/2014"], "date", "2013-05-06"),
        (["05/06/2013", "01/31/2014"], "date", "2013-05-06"),
        (["5/6/2013 2:30 PM", "1/31/2014 12:00 AM"], "datetime", "2013-05-06 14:30:00"),
        (["6 May 2013", "31 Jan 2014"], "date", "2013-05-06"),
        (["May 6, 2013", "January 31, 2014"], "date", "2013-05-06"),
        (["May 6 2013", "Jan 31 2014"], "date", "2013-05-06"),
        (["06-May-13", "31-Jan-14"], "date", "2013-05-06"),
    ],
)
def test_dates_are_read(texts: list[str], kind: str, first: str) -> None:
    values = read([*texts, ""])
    assert values.type == kind
    assert values.data[0] == pd.Timestamp(first)
    assert values.data.isna().tolist() == [False, False, True]


def test_a_zone_is_turned_into_utc_and_said() -> None:
    values = read(["2013-05-06T14:30:00+02:00", "2013-12-06T14:30:00Z"])
    assert values.data.tolist() == [pd.Timestamp("2013-05-06 12:30"), pd.Timestamp("2013-12-06 14:30")]
    assert "in UTC" in values.notes[0]


def test_days_and_months_that_nothing_tells_apart_are_said() -> None:
    values = read(["05/06/2013", "01/02/2013"])
    assert values.data[0] == pd.Timestamp("2013-05-06")
    assert values.notes == ['"05/06/2013" was read with the month first: no value tells days from months']
    assert read(["05/06/2013", "01/02/2013"], mark=",").data[0] == pd.Timestamp("2013-06-05")
    in_order = read(["01/02/2013", "05/02/2013", "02/03/2013"])  # which is that of days first
    assert in_order.data[0] == pd.Timestamp("2013-02-01")


def test_digits_are_a_date_only_where_the_name_says_so() -> None:
    assert read(["20130506", "20140131"], name="sale_date").type == "date"
    assert read(["20130506", "20140131"], name="amount").type == "integer"


@pytest.mark.parametrize(
    ("texts", "note"),
    [
        (["Male", "male", "female"], "differ in capitals only"),
        (["12 km", "3 km"], "look like numbers with a unit"),
        (["12:30", "9:15"], "times of the day"),
        (["01067", "10115"], "a zero in front were read as codes"),
        (["06-May-13", "31-Jan-14"], "years have two digits"),
    ],
)
def test_what_may_be_meant_otherwise_is_said(texts: list[str], note: str) -> None:
    assert note in read(texts).notes[0]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ([1, 2, None], "integer"),
        ([1.5, None], "number"),
        ([1.0, np.nan], "integer"),
        ([True, None], "boolean"),
        ([pd.Timestamp("2013-05-06 12:00")], "datetime"),
        ([pd.Timestamp("2013-05-06 12:00", tz="Europe/Berlin")], "datetime"),
        ([pd.Timestamp("2013-05-06").date()], "date"),
        ([[1, 2]], "unreadable"),
        (["1,5", "2,25"], "number"),
    ],
)
def test_types_of_parquet(given: list[Any], kind: str) -> None:
    array = pa.array(given, from_pandas=True)
    assert read_column("a", pa.chunked_array([array]), ".", str).type == kind
    if kind != "unreadable":
        assert read_column("a", pa.chunked_array([array.dictionary_encode()]), ".", str).type == kind
