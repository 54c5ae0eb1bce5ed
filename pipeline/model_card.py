"""What a reader of MLflow's pages finds: the model, each version, the runs and the experiment, in Markdown.

The experiment also gets a saved view (MLflow's *Views* menu) that compares the candidates, and a link that opens it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from pipeline.mlflow_runs import Candidate, Lineage
from tableloop.evaluation.error_breakdown import Answered, Group, by_price, by_quantile, by_region
from tableloop.evaluation.extrapolation import in_words
from tableloop.table import FEATURES, TARGET

FAMILIES = {
    "linear": "ordinary least squares on standardised features: what the simplest model can do",
    "decision_tree": "one decision tree: rules that can be read",
    "random_forest": "the mean of many trees",
    "gradient_boosting": "trees that each correct the ones before (scikit-learn's classic implementation)",
    "hist_gradient_boosting": "boosted trees on histograms, with ratios of the columns as further features",
    "spatial": "boosted trees upon an estimate from the values of the nearest places (kriging)",
}
VIEW = SECTION = "candidates"  # key of the saved view in the experiment's tags and in links
VIEW_COLUMNS = ("custom_rmse", "custom_r2_score", "test_rmse", "test_mae", "test_interval_coverage", "train_seconds")
MODEL_TAGS = {"task": "regression", "target": TARGET.name, "unit": TARGET.unit, "data": "1990 census, California"}


def comparison(experiment_id: str) -> str:
    """Return the address of the saved view on MLflow's own pages."""
    # Of the two halves of MLflow's pages the one for training; it opens on the other, for language models.
    shown = "workflowType=machine_learning&compareRunsMode=CHART"
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&{shown}"


def describe_model(model: str, alias: str, experiment_id: str) -> str:
    """Return the description of the registered model."""
    features = "\n".join(
        f"| `{feature.name}`&emsp; | {feature.title}&emsp; | {feature.unit} |" for feature in FEATURES
    )
    return f"""\
Median house values of California's block groups in the 1990 census, in {TARGET.unit}, with an interval that holds \
nine of ten true values.

**Use.** For teaching, demonstration, and as the beginning of a service of one's own. Not for pricing a house: a row \
is a block group of some 600 to 3,000 people, and the prices are those of 1990, unless labels of a newer market have \
been learnt from.

**Versions.** The alias `{alias}` names the one that serves; `make retrain` and the drift monitor make new ones, and \
a gate decides which of them gets the alias. Each version's page says how good it is, where it errs, and how to \
build it again. [The candidates compared]({comparison(experiment_id)}).

**Input.** Eight numbers, raw: everything else is inside the model.

| column&emsp; | meaning&emsp; | unit |
|---|---|---|
{features}

**To load it** anywhere with this server's address: `mlflow.pyfunc.load_model("models:/{model}@{alias}")`."""


def describe_version(
    candidate: Candidate,
    lineage: Lineage,
    answered: Answered,
    *,
    of_labels: bool,
    number: str,
    links: Sequence[str],
    fitted_rows: int,
) -> str:
    """Return a version's card: data, use, error by region and by price, limits, and how to build it again.

    Parameters
    ----------
    answered : Answered
        The test rows or, ``of_labels``, those held out of the labels, which are of the version's market.
    links : sequence of str
        In Markdown.
    fitted_rows : int
        Of the census.
    """
    origin = f"commit `{lineage.git_commit}`" if lineage.git_commit else f"code digest `{lineage.code_digest}`"
    batches = f", {_batches(lineage)} with md5 `{lineage.feedback_md5}`" if lineage.batches else ""
    learnt = f" {_batches(lineage)} too; the values before them were carried to their prices." if batches else ""
    prices = by_price(answered)
    cap = (
        " Dear places are underestimated: the source does not tell how dear they are." if prices[-1].bias < 0 else ""
    )
    parts = [
        f"{_family(candidate)}. {_scores(candidate, answered, of_labels=of_labels)}",
        " · ".join(links),
        "### Data\n\n"
        f"{fitted_rows:,} block groups of the 1990 census, California only; the rows that chose the candidate are "
        f"among them in the end, the test rows never. The source caps values at 5.00001.{learnt}",
        "### Use\n\nFor block groups of California like those, at the prices of the data. Not for single houses, and "
        "not for prices since, which it knows from labels only.",
        f"### Error by region\n\n{_table('region', by_region(answered))}",
        f"### Error by price\n\n{_table('US dollars', prices)}\n\nBias is predicted minus actual.{cap}",
        f"### Coverage by quarter of the values\n\n{_table('quarter, lowest first', by_quantile(answered, 4))}",
    ]
    if candidate.limits:
        parts.append(f"### Limits\n\n{in_words(candidate.limits)}")
    parts += [
        "### Gate\n\nLabels newer than everything that this version and the serving one were trained on decide by a "
        "paired bootstrap, where there are enough; else the old test rows do. The tags gate... hold its figures.",
        f"### To build it again\n\n`make reproduce VERSION={number}`, with {origin}, "
        f"data/raw/california_housing.csv with md5 `{lineage.data_md5}`{batches}. Parameters: inputs/params.yaml of "
        "the run; libraries: the tag of that name.",
    ]
    return "\n\n".join(parts)


def _scores(candidate: Candidate, answered: Answered, *, of_labels: bool) -> str:
    """Return how good it is on the rows of the tables, and on others."""
    scores = candidate.metrics
    (whole,) = by_quantile(answered, 1)
    width = float((answered.high - answered.low).mean())
    rows = "labels held out" if of_labels else "test rows"
    text = (
        f"RMSE **{whole.rmse:.3f}** on {whole.rows:,} {rows}, in {TARGET.unit}; its "
        f"{float(candidate.params['coverage']):.0%} intervals hold {whole.coverage:.1%} of them and are {width:.2f} "
        f"wide on average. RMSE {scores['custom_rmse']:.3f} on the validation rows that chose it"
    )
    if of_labels:
        return f"{text}; {scores['test_rmse']:.3f} on the test rows of the census, whose prices it has left behind."
    return f"{text}. MAE {scores['test_mae']:.3f}, R² {scores['test_r2']:.3f} on the test rows."


def _batches(lineage: Lineage) -> str:
    return f"{lineage.batches} {'batch' if lineage.batches == 1 else 'batches'} of labels"


def describe_run(candidate: Candidate) -> str:
    """Return the note of a candidate's run."""
    scores = candidate.metrics
    return (
        f"{_family(candidate)}. Fitted on the {candidate.params['fitted_on']} rows in "
        f"{candidate.train_seconds:.1f} s; RMSE {scores['custom_rmse']:.3f} on the validation rows, "
        f"{scores['test_rmse']:.3f} on the test rows. The plots lie under Artifacts; the charts show RMSE and "
        "coverage by tenth of the values, the lowest first."
    )


def describe_experiment(model: str, experiment_id: str) -> str:
    """Return the note of the experiment; the page shows its first line only, until one unfolds it."""
    return f"""\
House prices in California, several kinds of models: **[the candidates compared]({comparison(experiment_id)})** by \
error, coverage, and RMSE by tenth of the values; also in the menu *Views*.

Every training is a run for each candidate: parameters, scores, plots, the digests of its data, and the model. \
`custom_rmse` (validation rows) chooses the best, which is registered as \
[{model}](#/models/{model}); `test_rmse` is of rows that chose nothing."""


def experiment_tags(model: str, experiment_id: str) -> dict[str, str]:
    """Return the tags that describe the experiment to MLflow's pages."""
    return {
        "mlflow.note.content": describe_experiment(model, experiment_id),
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": _saved_view(),
    }


def _saved_view() -> str:
    """Return the comparison as MLflow keeps a view that somebody has saved on the page."""
    charts = [
        _chart("BAR", "RMSE of the test rows", metricKey="test_rmse"),
        _chart("BAR", "Share of test rows inside their 90 % interval", metricKey="test_interval_coverage"),
        _chart("LINE", "RMSE by tenth of the values", **_by_step("rmse_by_value_decile")),
        _chart("LINE", "Coverage by tenth of the values", **_by_step("coverage_by_value_decile")),
        _chart(
            "SCATTER",
            "Seconds of training and RMSE",
            xaxis={"type": "METRIC", "key": "train_seconds"},
            yaxis={"type": "METRIC", "key": "test_rmse"},
        ),
        _chart("BAR", "RMSE of the validation rows, which chooses", metricKey="custom_rmse"),
    ]
    state = {
        "orderByKey": "metrics.`custom_rmse`",
        "orderByAsc": True,
        "selectedColumns": [f"metrics.`{name}`" for name in VIEW_COLUMNS],
        "compareRunCharts": charts,
        "compareRunSections": [{"uuid": SECTION, "name": "Candidates", "display": True, "isReordered": False}],
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    made = 1_700_000_000_000  # fixed: the same view is the same text
    view = {"name": "The candidates compared", "createdAt": made, "updatedAt": made, "state": f"deflate;{packed}"}
    return json.dumps(view)


def _chart(kind: str, title: str, **more: Any) -> dict[str, Any]:
    shared = {"runsCountToCompare": 10, "metricSectionId": SECTION, "deleted": False, "isGenerated": False}
    return {"uuid": title, "type": kind, "displayName": title, **shared, **more}


def _by_step(metric: str) -> dict[str, Any]:
    return {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "yAxisKey": "metric",
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "selectedXAxisMetricKey": "",
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "useGlobalXaxisKey": False,
        "range": {},
    }


def _family(candidate: Candidate) -> str:
    return f"{candidate.name}: {FAMILIES.get(candidate.name, 'no description')}"


def _table(title: str, groups: Sequence[Group]) -> str:
    gap = "&emsp;"  # MLflow's pages put no space between the cells of a table
    rows = [(title, "rows", "RMSE", "bias", "inside the interval"), ("---",) * 5]
    rows += [(g.name, f"{g.rows:,}", f"{g.rmse:.3f}", f"{g.bias:+.3f}", f"{g.coverage:.1%}") for g in groups]
    return "\n".join("| " + " | ".join(cell if cell == "---" else cell + gap for cell in row) + " |" for row in rows)
