"""What a file is as a table: its columns with their meanings, which are of use, and what a person should look at."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.describe.analysis import Analysis, analyse
from pipeline.describe.column_values import Values, decimal_mark, read_column
from pipeline.describe.raw_file import FileError, RawFile
from tableloop.model.coding import Coding
from tableloop.table import RESERVED

LEAST_ROWS = 100  # of which some 13 set the width of the intervals and 20 test
FEW_ROWS = 500
MOST_LEVELS = 100
LEVELS_COVER = 0.8  # of the rows must have one of so many levels, or the column is text
FEW_VALUES = 10
HEAVY_TAIL = 10.0  # the largest value, in distances from the median to the 99th percentile
NEARLY_ALL = 0.95  # of the values of an identifier differ
MANY_GAPS = 0.5
NUMBERS = ("number", "integer")
DATES = ("date", "datetime")
IDENTIFIER = re.compile(r"(^|[_\W])(id|uuid|guid|key|no|nr|number|index|identifier)$|ID$|Id$", re.IGNORECASE)
CODE = re.compile(r"(code|type|class|category|cluster|zip|postcode|postal)", re.IGNORECASE)
LATITUDE, LONGITUDE = (
    re.compile(rf"(^|.*[_\W]|.*[a-z](?=[A-Z]))({names})(?=$|[_\W]).*$", re.IGNORECASE)
    for names in ("lat|latitude", "lon|lng|long|longitude")
)
PROJECTED = re.compile(r"^(x|y|easting|northing|[xy][_ ]?coord.*|coord.*[_ ]?[xy]|utm.*)$", re.IGNORECASE)


@dataclass
class Column:
    """A column: as it is called in the file, its name in the table, its values, and why it is left out, if it is."""

    title: str
    name: str
    values: Values
    left_out: str = ""
    levels: list[str] = field(default_factory=list)  # of strings, the most frequent first

    @property
    def type(self) -> str:
        """The type of the contract."""
        return self.values.type

    @property
    def data(self) -> Any:
        """The values, a pandas series."""
        return self.values.data

    @property
    def missing(self) -> int:
        """How many values are missing."""
        return int(self.data.isna().sum())

    @property
    def notes(self) -> list[str]:
        """What a person should look at."""
        return self.values.notes

    @property
    def is_ordered(self) -> bool:
        """Whether its values have a size."""
        return self.type in (*NUMBERS, *DATES)


@dataclass
class Description:
    """A table: its columns in the order of the file, that to predict among them, and what is said of them."""

    columns: list[Column]
    target: Column
    rows: int
    place: tuple[str, str] | None
    analysis: Analysis
    findings: list[str]
    written: str  # how the file is written, in words

    @property
    def fields(self) -> list[Column]:
        """The columns that the table has, the target among them."""
        return [column for column in self.columns if not column.left_out]

    @property
    def features(self) -> list[Column]:
        """The columns that a prediction is made from."""
        return [column for column in self.fields if column is not self.target]

    @property
    def left_out(self) -> list[Column]:
        """The columns of the file that the table does not have."""
        return [column for column in self.columns if column.left_out]


def describe(
    raw: RawFile,
    target: str,
    *,
    keep: Collection[str] = (),
    drop: Collection[str] = (),
    categories: Collection[str] = (),
) -> Description:
    """Return what a file is as a table whose column ``target`` is to be predicted.

    Parameters
    ----------
    keep, drop, categories
        Names in the file of columns to keep that would be left out, to leave out, and whose numbers stand for levels.

    Raises
    ------
    FileError
        No table of numbers to predict can be made of it.
    """
    for name in (*keep, *drop, *categories):
        if name not in raw.names:
            raise FileError(f"there is no column {name!r}; there are {', '.join(raw.names)}")
    mark = decimal_mark(raw.columns, raw.separator)
    columns = [
        Column(_title(raw.names, place), name, read_column(raw.names[place], given, mark, raw.where))
        for place, (name, given) in enumerate(zip(identifiers(raw.names), raw.columns, strict=True))
    ]
    findings = list(raw.notes)
    wanted = next(column for column in columns if column.title == target)
    _check_target(wanted, findings)
    wanted.values.type = "number"  # of whole numbers too, predictions and labels may lie between them
    rows = np.flatnonzero(wanted.data.notna())
    if len(rows) < len(wanted.data):
        findings.append(f"{counted(len(wanted.data) - len(rows))} without a value of {target}: left out")
        for column in columns:
            if column.type != "unreadable":
                column.values.data = column.data.take(rows).reset_index(drop=True)
    _check_rows(len(rows), findings)
    for column in columns:
        if column is not wanted:
            _look_at(column, column.title in keep, column.title in drop, column.title in categories)
    features = [column for column in columns if not column.left_out and column is not wanted]
    if not features:
        raise FileError(f"there is no column to predict {target} from: all others were left out")
    place = _place(features, findings)
    X = coding_of(features).frame(pd.DataFrame({column.name: column.data for column in features}))
    y = wanted.data.to_numpy(np.float64)
    analysis = analyse(
        X,
        y,
        [column.name for column in features],
        levels=[column.name for column in features if column.type in ("string", "boolean")],
        numbers=[column.name for column in features if column.type in NUMBERS and column.name not in (place or ())],
    )
    _look_at_all(features, wanted, analysis, findings)
    return Description(columns, wanted, len(rows), place, analysis, findings, raw.written)


def _title(names: Sequence[str], place: int) -> str:
    """Return the name in the file, with a number where others before it are called so."""
    before = names[:place].count(names[place])
    return f"{names[place]} ({before + 1})" if before and names[place] else names[place]


def coding_of(columns: Sequence[Column]) -> Coding:
    """Return how rows of these columns become numbers."""
    kinds = {
        column.name: {"type": column.type} | ({"categories": column.levels} if column.type == "string" else {})
        for column in columns
        if column.type not in NUMBERS
    }
    return Coding([column.name for column in columns], kinds)


def identifiers(titles: Sequence[str]) -> list[str]:
    """Return names for columns that are identifiers, differ from each other, and are not those of the store."""
    names: list[str] = []
    for place, title in enumerate(titles, 1):
        letters = (letter if letter.isalpha() or letter.isdecimal() else " " for letter in normalize("NFKC", title))
        name = "_".join("".join(letters).split()) or f"column_{place}"
        if name[0].isdigit():
            name = f"n{name}"
        if name.casefold() in RESERVED:
            name += "_"
        taken = {other.casefold() for other in names}
        number = 2
        while (f"{name}_{number}" if number > 2 or name.casefold() in taken else name).casefold() in taken:
            number += 1
        names.append(f"{name}_{number}" if name.casefold() in taken else name)
    return names


def counted(rows: int) -> str:
    """Return a number of rows as the subject of a sentence."""
    return "1 row is" if rows == 1 else f"{rows:,} rows are"


def _check_target(target: Column, findings: list[str]) -> None:
    if target.type not in NUMBERS:
        what = {"string": "text", "boolean": "true or false"}.get(target.type, f"a {target.type}")
        example = target.data.dropna().iloc[:1].astype(str).tolist()
        shown = f', for example "{example[0]}"' if example else ""
        raise FileError(
            f"{target.title} is {what}{shown}. Tableloop predicts numbers (regression); it does no classification: "
            "name a column of numbers as TARGET"
        )
    distinct = target.data.nunique()
    if distinct <= 2:
        raise FileError(
            f"{target.title} has {'only one value' if distinct == 1 else f'{distinct} different values'}: "
            "to tell classes apart is classification; Tableloop predicts numbers (regression)"
        )
    if distinct <= FEW_VALUES:
        target.notes.append(f"only {distinct} different values: of classes, predicting a number means little")
    values = target.data.dropna().to_numpy(np.float64)
    median, high = np.quantile(values, [0.5, 0.99])
    if values.max() - median > HEAVY_TAIL * (high - median) > 0:
        findings.append(
            f"{target.title} has a heavy tail: the largest value is {values.max():g}, 99 % are below {high:g}. "
            "A few rows decide the RMSE: check them"
        )


def _check_rows(count: int, findings: list[str]) -> None:
    if count < LEAST_ROWS:
        raise FileError(
            f"{count} rows with a value to predict are too few: of {LEAST_ROWS} at least, a fifth tests the "
            "model and some set the width of its intervals"
        )
    if count < FEW_ROWS:
        findings.append(
            f"{count} rows are few: scores and intervals will vary by chance; from {FEW_ROWS} on they are steadier"
        )


def _look_at(column: Column, keep: bool, drop: bool, as_levels: bool) -> None:
    """Settle the type and the levels of a column, and whether it is left out."""
    column.left_out = _why_left_out(column, drop)
    if column.left_out:
        return
    data = column.data
    present = data.dropna()
    if as_levels and column.type in NUMBERS:
        column.values = Values("string", data.map(lambda number: f"{number:g}", na_action="ignore").astype("str"))
    elif column.type in NUMBERS and set(present.unique()) == {0, 1}:
        note = "only 0 and 1 occur: read as false and true"
        column.values = Values("boolean", data.astype("boolean"), "", [*column.notes, note])
    elif column.type in NUMBERS and not keep:
        column.left_out = _why_identifier(column)
    if column.type == "integer" and CODE.search(column.title):
        column.notes.append(
            "if these numbers stand for kinds of things, make it a category: CATEGORIES=" + column.title
        )
    if column.type == "integer" and IDENTIFIER.search(column.title) and not column.left_out:
        column.notes.append(
            "it may number things rather than measure them: DROP= leaves it out, CATEGORIES= takes it as levels"
        )
    if column.type == "string":
        _settle_levels(column, keep)
    if column.type in NUMBERS and len(present) and not column.left_out:
        _look_for_stand_in(column, present.to_numpy(np.float64))
    if len(present) < (1 - MANY_GAPS) * len(data):
        column.notes.append(f"{1 - len(present) / len(data):.0%} of the values are missing")


def _why_left_out(column: Column, drop: bool) -> str:
    if drop:
        return "asked for"
    if column.type == "unreadable":
        return column.notes[0]
    present = column.data.dropna()
    if present.empty:
        return "it has no values"
    if present.nunique() == 1 and len(present) == len(column.data):
        return f"constant: always {present.iloc[0]}"
    return ""


def _why_identifier(column: Column) -> str:
    if column.type != "integer" or column.missing:
        return ""
    values = column.data.to_numpy(np.int64)
    distinct = np.unique(values)  # rows without a target are gone, and some may be there twice
    if len(distinct) < NEARLY_ALL * len(values):
        return ""
    dense = len(distinct) > NEARLY_ALL * (distinct[-1] - distinct[0] + 1)
    if dense and (np.diff(values) >= 0).all():
        return "row numbers"
    return "an identifier: each row has another number" if dense or IDENTIFIER.search(column.title) else ""


def _settle_levels(column: Column, keep: bool) -> None:
    counts = column.data.value_counts()
    present = int(counts.sum())
    column.levels = [str(level) for level in counts.index[:MOST_LEVELS]]
    if len(counts) <= MOST_LEVELS and len(counts) < 0.9 * present:
        return
    covered = counts.iloc[:MOST_LEVELS].sum() / present
    if covered < LEVELS_COVER and not keep:
        each = "each row has another text" if len(counts) == present else f"{len(counts):,} different texts"
        column.left_out = f"names, identifiers or free text: {each}"
    elif len(counts) > MOST_LEVELS:
        column.notes.append(
            f"the {MOST_LEVELS} most frequent of {len(counts):,} levels are listed, of {covered:.0%} of the rows: "
            "others count as unknown"
        )


def _look_for_stand_in(column: Column, values: npt.NDArray[np.float64]) -> None:
    """Note a number that may stand for a missing value: -999 and its like, far from all others."""
    for number in (-999, -9999, -99, -1, 999, 9999, 99999):
        count = int((values == number).sum())
        others = values[values != number]
        if count > 1 and len(others) and (number < 2 * min(others.min(), 0) or number > 2 * max(others.max(), 0)):
            if number == -1 and others.min() < 0:
                continue
            column.notes.append(
                f"{number} occurs {count:,} times, far from all others: if it means missing, empty it"
            )


def _place(features: Sequence[Column], findings: list[str]) -> tuple[str, str] | None:
    """Return the columns with latitude and longitude, if there are such, and say why not where they seem to be."""
    numbers = [column for column in features if column.type in NUMBERS]
    pairs = [
        (north, east)
        for north in numbers
        for east in numbers
        if (one := LATITUDE.match(north.title)) and (other := LONGITUDE.match(east.title)) and one[1] == other[1]
    ]
    found = None
    for north, east in pairs:
        latitude, longitude = (column.data.to_numpy(np.float64, na_value=np.nan) for column in (north, east))
        both = f"{north.title} and {east.title}"
        if north.missing or east.missing:
            findings.append(f"{both} are missing in some rows: only columns without gaps can be the place")
        elif np.abs(latitude).max() > 90 or np.abs(longitude).max() > 180:
            swapped = np.abs(longitude).max() <= 90 and np.abs(latitude).max() <= 180
            remedy = "they seem to be swapped" if swapped else "a projection must be turned into degrees"
            findings.append(f"{both} are no latitude and longitude in degrees, so there is no place: {remedy}")
        elif found is None:
            found = (north.name, east.name)
            if ((latitude == 0) & (longitude == 0)).any():
                findings.append(f"{both} are 0 in some rows: if it means missing, remove them")
        else:
            findings.append(f"{both} are a second place: only {found[0]} and {found[1]} are taken as one")
    if found is None and not pairs:
        projected = [column.title for column in numbers if PROJECTED.match(column.title)]
        if len(projected) > 1:
            findings.append(
                f"{' and '.join(projected)} may be coordinates of a projection: the models take them as numbers; "
                "as a place they must be latitude and longitude in degrees"
            )
    return found


def _look_at_all(
    features: Sequence[Column],
    target: Column,
    analysis: Analysis,
    findings: list[str],
) -> None:
    by_name = {column.name: column for column in features}
    for name, explained in analysis.giveaways.items():
        by_name[name].notes.append(
            f"it predicts {target.title} nearly alone (R² {explained:.3f}): is it known before the answer is? "
            "If not, leave it out by DROP"
        )
    if analysis.sums and not analysis.giveaways.keys() & set(analysis.sums):
        parts = " and ".join(by_name[name].title for name in analysis.sums)
        findings.append(f"{target.title} is a sum of {parts}: if they are known only with it, leave them out by DROP")
    dates = [column.title for column in features if column.type in DATES]
    if dates:
        findings.append(
            f"{' and '.join(dates)}: rows are split at random, so rows of the same days are on both sides. "
            "The scores say how well gaps are filled, not how well the future is foretold"
        )
    rows = pd.DataFrame({column.name: column.data for column in (*features, target)})
    same, whole = (int(rows.duplicated(subset=names).sum()) for names in ([*by_name], None))
    if whole:
        findings.append(f"{counted(whole)} there twice: both are kept, on the same side of the split")
    if same > whole:
        findings.append(
            f"{counted(same - whole)} like another in all but {target.title}: no model can tell them apart"
        )
