"""What the page knows of a table without places, with categories, dates and missing values."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from app import page_data
from app.champion import Champion, Matrix, dummy_champion
from app.likeness import UNLIKE
from app.page_data import NoRowsError, Rows, read_rows
from tableloop.model.coding import days_of
from tableloop.model.intervals import Answers
from tableloop.table import Table, load_table
from tests import hires

NAMES = [field["name"] for field in hires.TABLE["fields"]][:-1]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hires.write(tmp_path_factory.mktemp("tables") / "hires")


@pytest.fixture(scope="module")
def table(directory: Path) -> Table:
    return load_table(directory)


@pytest.fixture(scope="module")
def rows(directory: Path, table: Table) -> Rows:
    return read_rows(directory / table.path, table)


def raw(directory: Path) -> list[dict[str, str]]:
    with (directory / "raw" / "hires.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def champion_of(table: Table, rows: Rows) -> Champion:
    """A model that adds to the temperature the number of the weather; a missing temperature is -100."""

    def predict(asked: Matrix) -> Answers:
        values = np.nan_to_num(asked[:, 0], nan=-100) + 1000 * asked[:, table.feature_names.index("weather")]
        return Answers(values, values - 1, values + 2, None)

    ends = np.stack([np.nanmin(rows.features, axis=0), np.nanmax(rows.features, axis=0)], axis=1).tolist()
    known = tuple((*span,) if column.is_ordered else None for column, span in zip(table.features, ends, strict=True))
    return replace(dummy_champion(), predict=predict, known=known)


def test_every_type_is_read_as_the_contract_says(directory: Path, rows: Rows) -> None:
    expected = raw(directory)
    assert (len(rows.targets), rows.total) == (400, 400)
    for number in range(400):
        row, given = rows.row(number), expected[number]
        assert list(row.features) == NAMES
        assert row.features["temperature"] == (float(given["temperature"]) if given["temperature"] else None)
        assert row.features["gusts"] == int(given["gusts"])
        assert row.features["works"] == {"true": True, "false": False, "": None}[given["works"]]
        for name in ("weather", "size", "station", "day", "seen"):
            assert row.features[name] == (given[name] or None)
        assert (row.actual_value, row.kilometres) == (int(given["hires"]), None)


def test_parquet_is_read_as_csv_is(directory: Path, table: Table, rows: Rows, tmp_path: Path) -> None:
    frame = pd.read_csv(directory / "raw" / "hires.csv", parse_dates=["day", "seen"])
    frame["weather"] = frame["weather"].astype("category")
    frame["works"] = frame["works"].astype("boolean")
    frame.to_parquet(tmp_path / "hires.parquet", row_group_size=150)
    read = read_rows(tmp_path / "hires.parquet", table)
    np.testing.assert_array_equal(read.features, rows.features)
    np.testing.assert_array_equal(read.targets, rows.targets)


def test_a_value_in_quotes_may_have_several_lines(table: Table, tmp_path: Path) -> None:
    hires.write(tmp_path / "hires", rows=3)
    file = tmp_path / "hires" / "raw" / "hires.csv"
    file.write_text(file.read_text().replace("x, y", 'a ""word"",\n\nand more') + "\n\n")
    assert read_rows(file, table).total == 3


@pytest.mark.parametrize("wrong", ["true", "snow", "6 May", ""])
def test_a_value_that_the_contract_refuses_is_named(table: Table, tmp_path: Path, wrong: str) -> None:
    column = {"true": "temperature", "snow": "size", "6 May": "day", "": "gusts"}[wrong]
    file = hires.write(tmp_path / "hires", rows=3) / "raw" / "hires.csv"
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    frame.loc[1, column] = wrong
    frame.to_csv(file, index=False)
    with pytest.raises(NoRowsError, match=r"hires\.csv"):
        read_rows(file, table)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_without_rows_is_named(table: Table, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"hires{suffix}"
    frame = pd.read_csv(hires.write(tmp_path / "hires") / "raw" / "hires.csv").head(0)
    frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_parquet(file)
    with pytest.raises(NoRowsError, match=f"hires{suffix} cannot be shown: it has no rows"):
        read_rows(file, table)


def test_a_directory_of_files_is_read_as_one(directory: Path, table: Table, tmp_path: Path) -> None:
    whole = pd.read_csv(directory / table.path)
    (tmp_path / "hires/later").mkdir(parents=True)
    whole[:150].to_parquet(tmp_path / "hires/a.parquet")
    whole[150:].to_parquet(tmp_path / "hires/later/b.parquet")
    (tmp_path / "hires/_SUCCESS").write_bytes(b"")
    rows, expected = read_rows(tmp_path / "hires", table), read_rows(directory / table.path, table)
    assert rows.total == len(whole)
    np.testing.assert_array_equal(rows.features, expected.features)
    np.testing.assert_array_equal(rows.targets, expected.targets)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_of_a_large_file_a_sample_is_kept_the_same_each_time(
    directory: Path, table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(page_data, "ROWS", 90)
    file = directory / table.path
    if suffix == ".parquet":
        file = tmp_path / "hires.parquet"
        pd.read_csv(directory / table.path).to_parquet(file)
    first, second = read_rows(file, table), read_rows(file, table)
    assert (len(first.targets), first.total) == (90, 400)
    np.testing.assert_array_equal(first.features, second.features)
    assert first.described(None).kept == 90
    later = {int(row["hires"]) for row in raw(directory)[200:]}
    assert len(later & set(first.targets.astype(int).tolist())) > 20  # from all over the file


def test_the_page_is_told_each_type(table: Table, rows: Rows) -> None:
    described = rows.described(champion_of(table, rows))
    assert described.place is None
    told = {feature.name: feature for feature in described.features}
    assert [feature.type for feature in described.features] == [column.type for column in table.features]
    assert [name for name, feature in told.items() if not feature.required] == [
        "temperature",
        "works",
        "station",
        "seen",
    ]
    assert told["weather"].categories == tuple(hires.WEATHERS)
    assert (told["size"].unknown, told["weather"].unknown) == ("refuse", "warn")
    for name in ("holiday", "weather"):
        assert (told[name].minimum, told[name].maximum, told[name].training_range, told[name].scale) == (
            None,
        ) * 3 + ([],)
    assert (told["day"].minimum, told["day"].maximum) == ("2020-01-01", "2030-12-31")
    first, last = (days_of(str(end)) for end in told["day"].training_range or ())
    assert (told["day"].scale[0], told["day"].scale[-1]) == (first, last)
    assert told["seen"].minimum == "2020-01-01T00:00:00"
    assert told["gusts"].scale == [0, 1, 2, 3, 4, 5, 6]  # few whole numbers: each is a mark
    assert len(told["temperature"].scale) == 25


def test_similar_rows_agree_in_categories_and_are_near_in_rank(rows: Rows) -> None:
    for number in range(0, 400, 40):
        row = rows.row(number)
        found = rows.alike(row.features)
        assert len(found) == page_data.ALIKE
        assert row not in found
        for name in ("weather", "size"):
            assert [other.features[name] for other in found].count(row.features[name]) >= 3
        # No other row is nearer than the first, by the same rule written out.
        apart = [distance(rows, row.features, other) for other in range(400) if other != number]
        assert min(apart) == pytest.approx(distance(rows, row.features, features=found[0].features), abs=1e-6)


def distance(rows: Rows, given: dict[str, Any], number: int = 0, features: dict[str, Any] | None = None) -> float:
    features = features or rows.row(number).features
    total = 0.0
    for place, column in enumerate(rows.table.features):
        mine, other = given[column.name], features[column.name]
        if mine is None or other is None or not column.is_ordered:
            total += UNLIKE if mine != other else 0
        else:
            values = rows.features[:, place]
            first, second = (days_of(value) if isinstance(value, str) else value for value in (mine, other))
            total += (np.sum((values >= min(first, second)) & (values < max(first, second))) / 400) ** 2
    return total


def test_a_row_of_missing_values_and_strange_levels_has_similar_ones_too(rows: Rows) -> None:
    strange = {"gusts": 3, "holiday": False, "weather": "hail", "size": "small", "day": "2024-05-06"}
    assert [row.features["temperature"] for row in rows.alike(strange)].count(None) >= 2  # of one in ten


def test_points_of_the_chart_are_rows(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_data, "POINTS", 50)
    some = replace(rows)
    for name in NAMES:
        points = some.points(name)
        assert len(points.x) == len(points.y) == 50
        for number, x, y in zip(some.shown.tolist(), points.x, points.y, strict=True):
            row = some.row(number)
            assert row.actual_value == y
            assert (x is None) == (row.features[name] is None)
    days = some.points("day").x
    assert some.row(int(some.shown[7])).features["day"] == f"{np.datetime64(int(days[7] or 0), 'D')}"


def test_a_curve_changes_one_feature_within_the_range_of_training(table: Table, rows: Rows) -> None:
    row: dict[str, Any] = rows.row(3).features | {"temperature": 10.0, "weather": "rain", "station": "Station 40"}
    curves = {curve.name: curve for curve in rows.curves(row, champion_of(table, rows))}
    assert list(curves) == NAMES
    temperature = curves["temperature"]
    assert temperature.values[-1] is None  # it may be missing
    assert temperature.predicted[-1] == 1900
    numbers: Sequence[Any] = temperature.values[:-1]
    assert numbers == sorted(numbers)
    assert 20 < len(numbers) <= 25
    assert temperature.predicted[:-1] == pytest.approx([2000 + number for number in numbers], rel=1e-5)
    assert temperature.low[:-1] == pytest.approx([1999 + number for number in numbers], rel=1e-5)
    assert curves["weather"].values == hires.WEATHERS
    assert curves["weather"].predicted == [10, 1010, 2010, 3010]
    assert curves["gusts"].values == [0, 1, 2, 3, 4, 5, 6]
    assert (curves["holiday"].values, curves["works"].values) == ([False, True], [False, True, None])
    stations = curves["station"].values
    assert stations == [*hires.STATIONS[: page_data.LEVELS], "Station 40", None]  # the most frequent, and its own
    assert set(curves["day"].predicted) == {2010}
    assert all(isinstance(day, str) and len(day) == len("2024-05-06") for day in curves["day"].values)


def test_a_table_of_many_columns_has_no_more_curves_than_can_be_looked_at(
    table: Table, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_data, "CURVES", 2)
    curves = rows.curves(rows.row(0).features, champion_of(table, rows))
    assert [curve.name for curve in curves] == NAMES[:2]


def test_the_example_file_has_every_type_as_files_have_it(table: Table, rows: Rows) -> None:
    read = list(csv.DictReader(io.StringIO(rows.example_file())))
    assert len(read) == page_data.EXAMPLE_ROWS
    assert list(read[0]) == NAMES
    for row in read:
        values = [float(row["temperature"] or math.nan), float(row["gusts"])]
        values += [table.coding.column(name, [table.column(name).read(row[name])])[0] for name in NAMES[2:]]
        assert (np.isclose(rows.features, values, equal_nan=True).all(axis=1)).any()


# -- with a place --------------------------------------------------------------------------------------------------


@pytest.fixture
def flats(tmp_path: Path) -> Rows:
    """Ten flats in one city, whose rents fall and rise."""
    fields = [
        {"name": "north", "example": 52.5, "constraints": {"minimum": -90, "maximum": 90}},
        {"name": "east", "example": 13.4, "constraints": {"minimum": -180, "maximum": 180}},
        {"name": "kind", "type": "string", "categories": ["old", "new"], "example": "old"},
        {"name": "change", "example": 2.5, "constraints": {"minimum": -100, "maximum": 100}},
    ]
    content = {"name": "flats", "path": "raw/flats.csv", "fields": fields, "target": "change"}
    (tmp_path / "table.yaml").write_text(json.dumps(content | {"place": {"latitude": "north", "longitude": "east"}}))
    lines = [f"{52.5 + 0.00123 * i},{13.4 + 0.00321 * i},{'new' if i % 2 else 'old'},{i - 4}" for i in range(10)]
    (tmp_path / "flats.csv").write_text("\n".join(["north,east,kind,change", *lines]))
    return read_rows(tmp_path / "flats.csv", load_table(tmp_path))


def test_the_map_of_a_city_is_as_fine_as_its_data(flats: Rows) -> None:
    data = flats.map.data
    count, south, west, step, least, value_step = page_data.MAP_HEADER.unpack_from(data)
    steps = np.frombuffer(data, "<u2", 2 * count, page_data.MAP_HEADER.size)
    values = np.frombuffer(data, "u1", count, page_data.MAP_HEADER.size + 4 * count)
    np.testing.assert_allclose(south + step * steps[:count], flats.features[:, 0], atol=1e-5)
    np.testing.assert_allclose(west + step * steps[count:], flats.features[:, 1], atol=1e-5)
    np.testing.assert_allclose(least + value_step * values, flats.targets, atol=value_step)  # below 0 too


def test_of_few_places_none_is_compared_with_itself(flats: Rows) -> None:
    row = flats.nearest(52.5, 13.4)
    found = flats.alike(row.features)
    assert [other.actual_value for other in found if other.features["kind"] == "old"] == [-2, 0, 2]
    assert len(found) == page_data.ALIKE
    assert row.features not in [other.features for other in found]


def test_one_place_has_a_map_too(flats: Rows) -> None:
    alone = replace(flats, features=flats.features[5:6], targets=flats.targets[5:6])
    assert page_data.MAP_HEADER.unpack_from(alone.map.data)[:1] == (1,)
    assert alone.alike(alone.row(0).features) == []
