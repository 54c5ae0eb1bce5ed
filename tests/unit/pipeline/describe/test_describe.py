from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.describe.__main__ import make_table, report
from pipeline.describe.description import Description, describe, identifiers
from pipeline.describe.raw_file import FileError, read_raw
from pipeline.raw_rows import check
from pipeline.raw_rows import read_raw as read_rows
from tableloop.table import Table, load_table

UGLY = Path(__file__).with_name("ugly.csv")
ROWS = 240
RANDOM = np.random.default_rng(0)


def frame(**columns: Any) -> pd.DataFrame:
    """Return a table of which the price depends on size, rooms and kind."""
    random = np.random.default_rng(1)
    size, kind = random.uniform(20, 200, ROWS).round(2), random.choice(["flat", "house"], ROWS)
    rooms = random.integers(1, 7, ROWS)
    price = (1000 * size + 5000 * rooms + 20000 * (kind == "house") + random.normal(0, 5000, ROWS)).round(2)
    return pd.DataFrame({"size": size, "rooms": rooms, "kind": kind, "price": price} | columns)


def described(rows: pd.DataFrame, directory: Path, target: str = "price", **choices: Any) -> Description:
    file = directory / "mine.csv"
    rows.to_csv(file, index=False)
    return describe(read_raw(file, target), target, **choices)


def made(file: Path, target: str, directory: Path, **more: Any) -> tuple[Table, pd.DataFrame, str, dict[str, Any]]:
    """Return the table, its rows after the first stage's check, the text of its contract and its parameters."""
    load_table.cache_clear()
    out, _ = make_table(file, target, directory=directory, **more)
    table = load_table(out)
    rows = check(read_rows(out / table.path, table), table)
    return table, rows, (out / "table.yaml").read_text(), yaml.safe_load((out / "params.yaml").read_text())


def test_an_ugly_file_becomes_a_table(tmp_path: Path) -> None:
    table, rows, text, _ = made(UGLY, "Preis", tmp_path / "ugly")
    assert {column.name: column.type for column in table.fields} == {
        "Größe_m2": "number",
        "Zimmer": "integer",
        "Zimmer_2": "integer",
        "Baujahr": "integer",
        "Balkon": "boolean",
        "Aufzug": "boolean",
        "n2_Bad": "boolean",
        "Stadtteil": "string",
        "Leerstand": "number",
        "Verkauft_am": "date",
        "geo_lat": "number",
        "geo_lng": "number",
        "PLZ": "string",
        "Preis": "number",
    }
    assert [column.title for column in table.fields][:5] == [
        "Größe (m²)",
        "Zimmer",
        "Zimmer (2)",
        "Baujahr",
        "Balkon?",
    ]
    assert table.column("Stadtteil").categories == ("Altstadt", "Südvorstadt", "Neustadt", "Löbtau", "Gorbitz")
    assert "01067" in table.column("PLZ").categories
    assert [column.name for column in table.features if not column.required] == ["Baujahr", "Leerstand"]
    assert table.place is not None
    assert (table.place.latitude, table.place.longitude) == ("geo_lat", "geo_lng")
    assert (table.column("Leerstand").unit, table.column("Leerstand").maximum) == ("%", 100)
    assert (table.target.unit, table.display.suffix) == ("€", " €")
    assert len(rows) == 158  # of 161, three without a price
    first = rows.iloc[0]
    assert first[["Größe_m2", "Verkauft_am", "Leerstand", "PLZ", "Preis"]].tolist() == [
        30.7,
        "2020-09-16",
        5.9,
        "01069",
        98882.69,
    ]
    assert pd.isna(first["Baujahr"])
    for said in (
        "# left out: without a name, row numbers",
        "# left out: Währung, constant: always EUR",
        "# left out: id, an identifier: each row has another number",
        "# left out: Notiz, names, identifiers or free text: 157 different texts",
        "# look: its text is not UTF-8: it was read as Windows-1252",
        "# look: 3 rows are without a value of Preis: left out",
        '# look: no numbers, read as missing: "um 1920" (1), line 80',
        '# look: no numbers, read as missing: "auf Anfrage" (1), line 123',
        "# look: only 0 and 1 occur: read as false and true",
    ):
        assert said in text


def test_the_lines_that_are_named_are_those_of_the_file() -> None:
    lines = UGLY.read_text(encoding="cp1252").splitlines()
    assert "um 1920" in lines[80 - 1]
    assert "auf Anfrage" in lines[123 - 1]


def test_the_example_can_be_asked_and_is_a_row(tmp_path: Path) -> None:
    table, rows, _, _ = made(UGLY, "Preis", tmp_path / "ugly")
    same = (rows[list(table.feature_names)] == pd.Series(table.example)).all(axis=1)
    assert same.sum() == 1
    for column in table.features:
        assert column.problem(table.example[column.name]) == ""


@pytest.mark.parametrize(
    ("titles", "names"),
    [
        (["a", "A", "a"], ["a", "A_2", "a_3"]),
        (["", "  ", "a b/c"], ["column_1", "column_2", "a_b_c"]),
        (["1st", "m²", "½", "%"], ["n1st", "m2", "n1_2", "column_4"]),
        (["id", "Low", "prediction"], ["id_", "Low_", "prediction_"]),
        (["a_2", "a", "a"], ["a_2", "a", "a_3"]),
    ],
)
def test_names_are_identifiers_that_differ(titles: list[str], names: list[str]) -> None:
    assert identifiers(titles) == names


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (range(ROWS), "row numbers"),
        (RANDOM.permutation(ROWS), "an identifier: each row has another number"),
        (["x"] * ROWS, "constant: always x"),
        ([""] * ROWS, "it has no values"),
        ([f"house {i}" for i in range(ROWS)], "names, identifiers or free text: each row has another text"),
        ([f"text {i % 200}" for i in range(ROWS)], "names, identifiers or free text: 200 different texts"),
    ],
)
def test_columns_that_say_nothing_are_left_out(tmp_path: Path, column: Any, reason: str) -> None:
    found = described(frame(other=column), tmp_path)
    assert [(column.title, column.left_out) for column in found.left_out] == [("other", reason)]
    if "constant" not in reason and "values" not in reason:
        kept = described(frame(other=column), tmp_path, keep=["other"])
        assert "other" in [column.name for column in kept.features]


def test_a_person_may_choose_otherwise(tmp_path: Path) -> None:
    found = described(frame(code=RANDOM.choice([10, 20, 30], ROWS)), tmp_path)
    by_name = {column.name: column for column in found.features}
    assert by_name["code"].type == "integer"
    assert "CATEGORIES=code" in by_name["code"].notes[0]
    found = described(frame(code=RANDOM.choice([10, 20, 30], ROWS)), tmp_path, categories=["code"], drop=["rooms"])
    by_name = {column.name: column for column in found.features}
    assert (by_name["code"].type, sorted(by_name["code"].levels)) == ("string", ["10", "20", "30"])
    assert "rooms" not in by_name
    with pytest.raises(FileError, match="there is no column 'none'; there are size, rooms"):
        described(frame(), tmp_path, drop=["none"])


@pytest.mark.parametrize(
    ("columns", "finding"),
    [
        ({"when": pd.date_range("2020-01-01", periods=ROWS).astype(str)}, "rows are split at random"),
        (
            {"x_coord": RANDOM.uniform(0, 1e6, ROWS), "y_coord": RANDOM.uniform(0, 1e6, ROWS)},
            "coordinates of a projec",
        ),
        ({"lat": RANDOM.uniform(100, 1e6, ROWS), "lon": RANDOM.uniform(0, 1e6, ROWS)}, "must be turned into degrees"),
        ({"lat": RANDOM.uniform(91, 170, ROWS), "lon": RANDOM.uniform(0, 60, ROWS)}, "seem to be swapped"),
        ({"lat": [None, *RANDOM.uniform(0, 60, ROWS - 1)], "lon": RANDOM.uniform(0, 60, ROWS)}, "without gaps"),
    ],
)
def test_what_concerns_the_whole_table_is_said(tmp_path: Path, columns: dict[str, Any], finding: str) -> None:
    found = described(frame(**columns), tmp_path)
    assert any(finding in said for said in found.findings)
    assert found.place is None


@pytest.mark.parametrize(
    ("column", "note"),
    [
        (frame()["price"] * 1.19 + RANDOM.normal(0, 10, ROWS), "it predicts price nearly alone"),
        ([-999, -999, *RANDOM.uniform(1, 5, ROWS - 2)], "-999 occurs 2 times, far from all others"),
        ([*RANDOM.uniform(1, 5, 60), *[None] * (ROWS - 60)], "75% of the values are missing"),
        ([f"level {i % 110}" for i in range(ROWS)], "the 100 most frequent of 110 levels are listed, of 92%"),
    ],
)
def test_doubtful_columns_are_noted(tmp_path: Path, column: Any, note: str) -> None:
    found = described(frame(other=list(column)[:ROWS]), tmp_path, keep=["other"])
    other = next(column for column in found.features if column.name == "other")
    assert any(note in said for said in other.notes), other.notes


def test_a_target_that_is_a_sum_of_columns_is_noted(tmp_path: Path) -> None:
    rows = frame()
    parts = rows.assign(net=rows["price"] * 0.6 + RANDOM.normal(0, 9000, ROWS))
    parts = parts.assign(rest=parts["price"] - parts["net"])
    assert any("price is a sum of net and rest" in said for said in described(parts, tmp_path).findings)


def test_twins_and_heavy_tails_are_said(tmp_path: Path) -> None:
    rows = frame()
    rows.loc[0, "price"] = 1e9
    rows = pd.concat([rows, rows[:3], rows[5:7].assign(price=1.0)])
    said = " ".join(described(rows, tmp_path).findings)
    assert "3 rows are there twice" in said
    assert "2 rows are like another in all but price" in said
    assert "price has a heavy tail: the largest value is 1e+09" in said


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["good", "bad", "none"] * 80, 'price is text, for example "good".*no classification'),
        (RANDOM.choice(["yes", "no"], ROWS), "price is true or false"),
        (RANDOM.choice([0, 1], ROWS), "price has 2 different values: to tell classes apart is classification"),
        (pd.date_range("2020-01-01", periods=ROWS).astype(str), "price is a date"),
        ([7] * ROWS, "price has only one value"),
        ([*range(90), *[""] * (ROWS - 90)], "90 rows with a value to predict are too few"),
    ],
)
def test_what_cannot_be_predicted_is_refused(tmp_path: Path, target: Any, message: str) -> None:
    with pytest.raises(FileError, match=message):
        described(frame(price=target), tmp_path)


def test_a_ratio_that_boosting_needs_is_found_and_can_be_computed_of_all_that_is_possible(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    rows = pd.DataFrame({name: random.uniform(5, 50, 2000) for name in ("income", "people", "noise")})
    rows["price"] = 1000 * rows["income"] / rows["people"] + random.normal(0, 100, 2000)
    file = tmp_path / "mine.csv"
    rows.to_csv(file, index=False)
    table, _, _, params = made(file, "price", tmp_path / "mine")
    features = params["train"]["candidates"]["hist_gradient_boosting"]["features"]
    assert features["income_per_people"] == {"ratio": ["income", "people"]}
    assert all("noise" not in pair for term in features.values() for pair in term.values())
    assert 0 < table.column("people").minimum <= 1


def test_parameters_fit_the_table(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    random = np.random.default_rng(3)
    rows = frame(lat=random.uniform(50, 51, ROWS), lon=random.uniform(4, 5, ROWS))
    rows["size"] = np.exp(random.normal(3, 1.5, ROWS))
    rows.to_csv(file, index=False)
    _, _, _, params = made(file, "price", tmp_path / "mine")
    train = params["train"]
    assert params["preprocess"]["gate_rows"] <= 0.2 * ROWS
    assert 50 < train["limits"]["line"] < 51
    assert 1 < train["limits"]["far_km"] < 20
    term = train["kriging"]["kernel"]["inputs"]["size"]
    assert term["log"]
    assert term["clip"][0] > 0
    assert 500 < train["least_error"] < 5000


def test_a_large_table_is_compared_on_some_of_its_rows(tmp_path: Path) -> None:
    rows = pd.concat([frame()] * 1000, ignore_index=True)
    rows["size"] = np.random.default_rng(5).uniform(20, 200, len(rows))
    file = tmp_path / "mine.parquet"
    rows.to_parquet(file)
    table, _, _, params = made(file, "price", tmp_path / "mine")
    assert table.path.suffix == ".parquet"
    assert params["train"]["most_rows"] < len(rows)
    assert "gradient_boosting" not in params["train"]["candidates"]


def test_a_directory_is_replaced_only_if_asked_for(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.csv", tmp_path / "mine"
    frame().to_csv(file, index=False)
    made(file, "price", out)
    (out / "note.txt").write_text("mine")
    with pytest.raises(FileError, match="exists: name another one with NAME=…, or replace it with FORCE=1"):
        make_table(file, "price", directory=out)
    with pytest.raises(FileError, match="no column"):  # a failure leaves the former one
        make_table(file, "none", directory=out, replace=True)
    assert (out / "note.txt").exists()
    made(file, "price", out, replace=True)
    assert not (out / "note.txt").exists()


def test_parquet_and_csv_of_the_same_rows_become_the_same_table(tmp_path: Path) -> None:
    rows = frame(when=pd.date_range("2020-01-01 06:00", periods=ROWS, freq="h"), lift=[True, False, None] * 80)
    rows["lift"] = rows["lift"].astype("boolean")
    rows.to_csv(tmp_path / "mine.csv", index=False)
    rows.to_parquet(tmp_path / "mine.parquet")
    tables = [made(tmp_path / f"mine.{kind}", "price", tmp_path / kind, name="mine") for kind in ("csv", "parquet")]
    assert tables[0][0].fields == tables[1][0].fields
    pd.testing.assert_frame_equal(tables[0][1], tables[1][1])


def test_what_is_printed_names_columns_doubts_and_the_next_step(tmp_path: Path) -> None:
    directory, found = make_table(UGLY, "Preis", directory=tmp_path / "ugly")
    text = report(found, "ugly.csv", directory)
    assert "ugly.csv: 158 rows, CSV, separated by semicolons, Windows-1252" in text
    assert "Größe (m²) → Größe_m2      number   -        28.2 to 159.4, 145 different" in text
    assert "geo_lat (place)" in text
    assert "  Währung: constant: always EUR" in text
    assert f"  TABLE={directory} make up" in text


def test_any_numbers_and_texts_make_a_table_that_loads(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    for number in range(6):
        kinds = [
            random.normal(size=ROWS) * 10.0 ** random.integers(-8, 8),
            random.integers(-5, 5, ROWS),
            random.choice(["a: b", "#x", "yes, no", "null?", "1", "'q\"", "é", "[x]", "true"], ROWS),
            random.choice(["true", "false", ""], ROWS),
            pd.to_datetime(random.integers(-(10**9), 10**9, ROWS), unit="s").astype(str),
        ]
        chosen = {f"column: {i}, {kind}": kinds[kind] for i, kind in enumerate(random.integers(0, 5, 6))}
        rows = pd.DataFrame(chosen | {"y %": kinds[0]})
        rows = rows.mask(pd.DataFrame(random.random(rows.shape) < 0.1, columns=rows.columns))
        buffer = io.StringIO()
        rows.to_csv(buffer, index=False, sep=random.choice([",", ";"]))
        file = tmp_path / f"mine {number}.csv"
        file.write_text(buffer.getvalue())
        table, checked, _, params = made(file, "y %", tmp_path / str(number))
        assert len(checked) == rows["y %"].notna().sum()
        assert set(params) == {"preprocess", "train", "register", "drift"}
        assert [column.title for column in table.fields] == list(rows)
