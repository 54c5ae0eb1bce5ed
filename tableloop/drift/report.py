"""A drift report for people: as text, and as a page with small histograms. Only the standard library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Report = Mapping[str, Any]
Column = Mapping[str, Any]

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
        lines.append("")
        lines.append(
            f"{'':<12}{'drift':>6}{'PSI':>8}{'distance':>10}{'p (Holm)':>10}{'median':>11}{'before':>10}  direction"
        )
        lines += [_line(column) for column in report["columns"]]
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
    "two-sample Kolmogorov-Smirnov test, corrected for the number of columns) and it is large enough to matter: the "
    "population stability index over tenths (PSI), or the Wasserstein distance in standard deviations, passes its "
    "threshold, the dark line in the middle of each bar. A classifier looks for what no single column shows; the "
    "area under its curve (AUC) is 0.5 when it has to guess.</p></details>"
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
    drifted = bool(column["drifted"])
    mark = f"moved {escape(column['direction'])}" if drifted else "as before"
    return (
        f"<article{' class=moved' if drifted else ''}><header><h2>{escape(column['title'])}"
        f"<small>{escape(column['unit'])}</small></h2><span class=mark>{mark}</span></header>{_histogram(column)}"
        f"<div>Median <b>{column['median_now']:.4g}</b> <span class=soft>was {column['median_before']:.4g}; "
        f"p {column['p_value']:.2g}</span></div>"
        f"{_measure('PSI', column['psi'], policy['psi'])}"
        f"{_measure('Distance', column['wasserstein'], policy['wasserstein'])}</article>"
    )


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
    highest = max(*shares["before"], *shares["now"])
    bars = "".join(
        f'<rect class={kind} x="{i * BAR_WIDTH}" y="{BAR_HEIGHT * (1 - share / highest):.1f}" '
        f'width="{BAR_WIDTH - 1}" height="{BAR_HEIGHT * share / highest:.1f}"/>'
        for kind in ("before", "now")
        for i, share in enumerate(shares[kind])
    )
    width = BAR_WIDTH * len(shares["now"])
    label = escape(f"{column['name']}: distribution before and now, {edges[0]:g} to {edges[-1]:g}", quote=True)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {width} {BAR_HEIGHT}" preserveAspectRatio="none">'
        f"{bars}</svg><div class=ends aria-hidden=true><small>{edges[0]:.4g}</small>"
        f"<small>{edges[-1]:.4g}</small></div>"
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
                f"RMSE {live['rmse']:.3f} of the newest {live['labels']} labels, {live['test_rmse']:.3f} was promised"
                f"{worse}; {live['inside_interval']:.0%} inside their intervals",
            )
        )
    if "new_labels" in report:
        facts.append(("Labels that no training has used", f"{report['new_labels']:,}"))
    monitor = report.get("monitor")
    if monitor:
        facts.append(("What the monitor does", str(monitor["says"])))
    return facts


def _line(column: Mapping[str, Any]) -> str:
    return (
        f"{column['name']:<12}{'yes' if column['drifted'] else '-':>6}{column['psi']:>8.3f}"
        f"{column['wasserstein']:>10.3f}{column['p_value']:>10.2g}{column['median_now']:>11.5g}"
        f"{column['median_before']:>10.5g}  {column['direction'] if column['drifted'] else '-'}"
    )
