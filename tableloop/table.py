"""The contract: what `table.yaml` says of the table. Nothing else reads that file.

`Table` is the one source for the raw-data check, the requests of the service and their documentation, the columns of
the prediction store, drift, the page, the dashboards and the model cards.
"""

from __future__ import annotations

from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DATA = Path(__file__).resolve().parents[1] / "data"  # beside the library: in the checkout, in a training's workspace
FILE = "table.yaml"


class TableError(ValueError):
    """The file is no description of a table; the message names the file, the place in it and what is wrong."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Constraints(_Part):
    """The closed range outside of which a value cannot be true."""

    required: Literal[True] = True
    minimum: float
    maximum: float


class Column(_Part):
    """One column: its meaning, its unit, and what is possible at all."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    title: str
    description: str
    type: Literal["number"] = "number"
    unit: str
    example: float
    constraints: Constraints

    @property
    def minimum(self) -> float:
        """The smallest value that is possible."""
        return self.constraints.minimum

    @property
    def maximum(self) -> float:
        """The largest value that is possible."""
        return self.constraints.maximum


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
    unit: str


class Comparable(_Part):
    """A column that the page shows of comparable rows, divided by ``per``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    column: str
    title: str
    per: float = 1.0
    written: Annotated[Literal["number", "display"], Field(alias="as")] = "number"


class Card(_Part):
    """Sentences for the model cards: what the models are for, what the data is like, and what a cap does to them."""

    use: str
    data: str = ""
    capped: str = ""


class Story(_Part):
    """The change that `make simulate` plays: along a line of places, values rise and most questions come from it."""

    title: str
    line: list[tuple[float, float]]
    kilometres: float
    factor: float
    south_of: float
    share: float


class Table(_Part):
    """A whole table, as `table.yaml` describes it.

    ``bands`` are in the unit of the target; ``regions`` are [south, north, west, east] and ``landmarks`` [latitude,
    longitude, zoom], in degrees.
    """

    name: str
    title: str
    description: str
    path: Path
    source: str
    row: str
    rows: str
    type: str
    fields: tuple[Column, ...]
    target_name: Annotated[str, Field(alias="target")]
    answer: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    metric: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    buckets: tuple[float, ...]
    display: Display
    place: Place | None = None
    bands: tuple[float, ...] = ()
    regions: dict[str, tuple[float, float, float, float]] = {}
    comparable: tuple[Comparable, ...] = ()
    card: Card
    landmarks: dict[str, tuple[float, float, float]] = {}
    story: Story | None = None

    @model_validator(mode="after")
    def _names_are_columns(self) -> Table:
        names = [column.name for column in self.fields]
        if len(set(names)) < len(names):
            raise ValueError("two fields have the same name")
        wanted = {"target": self.target_name} | {f"comparable {item.column}": item.column for item in self.comparable}
        if self.place is not None:
            wanted |= {"place.latitude": self.place.latitude, "place.longitude": self.place.longitude}
        for where, name in wanted.items():
            if name not in names:
                raise ValueError(f"{where}: there is no field {name!r}")
        return self

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """The columns that a prediction is made from, in the order of the file."""
        return tuple(column for column in self.fields if column.name != self.target_name)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of `features`."""
        return tuple(column.name for column in self.features)

    @cached_property
    def target(self) -> Column:
        """The column to predict."""
        return next(column for column in self.fields if column.name == self.target_name)

    @cached_property
    def example(self) -> dict[str, float]:
        """A row to try a prediction with, by name."""
        return {column.name: column.example for column in self.features}


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
        content: Any = yaml.safe_load(file.read_text())
        return Table.model_validate(content)
    except OSError as error:
        raise TableError(f"{file.absolute()} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise TableError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, problem['loc'])) or 'the table'}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        ]
        raise TableError("\n  ".join([f"{file} describes no table:", *problems])) from None
