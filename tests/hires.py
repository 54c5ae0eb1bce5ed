"""A made table without places, with a column of every type, with and without missing values: hires of bicycles."""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

STATIONS = [f"Station {number:02}" for number in range(1, 41)]
WEATHERS = ["clear", "clouds", "rain", "snow, ice"]
TABLE: dict[str, Any] = {
    "name": "hires",
    "title": "Hires of bicycles",
    "description": "Bicycles hired in an hour.",
    "path": "raw/hires.csv",
    "row": "hour",
    "rows": "hours",
    "fields": [
        {"name": "temperature", "title": "Air temperature", "unit": "°C", "example": 14.5}
        | {"constraints": {"required": False, "minimum": -30, "maximum": 60}},
        {"name": "gusts", "type": "integer", "example": 3, "constraints": {"minimum": 0, "maximum": 12}},
        {"name": "holiday", "type": "boolean", "example": False},
        {
            "name": "works",
            "title": "Road works",
            "type": "boolean",
            "example": None,
            "constraints": {"required": False},
        },
        {"name": "weather", "type": "string", "categories": WEATHERS, "example": "clouds"},
        {"name": "size", "type": "string", "categories": ["small", "large"], "unknown": "refuse", "example": "small"},
        {"name": "station", "type": "string", "categories": STATIONS, "example": "Station 07"}
        | {"constraints": {"required": False}},
        {"name": "day", "type": "date", "example": "2024-05-06"}
        | {"constraints": {"minimum": "2020-01-01", "maximum": "2030-12-31"}},
        {"name": "seen", "title": "Last counted", "type": "datetime", "example": "2024-05-06T13:00:00"}
        | {"constraints": {"required": False, "minimum": "2020-01-01", "maximum": "2030-12-31"}},
        {"name": "hires", "title": "Hires", "type": "integer", "unit": "bicycles", "example": 120}
        | {"constraints": {"minimum": 0, "maximum": 1000}},
    ],
    "target": "hires",
    "answer": "predicted_hires",
    "metric": "predicted_hires",
    "display": {"round_to": 1, "suffix": " bicycles"},
}


def write(directory: Path, rows: int = 400, *, note: bool = True, **changes: Any) -> Path:
    """Write `table.yaml`, with changes, and the data; return the directory.

    A ``note`` is a column that is not in the table: rows can be predicted with it, and not be learnt.
    """
    (directory / "raw").mkdir(parents=True)
    (directory / "table.yaml").write_text(yaml.safe_dump(TABLE | changes, sort_keys=False, allow_unicode=True))
    names = [field["name"] for field in TABLE["fields"]]
    with (directory / "raw" / "hires.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        choose = random.Random(0)
        first, others = (["note"], ["x, y"]) if note else ([], [])
        writer.writerow([*first, *reversed(names)])  # in another order
        writer.writerows([[*others, *reversed(row(choose))] for _ in range(rows)])
    return directory


def row(choose: random.Random) -> list[Any]:
    """Return a row as the file has it, empty where a value is missing."""
    day = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(days=choose.randrange(700))
    seen = day + timedelta(hours=choose.randrange(24))
    temperature = round(choose.gauss(12, 8), 1)
    weather = choose.choices(WEATHERS, (6, 3, 2, 1))[0]
    holiday = choose.random() < 0.2
    size = choose.choice(["small", "large"])
    hires = 150 + 8 * temperature - 40 * WEATHERS.index(weather) + 60 * holiday + 90 * (size == "large")
    return [
        "" if choose.random() < 0.1 else temperature,
        choose.choices(range(7), (30, 20, 10, 5, 3, 2, 1))[0],
        str(holiday).lower(),
        choose.choice(["", "true", "false"]),
        weather,
        size,
        "" if choose.random() < 0.1 else choose.choice(STATIONS),
        f"{day:%Y-%m-%d}",
        "" if choose.random() < 0.1 else f"{seen:%Y-%m-%dT%H:%M:%S}",
        max(0, round(hires + choose.gauss(0, 30))),
    ]
