from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipeline.preprocess import check, place_in_split, split
from pipeline.schema import FEATURE_NAMES, FEATURES, TARGET
from pipeline.stage import StageError


@pytest.fixture
def frame() -> pd.DataFrame:
    """Two thousand rows that differ and are all possible."""
    random = np.random.default_rng(0)
    rows = {column.name: column.example * random.uniform(0.9, 1.1, 2000) for column in (*FEATURES, TARGET)}
    return pd.DataFrame(rows)


def test_good_data_passes_and_comes_in_the_order_of_the_schema(frame: pd.DataFrame) -> None:
    checked = check(frame[frame.columns[::-1]])
    assert list(checked) == [*FEATURE_NAMES, TARGET.name]
    assert (checked.dtypes == np.float64).all()


def test_whole_numbers_are_numbers(frame: pd.DataFrame) -> None:
    frame["Population"] = 7
    assert check(frame)["Population"].dtype == np.float64


def test_bad_data_lists_every_column_and_its_lines_at_once(frame: pd.DataFrame) -> None:
    frame.loc[3:5, "Latitude"] = 91.0
    frame.loc[9, "Latitude"] = -95.5
    frame.loc[7, "Population"] = np.nan
    frame.loc[1, "AveRooms"] = np.inf
    frame["MedInc"] = frame["MedInc"].astype(object)
    frame.loc[0, "MedInc"] = "rich"
    frame["Colour"] = 1
    frame = frame.drop(columns="HouseAge")
    with pytest.raises(StageError) as caught:
        check(frame)
    message = str(caught.value)
    assert message.startswith("6 problems in the raw data\n")
    assert "missing column: HouseAge" in message
    assert "unknown column: Colour" in message
    assert "MedInc: 1 value not a number, line 2 (for example rich)" in message
    assert "AveRooms: 1 value not within 0.01 to 10000, line 3 (for example inf)" in message
    assert "Population: 1 value empty, line 9" in message
    assert "Latitude: 4 values not within -90 to 90, lines 5-7, 11 (for example 91.0, -95.5)" in message


def test_many_bad_rows_stay_readable(frame: pd.DataFrame) -> None:
    frame.loc[::2, "Latitude"] = 91.0
    with pytest.raises(StageError, match="1,000 values not within -90 to 90, lines 2, 4, 6, 8, 10 and 995 more"):
        check(frame)


def test_an_empty_table_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(StageError, match="no rows"):
        check(frame.head(0))


def test_the_parts_have_the_sizes_asked_for_and_share_no_row(frame: pd.DataFrame) -> None:
    parts = split(frame, test_fraction=0.2, validation_fraction=0.25)
    sizes = {name: len(part) / len(frame) for name, part in parts.items()}
    assert sizes == pytest.approx({"train": 0.6, "validation": 0.2, "test": 0.2}, abs=0.03)
    assert sum(len(part) for part in parts.values()) == len(frame)
    assert not pd.concat(parts.values()).duplicated().any()


def test_no_row_changes_side_when_rows_are_added_and_shuffled(frame: pd.DataFrame) -> None:
    before = split(frame.head(1000), 0.2, 0.2)
    after = split(frame.sample(frac=1, random_state=1), 0.2, 0.2)
    for name, part in before.items():
        assert len(part.merge(after[name])) == len(part)


def test_another_label_of_the_same_place_stays_on_its_side(frame: pd.DataFrame) -> None:
    relabelled = frame.assign(**{TARGET.name: 1.0})
    np.testing.assert_array_equal(place_in_split(frame), place_in_split(relabelled))


def test_the_hash_is_the_same_on_every_machine_and_version() -> None:
    row = pd.DataFrame([{column.name: column.example for column in FEATURES}])
    assert place_in_split(row) == pytest.approx(0.4827283425392491, abs=1e-15)
