"""What a reader of MLflow's pages finds: the model, each version, the runs and the experiment, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.mlflow_runs import Candidate, Lineage
from tableloop.evaluation.error_breakdown import Answered, Group, by_band, by_quantile, by_region
from tableloop.evaluation.extrapolation import in_words
from tableloop.figures import error_figure
from tableloop.table import Column, Table

FAMILIES = {
    "linear": "ordinary least squares on standardised features: what the simplest model can do",
    "decision_tree": "one decision tree: rules that can be read",
    "random_forest": "the mean of many trees",
    "gradient_boosting": "trees that each correct the ones before (scikit-learn's classic implementation)",
    "hist_gradient_boosting": "boosted trees on histograms, which take categories and missing values as they are",
    "lightgbm": "boosted trees on histograms, fitted by LightGBM, on a cluster by all rows of a table of any size",
    "spatial": "boosted trees upon an estimate from the values of the nearest places (kriging)",
}


def model_tags(table: Table) -> dict[str, str]:
    """Return the tags of the registered model."""
    return {"task": "regression", "target": table.target_name, "unit": table.target.unit_words, "data": table.title}


def comparison(experiment_id: str) -> str:
    """Return the address of the experiment's runs, where MLflow compares the candidates."""
    # Of the two halves of MLflow's pages the one for training; it opens on the other, for language models.
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"


def describe_model(table: Table, model: str, alias: str, experiment_id: str) -> str:
    """Return the description of the registered model."""
    features = "\n".join(
        f"| `{feature.name}`&emsp; | {feature.title}&emsp; | {_kind(feature)} |" for feature in table.features
    )
    return f"""\
{table.description or table.title}, in {table.target.unit_words}, with an interval for each prediction.

**Use.** {table.card.use}

**Versions.** The alias `{alias}` names the one that serves; `make retrain` and the drift monitor make new ones, and \
a gate decides which of them gets the alias. Each version's page says how good it is, where it errs, and how to \
build it again. [The candidates compared]({comparison(experiment_id)}).

**Input.** {len(table.features)} columns, raw: everything else is inside the model.

| column&emsp; | meaning&emsp; | unit or type |
|---|---|---|
{features}

**To load it** anywhere with this server's address: `mlflow.pyfunc.load_model("models:/{model}@{alias}")`."""


def describe_version(
    table: Table,
    candidate: Candidate,
    lineage: Lineage,
    answered: Answered,
    *,
    of_labels: bool,
    number: str,
    links: Sequence[str],
    fitted_rows: int,
) -> str:
    """Return a version's card: data, use, error by region and by band, limits, and how to build it again.

    Parameters
    ----------
    answered : Answered
        The test rows or, ``of_labels``, those held out of the labels, which are of the version's market.
    links : sequence of str
        In Markdown.
    fitted_rows : int
        Of the raw data.
    """
    origin = f"commit `{lineage.git_commit}`" if lineage.git_commit else f"code digest `{lineage.code_digest}`"
    batches = f", {_batches(lineage)} with md5 `{lineage.feedback_md5}`" if lineage.batches else ""
    carried = "; the values before them were carried to their prices" if table.place else ""
    learnt = f" {_batches(lineage)} too{carried}." if batches else ""
    regions, bands = by_region(answered, table), by_band(answered, table)
    cap = f" {table.card.capped}" if table.card.capped and bands[-1].bias < 0 else ""
    unit = table.display.unit or table.target.title
    parts = [
        f"{_family(candidate)}. {_scores(table, candidate, answered, of_labels=of_labels)}",
        " · ".join(links),
        f"### Data\n\n{table.title}: {fitted_rows:,} {table.rows}. The rows that chose the candidate are among them "
        f"in the end, the test rows never. {table.card.data}{learnt}",
        f"### Use\n\n{table.card.use}",
    ]
    if regions:
        parts.append(f"### Error by region\n\n{_table('region', regions)}")
    parts += [
        f"### Error by value\n\n{_table(unit, bands)}\n\nBias is predicted minus actual.{cap}",
        f"### Coverage by quarter of the values\n\n{_table('quarter, lowest first', by_quantile(answered, 4))}",
    ]
    if candidate.limits:
        parts.append(f"### Limits\n\n{in_words(candidate.limits)}")
    parts += [
        "### Gate\n\nLabels newer than everything that this version and the serving one were trained on decide by a "
        "paired bootstrap, where there are enough; else the old test rows do. The tags gate... hold its figures.",
        f"### To build it again\n\n`make reproduce VERSION={number}`, with {origin}, "
        f"data/{table.path} with md5 `{lineage.data_md5}`{batches}. Parameters: inputs/params.yaml of "
        "the run; libraries: the tag of that name.",
    ]
    return "\n\n".join(parts)


def _scores(table: Table, candidate: Candidate, answered: Answered, *, of_labels: bool) -> str:
    """Return how good it is on the rows of the tables, and on others."""
    scores = candidate.metrics
    (whole,) = by_quantile(answered, 1)
    width = float((answered.high - answered.low).mean())
    rows = "labels held out" if of_labels else "test rows"
    text = (
        f"RMSE **{error_figure(whole.rmse)}** on {whole.rows:,} {rows}, in {table.target.unit_words}; its "
        f"{float(candidate.params['coverage']):.0%} intervals hold {whole.coverage:.1%} of them and are "
        f"{error_figure(width)} wide on average. RMSE {error_figure(scores['custom_rmse'])} on the validation rows "
        "that chose it"
    )
    if of_labels:
        of_old = error_figure(scores["test_rmse"])
        return f"{text}; {of_old} on the test rows of the raw data, whose market it has left behind."
    return f"{text}. MAE {error_figure(scores['test_mae'])}, R² {scores['test_r2']:.3f} on the test rows."


def _kind(column: Column) -> str:
    kind = column.unit or {"string": "text", "boolean": "true or false"}.get(column.type, column.type)
    return kind if column.required else f"{kind}, or missing"


def _batches(lineage: Lineage) -> str:
    return f"{lineage.batches} {'batch' if lineage.batches == 1 else 'batches'} of labels"


def describe_run(candidate: Candidate) -> str:
    """Return the note of a candidate's run."""
    scores = candidate.metrics
    return (
        f"{_family(candidate)}. Fitted on the {candidate.params['fitted_on']} rows in "
        f"{candidate.train_seconds:.1f} s; RMSE {error_figure(scores['custom_rmse'])} on the validation rows, "
        f"{error_figure(scores['test_rmse'])} on the test rows. The plots lie under Artifacts; the metrics "
        "hold RMSE and coverage by tenth of the values too, the lowest first."
    )


def describe_experiment(table: Table, model: str, experiment_id: str) -> str:
    """Return the note of the experiment; the page shows its first line only, until one unfolds it."""
    return f"""\
{table.title}, several kinds of models: **[the candidates compared]({comparison(experiment_id)})**.

Every training is a run for each candidate: parameters, scores, plots, the digests of its data, and the model. \
`custom_rmse` (validation rows) chooses the best, which is registered as \
[{model}](#/models/{model}); `test_rmse` is of rows that chose nothing."""


def experiment_tags(table: Table, model: str, experiment_id: str) -> dict[str, str]:
    """Return the tags that describe the experiment to MLflow's pages."""
    return {
        "mlflow.note.content": describe_experiment(table, model, experiment_id),
        "mlflow.experimentKind": "custom_model_development",
    }


def _family(candidate: Candidate) -> str:
    family = candidate.params.get(f"{candidate.name}.family", candidate.name)
    return f"{candidate.name}: {FAMILIES.get(family, 'no description')}"


def _table(title: str, groups: Sequence[Group]) -> str:
    gap = "&emsp;"  # MLflow's pages put no space between the cells of a table
    rows = [(title, "rows", "RMSE", "bias", "inside the interval"), ("---",) * 5]
    rows += [(g.name, f"{g.rows:,}", error_figure(g.rmse), _signed(g.bias), f"{g.coverage:.1%}") for g in groups]
    return "\n".join("| " + " | ".join(cell if cell == "---" else cell + gap for cell in row) + " |" for row in rows)


def _signed(error: float) -> str:
    return f"{'-' if error < 0 else '+'}{error_figure(abs(error))}"
