"""The dashboards for the table that is served: what stands in capital letters in their files is filled in.

The files in ``dashboards/`` are the same for every table; `monitoring.grafana.dashboards` writes them. Grafana reads
the filled ones, which the start of the appliance puts below STATE_DIR.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from tableloop.state.layout import Layout
from tableloop.table import Table, load_table

DIRECTORY = Path(__file__).with_name("dashboards")
DIGITS = 4  # of the target's usual span, down to the last place of an error


def prepare(layout: Layout) -> None:
    """Write every dashboard where Grafana is told to look for them."""
    layout.dashboards.mkdir()
    for name, text in filled(load_table()).items():
        (layout.dashboards / name).write_text(text)


def filled(table: Table) -> dict[str, str]:
    """Return the text of every dashboard for a table, by the name of its file."""
    values = _values(table)
    texts = {file.name: file.read_text() for file in sorted(DIRECTORY.glob("*.json"))}
    for word, value in values.items():
        # A number stands for the word with its quotes, a text for the word inside a longer text.
        old, new = (word, json.dumps(value)[1:-1]) if isinstance(value, str) else (f'"{word}"', json.dumps(value))
        texts = {name: text.replace(old, new) for name, text in texts.items()}
    return texts


def _values(table: Table) -> dict[str, str | int | None]:
    """Return what each word in capital letters stands for."""
    span = table.steps[-1] - table.steps[0] or table.target.maximum - table.target.minimum
    places = max(0, DIGITS - 1 - math.floor(math.log10(span)))
    ordered = all(column.is_ordered for column in table.features)
    return {
        "TARGET_METRIC": table.metric,
        "TARGET_UNIT": table.target.unit_words,
        "ERROR_PLACES": places,
        "VALUE_PLACES": max(0, places - 1),
        "LEAST_VALUE": 0 if table.target.minimum >= 0 else None,
        "DRIFT_TESTS": "Kolmogorov-Smirnov test" + ("" if ordered else " (categories: chi-squared test)"),
    }
