from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tableloop.model.coding import Coding, days_of, iso_of

NAMES = ("size", "open", "region", "day", "moment")
KINDS: dict[str, dict[str, Any]] = {
    "open": {"type": "boolean"},
    "region": {"type": "string", "categories": ["south", "north", "7"]},
    "day": {"type": "date"},
    "moment": {"type": "datetime"},
}
CODING = Coding(NAMES, KINDS)
ROWS: list[list[Any]] = [
    [1.5, True, "north", "1970-01-02", "1970-01-01T12:00:00"],
    [None, None, None, None, None],
    [-2, False, "7", "1969-12-31", "2013-05-05T10:30:00+02:00"],
    [0.0, True, "mars", "2000-02-29", "1970-01-01"],
]
CODED = [
    [1.5, 1, 1, 1, 0.5],
    [np.nan] * 5,
    [-2, 0, 2, -1, days_of("2013-05-05T08:30:00")],
    [0, 1, np.nan, 11016, 0],
]


def test_rows_become_numbers() -> None:
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(CODING)).rows(ROWS), CODED)
    np.testing.assert_array_equal(CODING.rows(ROWS), CODED)
    np.testing.assert_array_equal(CODING.rows([]), np.empty((0, 5)))


@pytest.mark.parametrize("dates_as", ["text", "moments"])
def test_a_data_frame_of_any_order_becomes_the_same_numbers(dates_as: str) -> None:
    frame = pd.DataFrame(ROWS, columns=list(NAMES))
    if dates_as == "moments":
        for name in ("day", "moment"):
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601").dt.tz_localize(None)
    np.testing.assert_allclose(CODING.frame(frame[[*reversed(NAMES)]]), CODED, rtol=1e-15)
    np.testing.assert_array_equal(
        CODING.frame(frame.astype({"open": "boolean", "region": "str"}))[:, 1:3], np.array(CODED)[:, 1:3]
    )
    assert CODING.frame(frame.head(0)).shape == (0, 5)


def test_what_is_stored_as_numbers_is_read_back() -> None:
    np.testing.assert_array_equal(CODING.rows([[1.5, 1.0, "north", "1970-01-02", "1970-01-01T12:00:00"]]), CODED[:1])


def test_numbers_become_values_again() -> None:
    values = [[CODING.value(name, number) for name, number in zip(NAMES, row, strict=True)] for row in CODED]
    assert values[0] == [1.5, True, "north", "1970-01-02", "1970-01-01T12:00:00"]
    assert values[1] == [None] * 5
    assert values[2][4] == "2013-05-05T08:30:00"


@given(st.datetimes(min_value=pd.Timestamp("0001-01-02").to_pydatetime()))
def test_a_moment_survives_to_the_second(moment: Any) -> None:
    text = moment.replace(microsecond=0).isoformat()
    assert iso_of(days_of(text), with_time=True) == text


def test_rows_are_turned_into_another_coding() -> None:
    other = Coding(("region", "size"), {"region": {"type": "string", "categories": ["north", "east", "south"]}})
    np.testing.assert_array_equal(
        CODING.to(other)(CODING.rows(ROWS)), [[0, 1.5], [np.nan, np.nan], [np.nan, -2], [np.nan, 0]]
    )
    rows = CODING.rows(ROWS)
    assert CODING.to(Coding(NAMES, KINDS))(rows) is rows
    with pytest.raises(ValueError, match="there is no column weight"):
        CODING.to(Coding(("weight",)))
