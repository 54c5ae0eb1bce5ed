"""A drift report for people: as text, and as a page with small histograms. Only the standard library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tableloop.figures import LARGE, error_figure, figure

Report = Mapping[str, Any]
Column = Mapping[str, Any]

MOST_LEVELS = 8  # that the page shows of a column
BAR_WIDTH, BAR_HEIGHT = 10, 56  # units of a histogram's own drawing, which the page stretches
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #55606f; --page: #f5f6f8; --card: #fff; --line: #d9dee5;
  --before: #8b97a6; --now: #d9480f; --bad: #b02a08; --good: #1a6b34; --track: #e6e9ee; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf0; --soft: #a9b3c0; --page: #14171c; --card: #1e2229;
  --line: #343a44; --before: #6d7988; --now: #ff8a4c; --bad: #ff9270; --good: #7bd88f; --track: #313742; } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: var(--page); color: var(--ink) }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 3rem }
nav { font-size: .9rem } a { color: inherit }
h1 { font-size: clamp(1.5rem, 5vw, 2.2rem); line-height: 1.2; margin: .4rem 0 .3rem }
h2 { font-size: 1rem; margin: 0 } h2 small { display: block; font-weight: 400 }
small, dt, .soft { color: var(--soft); font-size: .85rem }
.verdict { border-left: .4rem solid var(--soft); padding-left: .9rem }
.verdict.drift { border-color: var(--now) } .verdict.calm { border-color: var(--good) }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .8rem; margin: 1.4rem 0 }
.facts div, article, details { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem 1rem }
dd { margin: .1rem 0 0 } dl { margin: 0 }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: .8rem }
article { display: flex; flex-direction: column; gap: .5rem }
article.moved { border-color: var(--now) }
header { display: flex; justify-content: space-between; gap: .6rem }
.mark { font-size: .85rem; font-weight: 600; white-space: nowrap } .moved .mark { color: var(--bad) }
article:not(.moved) .mark { color: var(--good) }
svg { display: block; width: 100%; height: 4.6rem; overflow: visible }
.before { fill: var(--before) } .now { fill: var(--now); fill-opacity: .6 }
.ends { display: flex; justify-content: space-between; margin-top: -.35rem }
.bar { position: relative; height: .5rem; border-radius: .25rem; background: var(--track) }
.bar span { position: absolute; inset: 0 auto 0 0; border-radius: .25rem; background: var(--before) }
.bar .over { background: var(--now) }
.bar i { position: absolute; top: -.2rem; bottom: -.2rem; left: 50%; border-left: 2px solid var(--ink) }
.measure { display: grid; grid-template-columns: 5.2rem 1fr 3.4rem; align-items: center; gap: .6rem }
.measure b { font-weight: 500; text-align: right; font-variant-numeric: tabular-nums }
.level { display: grid; grid-template-columns: 6rem 1fr auto; align-items: center; gap: .6rem }
.level small { overflow-wrap: anywhere } .level b { font-weight: 500; font-variant-numeric: tabular-nums }
.level i { display: block; height: .4rem; min-width: 1px } .level .before { background: var(--before) }
.level .now { background: var(--now) }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .15em; margin: 0 .3em 0 .8em }
.key.before { background: var(--before) } .key.now { background: var(--now); opacity: .75 }
details { margin-top: 1.2rem } summary { cursor: pointer; font-weight: 600 }
"""


def as_text(report: Report) -> str:
    """Return the report as lines of text."""
    lines = [f"{report['status']}: {report['summary']}"]
    if report.get("columns") and report.get("window"):
        lines.append(_subtitle(report))
    lines += [f"{title}: {text}" for title, text in _facts(report)]
    if report.get("columns"):
        name = max(12, *(len(column["name"]) + 1 for column in report["columns"]))
        medians = [_median(column[side]) for column in report["columns"] for side in ("median_now", "median_before")]
        median = max(10, *(len(text) + 1 for text in medians))
        lines.append("")
        lines.append(
            f"{'':<{name}}{'drift':>6}{'PSI':>8}{'distance':>10}{'p (Holm)':>10}"
            f"{'median':>{median + 1}}{'before':>{median}}  direction"
        )
        lines += [_line(column, name, median) for column in report["columns"]]
    return "\n".join(lines) + "\n"


def as_html(report: Report) -> str:
    """Return the report as a page that loads nothing else."""
    columns: Sequence[Column] = report.get("columns") or ()
    moved = [column for column in columns if column["drifted"]]
    state = {"drift": "drift", "no drift": "calm"}.get(report["status"], "unknown")
    facts = "".join(f"<div><dt>{escape(title)}</dt><dd>{escape(text)}</dd></div>" for title, text in _facts(report))
    # What moved comes first, what moved most before that.
    ordered = sorted(columns, key=lambda column: (not column["drifted"], -column["psi"]))
    cards = "".join(_card(column, report["policy"]) for column in ordered)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Drift report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>"
        '<nav><a href="/">Front page</a> · this report as <a href="?format=text">text</a>, '
        '<a href="?format=json">JSON</a></nav>'
        f'<div class="verdict {state}"><h1>{escape(_headline(report, len(moved), len(columns)))}</h1>'
        f'<p class="soft">{escape(_subtitle(report))}</p></div>'
        f'<dl class="facts">{facts}</dl>'
        + (f"{_LEGEND}<section class=columns aria-label=Columns>{cards}</section>{_EXPLANATION}" if columns else "")
        + "</main></body></html>\n"
    )


_LEGEND = (
    '<p class="soft">Distributions:<span class="key before"></span>what the model was made from'
    '<span class="key now"></span>the newest predictions</p>'
)
_EXPLANATION = (
    "<details><summary>How to read this</summary><p>A column has drifted when chance could hardly do it (p of a "
    "two-sample Kolmogorov-Smirnov test, of levels of a chi-squared test, corrected for the number of columns) and "
    "it is large enough to matter: the population stability index over tenths or levels (PSI), or the Wasserstein "
    "distance in standard deviations, passes its threshold, the dark line in the middle of each bar. A level that "
    "the model does not know is called unknown; missing values are a level too. A classifier looks for what no "
    "single column shows; the area under its curve (AUC) is 0.5 when it has to guess.</p></details>"
)


def _headline(report: Report, moved: int, columns: int) -> str:
    if report["status"] == "drift":
        return f"Drift: {moved} of {columns} columns have moved" if moved else "Drift: the rows as a whole have moved"
    return (
        "No drift: the newest rows are like those that the model knows"
        if report["status"] == "no drift"
        else report["status"].capitalize()
    )


def _subtitle(report: Report) -> str:
    """Return what was compared; what is missing when nothing could be."""
    window = report.get("window")
    if report.get("columns") and window:
        return (
            f"The {window['rows']:,} newest predictions, {_moment(window['first_at'])} to "
            f"{_moment(window['last_at'])}, beside what version {report['version']} was made from; "
            f"checked {_moment(report['checked_at'])}"
        )
    return str(report["summary"])


def _moment(iso: str) -> str:
    """Return a time without seconds, in UTC as it was written."""
    return f"{iso[:10]} {iso[11:16]} UTC"


def _card(column: Column, policy: Mapping[str, float]) -> str:
    drifted, levels = bool(column["drifted"]), column.get("levels")
    direction = column["direction"] or ""
    changed = drifted and _change(column) != direction
    where = f" {escape(direction)}" if direction and _change(column).startswith(direction) else ""
    mark = f"moved{where}" if drifted else "as before"
    medians = (
        f"Median <b>{escape(figure(column['median_now']))}</b> <span class=soft>was "
        f"{escape(figure(column['median_before']))}; "
    )
    distance = column["wasserstein"]
    return (
        f"<article{' class=moved' if drifted else ''}><header><h2>{escape(column['title'])}"
        f"<small>{escape(column['unit'])}</small></h2><span class=mark>{mark}</span></header>"
        f"{_levels(levels) if levels else _histogram(column) if column['histogram'] else ''}"
        + (f"<div><b>{escape(_change(column))}</b></div>" if changed else "")
        + f"<div>{'<span class=soft>' if levels else medians}p {column['p_value']:.2g}</span></div>"
        f"{_measure('PSI', column['psi'], policy['psi'])}"
        f"{'' if distance is None else _measure('Distance', distance, policy['wasserstein'])}</article>"
    )


def _levels(levels: Sequence[Mapping[str, Any]]) -> str:
    """Return the shares of the levels, before and now, as pairs of bars; of many levels the largest."""
    shown = sorted(levels, key=lambda level: -max(level["before"], level["now"]))[:MOST_LEVELS]
    highest = max(shown[0]["before"], shown[0]["now"])
    rows = "".join(
        f"<div class=level><small>{escape(level['level'])}</small><div aria-hidden=true>"
        f'<i class=before style="width:{level["before"] / highest:.1%}"></i>'
        f'<i class=now style="width:{level["now"] / highest:.1%}"></i></div>'
        f"<b>{level['before']:.1%} → {level['now']:.1%}</b></div>"
        for level in shown
    )
    more = len(levels) - len(shown)
    return rows + (f"<small>and {more:,} more levels</small>" if more else "")


def _measure(name: str, value: float, threshold: float) -> str:
    """Return a bar with the threshold in its middle."""
    width = min(100.0, 50 * value / threshold)
    over = " class=over" if value >= threshold else ""
    return (
        f"<div class=measure><small>{name}</small><div class=bar aria-hidden=true><span{over} "
        f'style="width:{width:.0f}%"></span><i></i></div><b>{value:.2f}</b></div>'
    )


def _histogram(column: Column) -> str:
    """Return both distributions as bars over each other in one picture, and the ends of its axis."""
    shares, edges = column["histogram"], column["histogram"]["edges"]
    first, last = (edge if isinstance(edge, str) else f"{edge:g}" for edge in (edges[0], edges[-1]))
    highest = max(*shares["before"], *shares["now"])
    bars = "".join(
        f'<rect class={kind} x="{i * BAR_WIDTH}" y="{BAR_HEIGHT * (1 - share / highest):.1f}" '
        f'width="{BAR_WIDTH - 1}" height="{BAR_HEIGHT * share / highest:.1f}"/>'
        for kind in ("before", "now")
        for i, share in enumerate(shares[kind])
    )
    width = BAR_WIDTH * len(shares["now"])
    label = escape(f"{column['name']}: distribution before and now, {first} to {last}", quote=True)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {BAR_HEIGHT}" preserveAspectRatio="none">'
        f"{bars}</svg><div class=ends aria-hidden=true><small>{escape(figure(edges[0]))}</small>"
        f"<small>{escape(figure(edges[-1]))}</small></div>"
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    """Return what else there is to say, each with its title."""
    facts = []
    joint = report.get("joint")
    if joint:
        verdict = "moved" if joint["drifted"] else "as before"
        facts.append(
            (
                "Rows as a whole",
                f"{verdict}: a classifier tells them from the training rows with AUC {joint['auc']:.3f} "
                f"(0.5 is guessing; p {joint['p_value']:.2g})",
            )
        )
    live = report.get("live")
    if live and live["labels"]:
        worse = "; worse than chance allows" if live["worse"] else ""
        facts.append(
            (
                "Live error",
                f"RMSE {error_figure(live['rmse'])} of the newest {live['labels']} labels, "
                f"{error_figure(live['test_rmse'])} was promised"
                f"{worse}; {live['inside_interval']:.0%} inside their intervals",
            )
        )
    if "new_labels" in report:
        facts.append(("Labels that no training has used", f"{report['new_labels']:,}"))
    monitor = report.get("monitor")
    if monitor:
        facts.append(("What the monitor does", str(monitor["says"])))
    return facts


def _line(column: Column, name: int, median: int) -> str:
    """Return a column's line; the widths are of its name and of a median."""
    medians = (_median(column[side]) for side in ("median_now", "median_before"))
    return (
        f"{column['name']:<{name}}{'yes' if column['drifted'] else '-':>6}{column['psi']:>8.3f}"
        f"{_or_dash(column['wasserstein'], '.3f'):>10}{column['p_value']:>10.2g}"
        f"{next(medians):>{median + 1}}{next(medians):>{median}}  {_change(column) if column['drifted'] else '-'}"
    )


def _median(value: float | str | None) -> str:
    """Return a median with five digits."""
    return f"{value:.5g}" if isinstance(value, float) and abs(value) < LARGE else figure(value)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _change(column: Column) -> str:
    """Return what has changed in words; reports of former versions have directions only."""
    return str(column.get("change") or column["direction"])
