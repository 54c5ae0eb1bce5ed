"""A drift report for people: as text, and as a page with small histograms. Only the standard library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Report = Mapping[str, Any]

BAR_HEIGHT, BAR_WIDTH = 44, 8  # pixels
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.4rem } .drift { color: #b00020 } .calm { color: #1b6e2c }
table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .35rem .6rem; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tbody tr { border-top: 1px solid #ddd }
svg .before { fill: #9aa5b1 } svg .now { fill: #d9480f; fill-opacity: .55 } small { color: #555 }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #e6e6e6 } small { color: #aaa } tbody tr { border-color: #333 }
  .drift { color: #ff8a80 } .calm { color: #7bd88f }
}
"""


def as_text(report: Report) -> str:
    """Return the report as lines of text."""
    lines = [f"{report['status']}: {report['summary']}", *_facts(report)]
    if report.get("columns"):
        lines.append("")
        lines.append(
            f"{'':<12}{'drift':>6}{'PSI':>8}{'distance':>10}{'p (Holm)':>10}{'median':>11}{'before':>10}  direction"
        )
        lines += [_line(column) for column in report["columns"]]
    return "\n".join(lines) + "\n"


def as_html(report: Report) -> str:
    """Return the report as a page that loads nothing else."""
    state = "drift" if report["status"] == "drift" else "calm"
    facts = "".join(f"<p>{escape(fact)}</p>" for fact in _facts(report))
    table = ""
    if report.get("columns"):
        rows = "".join(_row(column) for column in report["columns"])
        table = (
            "<table><thead><tr><th>Column</th><th>Drift</th><th>PSI</th><th>Distance</th><th>p (Holm)</th>"
            "<th>Median now</th><th>before</th><th>Direction</th><th>Values</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
            "<p><small>Grey: what the model was made from. Colour: the newest predictions. PSI: population stability "
            "index over tenths. Distance: Wasserstein distance in standard deviations. p: two-sample "
            "Kolmogorov-Smirnov test, corrected for the number of columns. A column has drifted when p is small and "
            "PSI or distance is large.</small></p>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Drift report</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body>"
        f'<h1>Drift report: <span class="{state}">{escape(report["status"])}</span></h1>'
        f"<p><strong>{escape(report['summary'])}</strong></p>{facts}{table}</body></html>\n"
    )


def _facts(report: Report) -> list[str]:
    """Return what else there is to say, a line each."""
    lines = []
    window = report.get("window")
    if window and window["rows"]:
        lines.append(
            f"{window['rows']} newest predictions, {window['first_at']} to {window['last_at']}, against what "
            f"version {report['version']} was made from; checked at {report['checked_at']}"
        )
    joint = report.get("joint")
    if joint:
        lines.append(
            f"rows as a whole: {'drift' if joint['drifted'] else 'no drift'}, a classifier tells them from the "
            f"training rows with AUC {joint['auc']:.3f} (p {joint['p_value']:.2g}; 0.5 is guessing)"
        )
    live = report.get("live")
    if live and live["labels"]:
        lines.append(
            f"live RMSE {live['rmse']:.3f} of the newest {live['labels']} labels, test RMSE {live['test_rmse']:.3f}; "
            f"{live['inside_interval']:.0%} inside their intervals"
        )
    if report.get("new_labels"):
        lines.append(f"{report['new_labels']} labels that no training has used")
    monitor = report.get("monitor")
    if monitor:
        lines.append(f"monitor: {monitor['says']}")
    return lines


def _line(column: Mapping[str, Any]) -> str:
    return (
        f"{column['name']:<12}{'yes' if column['drifted'] else '-':>6}{column['psi']:>8.3f}"
        f"{column['wasserstein']:>10.3f}{column['p_value']:>10.2g}{column['median_now']:>11.5g}"
        f"{column['median_before']:>10.5g}  {column['direction'] if column['drifted'] else '-'}"
    )


def _row(column: Mapping[str, Any]) -> str:
    drifted = bool(column["drifted"])
    mark = '<b class="drift">yes</b>' if drifted else "no"
    cells: Sequence[str] = (
        f"{escape(column['title'])}<br><small>{escape(column['unit'])}</small>",
        mark,
        f"{column['psi']:.3f}",
        f"{column['wasserstein']:.3f}",
        f"{column['p_value']:.2g}",
        f"{column['median_now']:.5g}",
        f"{column['median_before']:.5g}",
        escape(column["direction"]) if drifted else "-",
        _histogram(column),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _histogram(column: Mapping[str, Any]) -> str:
    """Return both distributions as bars over each other in one picture."""
    shares = column["histogram"]
    highest = max(*shares["before"], *shares["now"])
    bars = "".join(
        f'<rect class="{kind}" x="{i * BAR_WIDTH}" y="{BAR_HEIGHT * (1 - share / highest):.1f}" '
        f'width="{BAR_WIDTH - 1}" height="{BAR_HEIGHT * share / highest:.1f}"/>'
        for kind in ("before", "now")
        for i, share in enumerate(shares[kind])
    )
    width = BAR_WIDTH * len(shares["now"])
    edges = shares["edges"]
    label = escape(f"{column['name']}: distribution before and now, {edges[0]:g} to {edges[-1]:g}", quote=True)
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{BAR_HEIGHT}">'
        f"<title>{label}</title>{bars}</svg>"
    )
