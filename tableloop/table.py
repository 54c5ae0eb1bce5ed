"""The contract: what `table.yaml` says of the table. Nothing else reads that file.

`Table` is the one source for the raw-data check, the requests of the service and their documentation, the columns of
the prediction store, drift, the page, the dashboards and the model cards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import date
from difflib import get_close_matches
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tableloop.model.coding import Coding, days_of, iso_of

SHIPPED = (
    Path(__file__).resolve().parents[1] / "data"
)  # beside the library: in the checkout, in a training's workspace
DATA = Path(os.environ.get("TABLE") or SHIPPED)  # of this process; `tableloop.settings` has checked the variable
FILE = "table.yaml"
KINDS_OF_DATA = (".csv", ".parquet", "")  # ends of the name of the raw data
FAR_WIDTHS = 10
USUAL_STEPS = 10  # buckets where the file names none
ORDERED = ("number", "integer", "date", "datetime")
_NEITHER = {
    "boolean": "neither true nor false",
    "string": "no text",
    "date": "no date like 2013-05-06",
    "datetime": "no moment like 2013-05-06T14:30:00",
}
# Columns that a column of the table would be taken for: of the store and of answers, batches of labels, exports.
_STORED = ("id", "prediction_id", "request_id", "requested_at", "model_version", "prediction", "low", "high")
_OF_LABELS = ("actual_value", "predicted_at", "received_at", "sender", "batch", "part")
_OF_EXPORTS = ("shadow_version", "shadow_prediction", "shadow_low", "shadow_high")
RESERVED = frozenset((*_STORED, *_OF_LABELS, *_OF_EXPORTS))


class TableError(ValueError):
    """The file is no description of a table; the message names the file, the place in it and what is wrong."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Value = bool | int | float | str | None  # of a row, as JSON has it; dates are texts in ISO 8601
# What files have for them, in any capitals.
TRUE, FALSE = frozenset(("true", "yes", "1", "1.0")), frozenset(("false", "no", "0", "0.0"))
MISSING = frozenset(("", "na", "n/a", "nan", "nat", "null", "none"))


class Constraints(_Part):
    """Whether a value may be missing, and the closed range outside of which it cannot be true."""

    required: bool = True
    minimum: float | str | None = None
    maximum: float | str | None = None

    @field_validator("minimum", "maximum", mode="before")
    @classmethod
    def _dates_are_texts(cls, value: object) -> object:
        return value.isoformat() if isinstance(value, date) else value  # YAML reads them as dates


class Column(_Part):
    """One column: its meaning, its unit, and what is possible at all.

    A column of strings is a category: ``categories`` are its levels, the most frequent first, and ``unknown`` says
    whether another one is answered with a warning or refused.
    """

    name: Annotated[str, Field(pattern=r"^[^\W\d]\w*$")]
    title: str
    description: str = ""
    type: Literal["number", "integer", "boolean", "string", "date", "datetime"] = "number"
    unit: str = ""
    example: Any  # a `Value`
    categories: tuple[str, ...] = ()
    unknown: Literal["warn", "refuse"] = "warn"
    constraints: Constraints = Constraints()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, content: object) -> object:
        if isinstance(content, dict):
            content = {"title": content.get("name")} | content
            if isinstance(example := content.get("example"), date):
                content["example"] = example.isoformat()
        return content

    @model_validator(mode="after")
    def _parts_fit_the_type(self) -> Column:
        bounds = (self.constraints.minimum, self.constraints.maximum)
        if self.type in ORDERED:
            if None in bounds:
                raise ValueError(f"constraints: a column of type {self.type} needs a minimum and a maximum")
            if self.minimum >= self.maximum:
                raise ValueError("constraints: the minimum must be less than the maximum")
        elif bounds != (None, None):
            raise ValueError(f"constraints: a column of type {self.type} has no minimum and maximum")
        if (self.type == "string") != bool(self.categories):
            raise ValueError("categories: a column of type string needs them, and no other has any")
        if len(set(self.categories)) < len(self.categories) or "" in self.categories:
            raise ValueError("categories: each must be there once, and none may be empty")
        if self.name.casefold() in RESERVED:
            raise ValueError(f"name: the store has a column of this name; write {self.name}_, and keep the title")
        if problem := self.problem(self.example):
            raise ValueError(f"example: {problem}")
        return self

    @property
    def required(self) -> bool:
        """Whether a row must have a value here."""
        return self.constraints.required

    @property
    def unit_words(self) -> str:
        """The unit, to be read after "in"."""
        return self.unit or f"units of {self.title.lower()}"

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, of any kind."""
        return self.type in ("number", "integer")

    @property
    def is_text(self) -> bool:
        """Whether its values are kept as text: levels of categories, and dates in ISO 8601."""
        return self.type in ("string", "date", "datetime")

    @property
    def is_ordered(self) -> bool:
        """Whether its values have a size: those of numbers and dates have."""
        return self.type in ORDERED

    @property
    def minimum(self) -> float:
        """The smallest value that is possible, of dates in days since 1970; of an ordered column."""
        return self._coded(self.constraints.minimum, "minimum")

    @property
    def maximum(self) -> float:
        """The largest value that is possible, of dates in days since 1970; of an ordered column."""
        return self._coded(self.constraints.maximum, "maximum")

    def problem(self, value: Value) -> str:
        """Return what is wrong with a value; an empty string if it can be true."""
        if value is None:
            return "a value is missing" if self.required else ""
        kinds: dict[str, tuple[type, ...]] = {"boolean": (bool,), "number": (int, float), "integer": (int, float)}
        if not isinstance(value, kinds.get(self.type, (str,))) or (
            isinstance(value, bool) and self.type != "boolean"
        ):
            return f"{value!r} is {_NEITHER.get(self.type, 'no number')}"
        if self.is_ordered:
            return self._problem_of_size(value)
        if self.type == "string" and self.unknown == "refuse" and value not in self.categories:
            return f"{value!r} is none of {', '.join(self.categories)}"
        return ""

    def _problem_of_size(self, value: float | str) -> str:
        try:
            number = days_of(value) if isinstance(value, str) else float(value)
        except ValueError:
            return f"{value!r} is {_NEITHER[self.type]}"
        if self.type == "integer" and number % 1:
            return f"{value!r} is no whole number"
        if number < self.minimum:
            return f"the least possible is {self.written(self.minimum)}"
        return f"the greatest possible is {self.written(self.maximum)}" if number > self.maximum else ""

    def read(self, text: str) -> Value:
        """Return the value that a text in a file stands for, of a column that is no number.

        Raises
        ------
        ValueError
            It can be none, or is missing where a value is needed.
        """
        text = text.strip()
        word = text.casefold()
        value: Value = text
        if word in MISSING and not (self.type == "string" and text in self.categories):
            value = None
        elif self.type == "boolean":
            value = True if word in TRUE else False if word in FALSE else text
        elif self.type != "string":
            try:
                value = self.written(days_of(text))
            except ValueError:
                value = text
        if problem := self.problem(value):
            raise ValueError(problem)
        return value

    def as_csv(self, value: Value) -> str:
        """Return a value as it stands in a CSV file."""
        if value is None:
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        text = value if isinstance(value, str) else f"{value:.10g}"
        return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text

    def written(self, value: float) -> str:
        """Return a number of an ordered column as people read it: of dates the day, and the time if there is one."""
        if self.type not in ("date", "datetime"):
            return f"{value:g}"
        return iso_of(value, with_time=self.type == "datetime")

    def _coded(self, value: float | str | None, what: str) -> float:
        assert value is not None, f"{self.name} has no {what}"
        try:
            return days_of(str(value)) if self.is_text else float(value)
        except ValueError:
            raise ValueError(f"constraints.{what}: {value!r} is no {self.type}") from None


class Input(NamedTuple):
    """One or several features that have an effect together: their name, title, and numbers among the features."""

    name: str
    title: str
    columns: tuple[int, ...]


class Place(_Part):
    """The names of the two columns that say where a row is, in degrees."""

    latitude: str
    longitude: str


class Display(_Part):
    """How a person reads a value of the target: times ``factor``, rounded, between ``prefix`` and ``suffix``."""

    factor: float = 1.0
    round_to: float = 0.01
    prefix: str = ""
    suffix: str = ""
    unit: str = ""


class Comparable(_Part):
    """A column that the page shows of comparable rows, divided by ``per``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    column: str
    title: str
    per: float = 1.0
    written: Annotated[Literal["number", "display"], Field(alias="as")] = "number"


class Card(_Part):
    """Sentences for the model cards: what the models are for, what the data is like, and what a cap does to them."""

    use: str = "For the question that the table answers, about rows like those it holds."
    data: str = ""
    capped: str = ""


class Story(_Part):
    """The change that `make simulate` plays: of some rows the values change, and most questions are about these.

    The rows are those for which all of ``where`` holds, by column: one of some levels, or between two numbers or
    dates. Where there is a ``line`` of places, they also lie within so many ``kilometres`` of it, and those
    ``south_of`` a latitude ask most. Their values are multiplied by ``factor``, and ``plus`` is added.
    """

    title: str
    where: dict[str, tuple[Value, ...]] = {}
    line: tuple[tuple[float, float], ...] = ()
    kilometres: float = 0.0
    south_of: float = 90.0
    share: Annotated[float, Field(gt=0, lt=1)] = 0.7
    factor: float = 1.0
    plus: float = 0.0

    @field_validator("where", mode="before")
    @classmethod
    def _dates_are_texts(cls, content: object) -> object:
        if not isinstance(content, dict):
            return content
        return {
            name: [value.isoformat() if isinstance(value, date) else value for value in values]
            if isinstance(values, list)
            else values
            for name, values in content.items()
        }


class Table(_Part):
    """A whole table, as `table.yaml` describes it.

    ``bands`` are in the unit of the target; ``regions`` are [south, north, west, east] and ``landmarks`` [latitude,
    longitude, zoom], in degrees.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    description: str = ""
    path: Path
    source: str = ""
    row: str = "row"
    rows: str = "rows"
    type: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    model: str
    fields: tuple[Column, ...]
    target_name: Annotated[str, Field(alias="target")]
    answer: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "predicted_value"
    metric: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")] = "predicted_value"
    buckets: tuple[float, ...] = ()
    display: Display = Display()
    place: Place | None = None
    bands: tuple[float, ...] = ()
    regions: dict[str, tuple[float, float, float, float]] = {}
    comparable: tuple[Comparable, ...] = ()
    card: Card = Card()
    landmarks: dict[str, tuple[float, float, float]] = {}
    story: Story | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_of_the_name(cls, content: object) -> object:
        if isinstance(content, dict) and isinstance(content.get("name"), str):
            camel = "".join(part.capitalize() for part in re.findall("[A-Za-z0-9]+", content["name"]))
            made = {"title": content["name"], "type": f"{camel}Features", "model": f"{camel}Model"}
            return made | content
        return content

    @model_validator(mode="after")
    def _names_are_columns(self) -> Table:
        names = [column.name for column in self.fields]
        if len(names) < 2:
            raise ValueError("fields: a column to predict is needed, and one to predict it from")
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError("two fields have the same name, or names that differ in capitals only")
        if len(self.path.parts) != 2 or self.path.parts[0] != "raw" or self.path.suffix not in KINDS_OF_DATA:
            raise ValueError(
                "path: a file raw/NAME.csv or raw/NAME.parquet beside the table.yaml is needed, or a directory "
                "raw/NAME of Parquet files"
            )
        wanted = {"target": self.target_name} | {f"comparable {item.column}": item.column for item in self.comparable}
        if self.place is not None:
            wanted |= {"place.latitude": self.place.latitude, "place.longitude": self.place.longitude}
        for where, name in wanted.items():
            if name not in names:
                raise ValueError(f"{where}: there is no field {name!r}")
        for where, name in wanted.items():
            column = self.fields[names.index(name)]
            if column.type not in ("number", "integer") or (
                where.startswith(("target", "place")) and not column.required
            ):
                raise ValueError(f"{where}: {name!r} must be a number, and never missing")
        self._check_story()
        if self.answer in names:
            raise ValueError(f"answer: there is a field {self.answer!r}; an answer needs a name of its own")
        return self

    def _check_story(self) -> None:
        if self.story is None:
            return
        if self.story.line and self.place is None:
            raise ValueError("story.line: a table without a place has no line of places")
        if not (self.story.line or self.story.where):
            raise ValueError("story: where or line must say which rows it is about")
        for name, values in self.story.where.items():
            column = next((column for column in self.features if column.name == name), None)
            if column is None:
                raise ValueError(f"story.where: there is no feature {name!r}")
            if column.is_ordered and len(values) != 2:
                raise ValueError(f"story.where: {name!r} needs a least and a greatest value")
            for value in values:
                unknown = column.categories and value not in column.categories
                if problem := f"there is no level {value!r}" if unknown else column.problem(value):
                    raise ValueError(f"story.where: {name!r}: {problem}")

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """The columns that a prediction is made from, in the order of the file."""
        return tuple(column for column in self.fields if column.name != self.target_name)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of `features`."""
        return tuple(column.name for column in self.features)

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """What a person sees in the features: each is one input, but those of a place are one together."""
        place = self.place
        pair = (place.latitude, place.longitude) if place else ()
        inputs = [
            Input(column.name, column.title, (number,))
            for number, column in enumerate(self.features)
            if column.name not in pair
        ]
        if pair:
            numbers = tuple(map(self.feature_names.index, pair))
            inputs.append(Input("_".join(pair), "Place", numbers))
        return tuple(sorted(inputs, key=lambda input_: input_.columns))

    @cached_property
    def kinds(self) -> dict[str, dict[str, Any]]:
        """The features that are no plain numbers, as `tableloop.model.coding.Coding` takes them."""
        return {
            column.name: {"type": column.type} | ({"categories": [*column.categories]} if column.categories else {})
            for column in self.features
            if column.type not in ("number", "integer")
        }

    @cached_property
    def coding(self) -> Coding:
        """How rows become numbers for a model."""
        return Coding(self.feature_names, self.kinds)

    @cached_property
    def steps(self) -> tuple[float, ...]:
        """The `buckets`, or where there are none, equal parts of what is possible."""
        width = (self.target.maximum - self.target.minimum) / USUAL_STEPS
        return self.buckets or tuple(self.target.minimum + number * width for number in range(1, USUAL_STEPS))

    def column(self, name: str) -> Column:
        """Return the column of this name."""
        return next(column for column in self.fields if column.name == name)

    @cached_property
    def target(self) -> Column:
        """The column to predict."""
        return self.column(self.target_name)

    def is_unusual(self, value: float, low: float, high: float) -> bool:
        """Return whether a true value seems to be in another unit than the target: far from every usual value.

        It is further from the interval of its prediction than `FAR_WIDTHS` of its widths, and further from the values
        that `steps` span than these are from each other.
        """
        span = self.steps[-1] - self.steps[0]
        usual = self.steps[0] - span <= value <= self.steps[-1] + span
        return not usual and max(low - value, value - high) > FAR_WIDTHS * (high - low)

    @cached_property
    def example(self) -> dict[str, Any]:
        """A row to try a prediction with, by name."""
        return {column.name: column.example for column in self.features}


def data_files(path: Path) -> list[Path]:
    """Return the files of the raw data in the order in which they are read: of a directory, its Parquet files.

    What begins with a dot or an underscore is left out there: other programs leave such files beside theirs.
    """
    return sorted(path.rglob("[!._]*.parquet")) if path.is_dir() else [path]


def params_file(directory: Path = DATA) -> Path:
    """Return the file of the parameters for a table: its own, or that of California where it has none."""
    own = directory / "params.yaml"
    return own if own.exists() else SHIPPED.with_name(own.name)


@cache
def load_table(directory: Path = DATA) -> Table:
    """Return the table that ``directory/table.yaml`` describes; the file is read once.

    Raises
    ------
    TableError
        The file is missing, no YAML, or describes no table.
    """
    file = directory / FILE
    try:
        text = file.read_text(encoding="utf-8-sig")
        content: Any = yaml.load(text, _LOADER)  # noqa: S506 - the safe one
        return Table.model_validate(content)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise TableError(
            f"{file.absolute()} cannot be read: {why}; make table FILE=... TARGET=... makes one of a file of rows"
        ) from None
    except yaml.YAMLError as error:
        raise TableError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problems = [_said(text, content, **problem) for problem in error.errors(include_url=False)]
        raise TableError("\n  ".join([f"{file} describes no table:", *problems])) from None


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, and ten times as fast where it is built in


def _said(text: str, content: Any, *, loc: tuple[int | str, ...], msg: str, type: str, **_: Any) -> str:  # noqa: A002
    """Return a problem that pydantic has found, with its line, in words of ours where there are some."""
    msg = msg.removeprefix("Value error, ")
    named = re.match(r"([\w.]+)[^:]*: ", msg)  # ours begin with the key that they are about
    line = _line_of(text, (*loc, *(named[1].split(".") if named else ())))
    if type == "extra_forbidden":
        parts: tuple[Any, ...] = (Table, Column, Constraints, Place, Display, Comparable, Card, Story)
        known = {str(field.alias or name) for part in parts for name, field in part.model_fields.items()}
        close = get_close_matches(str(loc[-1]), known, n=1)
        msg = "there is no such key" + (f"; did you mean {close[0]}?" if close else "")
    msg = _WORDS.get(type, msg)
    return f"line {line}, {_place(content, loc)}: {msg}"


_WORDS = {
    "missing": "it is needed here, and is not there",
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "string_type": "write a text; one that looks like a number needs quotes",
    "float_parsing": "write a number",
    "float_type": "write a number",
}


def _line_of(text: str, place: Sequence[int | str]) -> int:
    """Return the line of a part of a YAML text, or of what should hold it."""
    node: Any = yaml.compose(text, _LOADER)
    line = 0
    for part in place:
        found = None
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = node.value[part]
            line = found.start_mark.line
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    found, line = value, key.start_mark.line
        if found is None:
            break
        node = found
    return line + 1


def _place(content: Any, place: Sequence[int | str]) -> str:
    """Return in words where a problem is: a field by its name."""
    words = [str(part) for part in place]
    if len(place) > 1 and place[0] == "fields" and isinstance(place[1], int):
        field = content["fields"][place[1]]
        name = field.get("name") if isinstance(field, dict) else None
        words[:2] = [f"field {name or place[1] + 1}"]
    return ", ".join(words) or "the table"
