"""`table.yaml` for a description. What is not certain stands there as a comment that begins with `look:`."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipeline.describe.description import DATES, NUMBERS, Column, Description
from tableloop.model.coding import iso_of

WIDTH = 118
BUCKETS = tuple(np.linspace(0.02, 0.98, 10).tolist())  # quantiles of the target
BANDS = (0.25, 0.5, 0.75, 0.95)
MOST_COMPARABLE = 3
AFTER = ("€", "%")  # signs that stand behind a number
SCALES = {  # what is possible of a column that is called so, and lies within
    r"hour|hr|stunde": (0, 23),
    r"minute": (0, 59),
    r"month|mnth|monat": (1, 12),
    r"year|yr|jahr": (1800, 2200),
    r"temp|temperature|temperatur|dew_?point|celsius|fahrenheit": (-300, 1000),
    r"weekday|dayofweek|day_of_week|dow": (0, 7),
    r"(hum|humidity|percent|percentage|pct)": (0, 100),
}


def contract(description: Description, name: str, file: str, source: str) -> str:
    """Return the text of `table.yaml` for a table of this name, with its data in ``raw/file``, made of ``source``."""
    camel = "".join(part.capitalize() for part in name.split("-"))
    noted = [f"look: {finding}" for finding in description.findings]
    noted += [f"left out: {column.title or 'without a name'}, {column.left_out}" for column in description.left_out]
    example = _example(description)
    fields = [line for column in description.fields for line in _field(column, example[column.name], description)]
    parts = [
        *_comment(
            f"What the table means, as `make table` saw it in {source}. Read it once: a comment that begins with "
            "`look:` is a question that only you can answer. docs/your-table.md explains every key."
        ),
        f"""
name: {name}
title: {_scalar(name.replace("-", " ").capitalize())}
description: ""
path: raw/{file}
source: {_scalar(source)}  # look: whose data is it, and under which licence?

# What a row is called, one and several, and the names of its type in the API and of the model in the registry.
row: row
rows: rows
type: {camel}Features
model: {camel}Model
""",
        *("\n".join(_comment(note)) for note in noted),
        """\
# `minimum` and `maximum` bound what is possible, with a wide margin around what was seen. A request outside is
# refused; one inside but outside of the training data is answered with a warning.
fields:""",
        *fields,
        _about_target(description),
        _about_places(description),
        f"""\
# What a reader of a model card has to know.
card:
  use: {_quoted(f"To predict {description.target.title} of rows like those of the table.")}  # look: and what not for?
  data: >-
    {_about_data(description, source)}""",
    ]
    return "\n".join([*parts, ""])


def _about_target(description: Description) -> str:
    target = description.target
    values = target.data.to_numpy(np.float64)
    step = 10.0 ** math.floor(math.log10(float(np.std(values))))
    unit, answer = target.values.unit, _answer(description)
    before, after = ("", f" {unit}") if unit in AFTER else (unit, "")
    round_to = step / 1000
    buckets, bands = (_marks(values, shares, step / 10) for shares in (BUCKETS, BANDS))
    return f"""
# The column to predict; its name in the API's answers, and the name of its Prometheus histogram with its buckets.
target: {target.name}
answer: {answer}
metric: {answer}
buckets: {_flow(buckets)}

# How a person reads a value of the target: multiplied, rounded, and with these words around it.
display: {{factor: 1, round_to: {_number(round_to)}, prefix: {_quoted(before)}, suffix: {_quoted(after)}, unit: \
{_quoted(unit)}}}

# Groups in which a model's errors are told apart: by the target's value, from each mark to the next.
bands: {_flow(bands)}
"""


def _about_places(description: Description) -> str:
    """Return the place, and what the page shows of comparable rows."""
    text = ""
    if description.place:
        north, east = description.place
        text += f"# The two columns that say where a row is.\nplace: {{latitude: {north}, longitude: {east}}}\n\n"
    numbers = {column.name: column.title for column in description.features if column.type in NUMBERS}
    shown = [name for name in description.analysis.important if name in numbers.keys() - {*(description.place or ())}]
    if shown:
        text += "# What the page shows of comparable rows, beside the target.\ncomparable:\n"
        for name in shown[:MOST_COMPARABLE]:
            text += f"  - {{column: {name}, title: {_in_flow(numbers[name])}}}\n"
    return text


def _field(column: Column, example: Any, description: Description) -> list[str]:
    lines = [f"  - name: {column.name}", f"    title: {_scalar(column.title or column.name)}"]
    notes = list(column.notes)
    if column is description.target and not column.values.unit:
        notes.insert(0, "in which unit is it?")
    lines.append(f"    type: {column.type}")
    if column.values.unit or column is description.target:
        lines.append(f"    unit: {_quoted(column.values.unit)}")
    if column.levels:
        lines += _levels(column)
    lines.append(f"    example: {_value(example)}")
    required = not column.missing
    constraints = f"required: {str(required).lower()}"
    comments = [] if required else [f"missing in {column.missing:,} of {description.rows:,} rows"]
    if column.is_ordered:
        low, high = _bounds(column, description)
        constraints += f", minimum: {_value(low)}, maximum: {_value(high)}"
        comments.insert(0, f"seen: {_seen(column)}")
    line = f"    constraints: {{{constraints}}}"
    comment = f"# {'; '.join(comments)}" if comments else ""
    if len(line) + len(comment) + 2 > WIDTH:
        lines.append(f"    {comment}")
        comment = ""
    lines.append(f"{line}  {comment}".rstrip())
    return [lines[0], *(line for note in notes for line in _comment(f"look: {note}", "    ")), *lines[1:]]


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")


def _levels(column: Column) -> list[str]:
    """Return the levels, in as many lines as they need; a level may have blanks, so lines end between levels only."""
    lines = ["    categories: ["]
    for level in column.levels:
        text = _in_flow(level) + ("]" if level == column.levels[-1] else ", ")
        if len(lines[-1]) + len(text) > WIDTH and not lines[-1].endswith("["):
            lines = [*lines[:-1], lines[-1].rstrip(), "      "]
        lines[-1] += text
    counts = column.data.value_counts().iloc[:5]
    rows = f"  # rows: {', '.join(f'{count:,}' for count in counts)}{', …' if len(column.levels) > 5 else ''}"
    return [*lines[:-1], lines[-1] + rows] if len(lines[-1] + rows) <= WIDTH else lines


def _bounds(column: Column, description: Description) -> tuple[Any, Any]:
    """Return what is possible: some ten times what was seen, never negative if nothing was."""
    present = column.data.dropna()
    if column.type in DATES:
        years = present.min().year, present.max().year
        ends = f"{min(1900, years[0] - 100):04d}-01-01", f"{max(2100, years[1] + 100):04d}-12-31"
        return ends if column.type == "date" else (f"{ends[0]}T00:00:00", f"{ends[1]}T23:59:59")
    low, high = float(present.min()), float(present.max())
    if description.place and column.name in description.place:
        return (-90, 90) if column.name == description.place[0] else (-180, 180)
    for names, (least, most) in SCALES.items():
        if re.fullmatch(rf"(.*[_\W])?({names})", column.title, re.IGNORECASE) and least <= low and high <= most:
            return least, most
    if column.values.unit == "%" and low >= 0 and high <= 100:
        return 0, 100
    far = _at_least(10 * max(abs(low), abs(high), 1e-9))
    if any(column.name == term.get("ratio", ("", ""))[1] for term in description.analysis.features.values()):
        return 1 / _at_least(10 / low), far  # a feature divides by it
    return (0 if low >= 0 else -far), far


def _at_least(number: float) -> float:
    """Return the next larger 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(round(times * power, 12) for times in (1, 2, 5, 10) if times * power >= number * (1 - 1e-9))


def _seen(column: Column) -> str:
    low, high = column.data.min(), column.data.max()
    if column.type in DATES:
        return f"{_moment(low, column.type)} to {_moment(high, column.type)}"
    return f"{float(low):.6g} to {float(high):.6g}"


def _moment(moment: Any, type_: str) -> str:
    days = (pd.Timestamp(moment) - pd.Timestamp(0)) / pd.Timedelta(days=1)
    return iso_of(days, with_time=type_ == "datetime")


def _example(description: Description) -> dict[str, Any]:
    """Return a row by name: of those with the fewest gaps and known levels, one whose target is in the middle."""
    gaps = np.zeros(description.rows, dtype=np.int64)
    for column in description.features:
        gaps += column.data.isna().to_numpy()
        if column.type == "string":
            gaps += ~column.data.isin(column.levels).to_numpy()
    values = description.target.data.to_numpy(np.float64)
    candidates = np.flatnonzero(gaps == gaps.min())
    row = candidates[np.argmin(np.abs(values[candidates] - np.median(values)))]
    found: dict[str, Any] = {}
    for column in description.fields:
        value = column.data.iloc[row]
        if pd.isna(value):
            found[column.name] = None
        elif column.type in DATES:
            found[column.name] = _moment(value, column.type)
        elif column.type == "string":
            found[column.name] = str(value)
        else:
            found[column.name] = {"integer": int, "boolean": bool}.get(column.type, float)(value)
    return found


def _marks(values: Any, shares: Sequence[float], step: float) -> list[float]:
    """Return quantiles on round numbers, each once; at least two of them."""
    for finer in (1, 10, 100, 1000):
        marks = sorted({round(round(mark * finer / step) * step / finer, 12) for mark in np.quantile(values, shares)})
        if len(marks) > 1:
            return marks
    return [float(values.min()), float(values.max())]


def _answer(description: Description) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", description.target.name.lower()).strip("_")
    return (
        f"predicted_{slug}"
        if slug and f"predicted_{slug}" not in {c.name for c in description.fields}
        else "predicted_value"
    )


def _about_data(description: Description, source: str) -> str:
    gaps = [column.title for column in description.features if column.missing]
    missing = f" Values are missing in {', '.join(gaps)}." if gaps else ""
    text = f"{description.rows:,} rows of {source}.{missing}"
    return "\n    ".join(textwrap.wrap(text, WIDTH - 4, break_long_words=False))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    return _scalar(value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _scalar(value: Any) -> str:
    """Return a value as YAML writes it within a line, in quotes where some reader might take it for another type."""
    if isinstance(value, str) and not value[:1].isalpha():
        return _quoted(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _flow(values: Sequence[Any]) -> str:
    return f"[{', '.join(_number(value) if isinstance(value, float) else _in_flow(value) for value in values)}]"


def _in_flow(text: str) -> str:
    return _scalar([text])[1:-1] if text[:1].isalpha() else _quoted(text)
