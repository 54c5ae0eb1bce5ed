"""What happened in a story so far, and its picture."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tableloop.figures import error_figure

SHOWN = 200  # labelled predictions in a live RMSE


@dataclass(frozen=True)
class Answer:
    """A labelled prediction: when it was made, by which version, and how wrong it was."""

    at: float
    version: str
    error: float
    inside: bool


@dataclass
class Record:
    """Answers, failures and events since the beginning; several threads add to it."""

    started: float = field(default_factory=time.monotonic)
    answers: list[Answer] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def seconds(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self.started

    def tell(self, text: str, mark: str = "") -> None:
        """Print a step with its time; one with a mark becomes a line in the picture."""
        at = self.seconds()
        if mark:
            self.events.append((at, mark))
        sys.stdout.write(f"{int(at) // 60}:{int(at) % 60:02d}  {text}\n")
        sys.stdout.flush()

    def live(self, version: str, since: float = 0.0) -> tuple[float, float, int]:
        """Return RMSE, share inside the intervals and number of a version's newest labelled predictions."""
        chosen = [answer for answer in list(self.answers) if answer.version == version and answer.at >= since]
        chosen = chosen[-SHOWN:]
        if not chosen:
            return math.nan, math.nan, 0
        rmse = np.sqrt(np.mean([answer.error**2 for answer in chosen]))
        return float(rmse), float(np.mean([answer.inside for answer in chosen])), len(chosen)

    def summary(self, version: str, since: float = 0.0) -> str:
        """Return `live` in words."""
        rmse, inside, count = self.live(version, since)
        return f"live RMSE {error_figure(rmse)}, {inside:.0%} inside the intervals ({count} labels)"


def draw(record: Record, story: str, unit: str, file: Path) -> None:
    """Write the live RMSE of each version over time, or how much was asked, with the events, as PNG."""
    figure = Figure(figsize=(9, 4.5), layout="tight")
    axes = figure.add_subplot()
    if story == "burst":
        counts = np.bincount([int(answer.at) for answer in record.answers])
        axes.fill_between(np.arange(len(counts)), counts, step="post", alpha=0.7)
        axes.set(xlabel="seconds", ylabel="predictions a second", title=f"Load, scenario {story}")
    else:
        _draw_error(axes, record)
        label = f"RMSE of 100 predictions ({unit})"
        axes.set(xlabel="seconds", ylabel=label, title=f"Live error, scenario {story}")
        axes.legend(loc="lower left")
    top = axes.get_ylim()[1]
    for at, mark in record.events:
        axes.axvline(at, color="grey", linewidth=0.8, linestyle="--")
        axes.text(at, top, f" {mark}", rotation=90, va="top", fontsize=8)
    axes.set_ylim(0, top)
    FigureCanvasAgg(figure)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def _draw_error(axes: Axes, record: Record) -> None:
    for version in dict.fromkeys(answer.version for answer in record.answers):
        answers = [answer for answer in record.answers if answer.version == version]
        squares = pd.Series([answer.error**2 for answer in answers]).rolling(100, min_periods=20).mean()
        axes.plot([answer.at for answer in answers], np.sqrt(squares), label=f"version {version}")
