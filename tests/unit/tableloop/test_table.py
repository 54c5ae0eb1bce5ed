from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tableloop.table import SHIPPED, Column, Table, TableError, load_table, params_file

FIELDS: list[dict[str, Any]] = [
    {"name": "age", "type": "integer", "example": 30, "constraints": {"minimum": 0, "maximum": 120}},
    {"name": "bmi", "example": None, "constraints": {"required": False, "minimum": 5, "maximum": 100.0}},
    {"name": "smoker", "type": "boolean", "example": True},
    {"name": "region", "type": "string", "categories": ["south", "north, east"], "example": "south"},
    {
        "name": "seen",
        "type": "datetime",
        "example": "2013-05-05T10:00:00",
        "constraints": {"minimum": "1970-01-01", "maximum": "2100-01-01"},
    },
    {"name": "charges", "example": 9000.5, "constraints": {"minimum": 0, "maximum": 1e6}},
]
CONTENT: dict[str, Any] = {"name": "medical-charges", "path": "raw/a.csv", "target": "charges", "fields": FIELDS}


def load(directory: Path, text: str) -> Table:
    (directory / "table.yaml").write_text(text)
    return load_table(directory)


def refusal(directory: Path, content: dict[str, Any]) -> str:
    with pytest.raises(TableError) as caught:
        load(directory, yaml.safe_dump(content, sort_keys=False))
    return str(caught.value)


def column(**changed: Any) -> Column:
    return Column.model_validate({"name": "a", "example": 1, "constraints": {"minimum": 0, "maximum": 9}} | changed)


def test_what_is_left_out_follows_from_the_name_and_the_target(tmp_path: Path) -> None:
    table = load(tmp_path, yaml.safe_dump(CONTENT))
    assert (table.type, table.model, table.answer) == (
        "MedicalChargesFeatures",
        "MedicalChargesModel",
        "predicted_value",
    )
    assert table.kinds == {
        "smoker": {"type": "boolean"},
        "region": {"type": "string", "categories": ["south", "north, east"]},
        "seen": {"type": "datetime"},
    }
    assert len(table.steps) == 9
    assert (table.steps[0], table.steps[-1]) == (100_000, 900_000)
    assert table.target.unit_words == "units of charges"


def test_dates_of_yaml_are_taken_as_they_are_read(tmp_path: Path) -> None:
    seen = {"name": "seen", "type": "date"}
    text = yaml.safe_dump({**CONTENT, "fields": [seen, FIELDS[-1]]})
    text = text.replace(
        "- name: seen",
        "- name: seen\n  example: 2013-05-05\n  constraints: {minimum: 2013-01-01, maximum: 2014-01-01}",
    )
    (date, _) = load(tmp_path, text).fields
    assert date.example == "2013-05-05"
    assert date.problem("2014-01-02") == "the greatest possible is 2014-01-01"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": "price"}, "target: there is no field 'price'"),
        ({"target": "region"}, "target: 'region' must be a number, and never missing"),
        ({"target": "bmi"}, "target: 'bmi' must be a number, and never missing"),
        ({"answer": "age"}, "answer: there is a field 'age'"),
        ({"path": "../a.csv"}, "path: a file raw/NAME.csv or raw/NAME.parquet beside"),
        ({"fields": [*FIELDS, {**FIELDS[0], "name": "Age"}]}, "two fields have the same name"),
        ({"fields": [{**FIELDS[0], "name": "low"}, *FIELDS]}, "write low_, and keep the title"),
        ({"fields": [{**FIELDS[0], "example": 3.5}, *FIELDS[1:]]}, "field age: example: 3.5 is no whole number"),
        ({"fields": [FIELDS[0] | {"constraints": {"minimum": 1}}, *FIELDS]}, "needs a minimum and a maximum"),
        ({"fields": [FIELDS[2] | {"constraints": {"minimum": 1}}, *FIELDS]}, "boolean has no minimum and maximum"),
        (
            {"fields": [{"name": "b", "type": "string", "example": "x"}, *FIELDS]},
            "categories: a column of type string",
        ),
    ],
)
def test_a_wrong_description_is_refused_with_the_remedy(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    assert message in refusal(tmp_path, CONTENT | changed)


def test_a_refusal_names_line_and_field(tmp_path: Path) -> None:
    text = yaml.safe_dump(
        {**CONTENT, "fields": [FIELDS[0], FIELDS[1] | {"unitt": "kg"}, FIELDS[-1]]}, sort_keys=False
    )
    line = next(number for number, part in enumerate(text.splitlines(), 1) if "unitt" in part)
    with pytest.raises(TableError, match=f"line {line}, field bmi, unitt: there is no such key; did you mean unit?"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("target: charges", "target: charge", "the table: target: there is no field 'charge'"),
        ("minimum: 0\n", "minimum: 200\n", "field age: constraints: the minimum must be less than the maximum"),
        ("example: true", "example: 3", "field smoker: example: 3 is neither true nor false"),
        ("required: false", "required: no way", "field bmi, constraints, required: write true or false"),
        ("name: medical-charges", "name: 5", "name: write a text; one that looks like a number needs quotes"),
        ("name: medical-charges", "titel: x", "titel: there is no such key; did you mean title?"),
        (
            "type: boolean",
            "type: bool",
            "field smoker, type: Input should be 'number', 'integer', 'boolean', 'string'",
        ),
    ],
)
def test_a_mistake_is_found_at_its_line(tmp_path: Path, written: str, instead: str, said: str) -> None:
    text = yaml.safe_dump(CONTENT, sort_keys=False)
    assert written in text
    line = text[: text.index(written)].count("\n") + 1
    if said.startswith("field age: constraints"):
        line -= 1  # it is about both bounds
    with pytest.raises(TableError) as caught:
        load(tmp_path, text.replace(written, instead, 1))
    assert f"line {line}, {said}" in str(caught.value)


def test_what_is_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="is no YAML"):
        load(tmp_path, "name: [")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ({"type": "boolean", "example": True, "constraints": {}}, "Yes", True),
        ({"type": "boolean", "example": True, "constraints": {}}, "0.0", False),
        ({"type": "string", "categories": ["NA", "EU"], "example": "EU", "constraints": {}}, " NA", "NA"),
        (
            {
                "type": "date",
                "example": "2013-01-01",
                "constraints": {"minimum": "2013-01-01", "maximum": "2014-01-01"},
            },
            "2013-02-03 00:00:00",
            "2013-02-03",
        ),
        ({"type": "boolean", "example": True, "constraints": {"required": False}}, "n/a", None),
    ],
)
def test_a_text_of_a_file_is_read_as_its_type(kind: dict[str, Any], text: str, value: object) -> None:
    assert column(**kind).read(text) == value


def test_a_level_that_must_be_known_is_refused() -> None:
    strict = {"type": "string", "categories": ["a"], "unknown": "refuse", "example": "a", "constraints": {}}
    with pytest.raises(ValueError, match="'b' is none of a"):
        column(**strict).read("b")
    assert column(**strict | {"unknown": "warn"}).read("b") == "b"


def test_a_value_is_written_as_csv_has_it() -> None:
    assert [column().as_csv(value) for value in (None, True, 0.1, 30, 'a "b", c')] == [
        "",
        "true",
        "0.1",
        "30",
        '"a ""b"", c"',
    ]


def test_a_table_has_parameters_of_its_own_or_those_of_california(tmp_path: Path) -> None:
    assert params_file(tmp_path) == params_file(SHIPPED) == SHIPPED.parent / "params.yaml"
    (tmp_path / "params.yaml").write_text("drift: {}\n")
    assert params_file(tmp_path) == tmp_path / "params.yaml"
