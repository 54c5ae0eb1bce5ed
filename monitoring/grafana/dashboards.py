"""The dashboards: ``python -m monitoring.grafana.dashboards`` writes them as JSON into ``dashboards/``.

Grafana reads only the JSON; a test holds it equal to this file. Every dashboard shows promotions and retrainings as
annotations, and what a fresh appliance has not measured yet stands beside what it will be compared with.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shape
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from tableloop.table import load_table

DIRECTORY = Path(__file__).with_suffix("")
SOURCE = shape.DataSourceRef(type_val="prometheus", uid="prometheus")
TABLE = load_table(Path(__file__).parents[2] / "data")
BUCKETS = f"{TABLE.metric}_bucket"
TAG = "tableloop"
QUESTIONS = 'job="api",handler=~"/predict.*|/feedback.*"'
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "#8e8e8e"

Query = prometheus.Dataquery
AnyPanel = stat.Panel | timeseries.Panel | heatmap.Panel | statetimeline.Panel | bargauge.Panel


def dashboards() -> dict[str, model.Dashboard]:
    """Return every dashboard by its uid, which is the name of its file as well."""
    return {
        "overview": _dashboard("overview", "Tableloop", "What runs, what it answers, and how well", _overview()),
        "service": _dashboard("service", "Service", "Rate, errors and duration of the requests", _service()),
        "model": _dashboard("model", "Model", "Versions, their live error, and what they predict", _model()),
        "drift": _dashboard("drift", "Drift", "How far the questions are from the training rows", _drift()),
        "appliance": _dashboard("appliance", "Appliance", "Programs, memory, CPU and disk", _appliance()),
    }


def as_json(dashboard: model.Dashboard) -> str:
    """Return the text of a dashboard's file."""
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard) + "\n"


# -- the dashboards -------------------------------------------------------------------------------------------------


def _overview() -> list[AnyPanel]:
    return [
        _services().span(10).height(4),
        _version().span(5).height(4),
        _stat(
            "Predictions",
            "Answered since the service started",
            [_query("sum(predictions_total) or vector(0)", "predictions")],
        )
        .decimals(0)
        .span(3)
        .height(4),
        _alerts().span(3).height(4),
        _live_error_now().span(3).height(4),
        _predictions_per_second().span(12).height(8),
        _latency().span(12).height(8),
        _predicted_values().span(12).height(8),
        _live_error().span(12).height(8),
        _drift_per_feature().span(12).height(8),
        _status().span(12).height(8),
    ]


def _service() -> list[AnyPanel]:
    quantile = 'handler:http_request_seconds:quantile5m{handler="/predict",quantile="%s"}'
    return [
        _stat(
            "Questions per second",
            "Requests for predictions and labels, over five minutes",
            [_query("api:questions:rate5m", "questions")],
        )
        .unit("reqps")
        .decimals(2)
        .span(6)
        .height(4),
        _stat(
            "Failed questions now",
            "Share answered with a 5xx, over five minutes; one in a thousand is allowed",
            [_query("api:question_errors:ratio5m", "failed")],
        )
        .unit("percentunit")
        .decimals(2)
        .no_value("no questions")
        .color_mode(shape.BigValueColorMode.BACKGROUND)
        .thresholds(_steps(GREEN, (0.001, ORANGE), (0.0144, RED)))
        .span(6)
        .height(4),
        _stat(
            "Prediction, median",
            "Half of the single predictions of the last five minutes took less",
            [_query(quantile % 0.5, "median")],
        )
        .unit("s")
        .no_value("no predictions")
        .span(6)
        .height(4),
        _stat(
            "Prediction, 95 %",
            "Of twenty single predictions of the last five minutes one took longer",
            [_query(quantile % 0.95, "95 %")],
        )
        .unit("s")
        .no_value("no predictions")
        .color_mode(shape.BigValueColorMode.BACKGROUND)
        .thresholds(_steps(GREEN, (0.05, ORANGE), (0.1, RED)))
        .span(6)
        .height(4),
        _series(
            "Requests per second by route",
            "The watchdog asks /ready, Prometheus asks /metrics; `none` is what there is no route for",
            [_query('sum by (handler) (rate(http_requests_total{job="api"}[$__rate_interval]))', "{{handler}}")],
        )
        .unit("reqps")
        .min(0)
        .span(12)
        .height(8),
        _status().span(12).height(8),
        _series(
            "Failed questions",
            "Share answered with a 5xx, over the windows that the alerts watch; the line is the objective",
            [
                _query(f"api:question_errors:ratio{window}", f"over {window}", letter)
                for window, letter in zip(("5m", "30m", "1h", "6h"), string.ascii_uppercase, strict=False)
            ],
        )
        .unit("percentunit")
        .min(0)
        .axis_soft_max(0.002)
        .thresholds(_steps(GREEN, (0.001, RED)))
        .thresholds_style(_line())
        .span(12)
        .height(8),
        _latency().span(12).height(8),
        _heat(
            "Duration of the requests",
            "Predictions and everything else, how many took how long",
            "http_request_duration_highr_seconds_bucket",
        )
        .y_axis(_axis("s"))
        .span(12)
        .height(8),
        _series(
            "Bytes per second",
            "Bodies of requests and of answers",
            [
                _query("sum(rate(http_request_size_bytes_sum[$__rate_interval]))", "received"),
                _query("sum(rate(http_response_size_bytes_sum[$__rate_interval]))", "sent", "B"),
            ],
        )
        .unit("Bps")
        .min(0)
        .span(12)
        .height(8),
    ]


def _model() -> list[AnyPanel]:
    return [
        _version().span(6).height(4),
        _stat(
            "Error promised",
            f"RMSE of the serving version on the test rows at registration, in {TABLE.target.unit}",
            [_query("model_test_rmse", "version {{model_version}}")],
        )
        .decimals(3)
        .no_value("the model names none")
        .span(4)
        .height(4),
        _live_error_now().span(4).height(4),
        _stat(
            "Labels",
            "True values received through /feedback since the service started",
            [_query("sum(feedback_total) or vector(0)", "labels")],
        )
        .decimals(0)
        .span(4)
        .height(4),
        _stat(
            "Retrainings",
            "All that have ended, the first training too, by outcome",
            [_query("sum by (outcome) (retrains_total)", "{{outcome}}")],
        )
        .decimals(0)
        .text_mode(shape.BigValueTextMode.VALUE_AND_NAME)
        .span(6)
        .height(4),
        statetimeline.Panel()
        .title("Version that serves")
        .description("Which version answered, and when")
        .datasource(SOURCE)
        .targets([_query("max by (version, family) (model_info)", "version {{version}} ({{family}})")])
        .mappings([_mapping({"1": ("serves", BLUE)})])
        .row_height(0.8)
        .show_value(shape.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(False))
        .span(12)
        .height(6),
        _predictions_per_second().span(12).height(6),
        _live_error().span(12).height(8),
        _series(
            "Interval coverage",
            "Share of the newest labels that lie inside the interval of their prediction, and the share promised",
            [
                _query("live_interval_coverage", "live, version {{model_version}}"),
                _query("model_interval_coverage", "promised, version {{model_version}}", "B"),
            ],
        )
        .unit("percentunit")
        .axis_soft_min(0.8)
        .max(1)
        .override_by_query("B", _reference_line())
        .span(12)
        .height(8),
        _predicted_values().span(12).height(8),
        _series(
            "Quantiles of the predictions",
            f"Of the last quarter of an hour, in {TABLE.target.unit}, interpolated in the buckets of the histogram",
            [
                _query(f"histogram_quantile({quantile}, sum by (le) (rate({BUCKETS}[15m])))", title, letter)
                for quantile, title, letter in ((0.1, "10 %", "A"), (0.5, "median", "B"), (0.9, "90 %", "C"))
            ],
        )
        .decimals(2)
        .min(0)
        .span(12)
        .height(8),
    ]


def _drift() -> list[AnyPanel]:
    return [
        _stat("Verdict", "Of the drift monitor, on its last look", [_query("drift_detected", "drift")])
        .mappings([_mapping({"0": ("no drift", GREEN), "1": ("drift", RED)})])
        .color_mode(shape.BigValueColorMode.BACKGROUND)
        .no_value("not looked yet")
        .thresholds(_steps(GREEN, (1, RED)))
        .span(4)
        .height(4),
        _stat(
            "Predictions looked at",
            "The newest ones; with fewer than least_rows of params.yaml nothing is said",
            [_query("drift_window_rows", "predictions")],
        )
        .decimals(0)
        .no_value("not looked yet")
        .span(4)
        .height(4),
        _stat(
            "Windows in a row",
            "That wanted a retraining, for drift or for the live error; how many are needed is shown below",
            [_query("drift_windows_in_a_row", "windows")],
        )
        .decimals(0)
        .no_value("not looked yet")
        .thresholds(_steps(GREEN, (1, ORANGE)))
        .color_mode(shape.BigValueColorMode.VALUE)
        .span(4)
        .height(4),
        _stat(
            "Labels to learn from",
            "True values that no training has used yet; a retraining needs new_labels of params.yaml",
            [_query("labels_unused", "labels")],
        )
        .decimals(0)
        .no_value("not looked yet")
        .span(4)
        .height(4),
        _stat("Retraining", "Whether one of the drift monitor runs", [_query("retraining_running", "retraining")])
        .mappings([_mapping({"0": ("none runs", GREEN), "1": ("runs", BLUE)})])
        .color_mode(shape.BigValueColorMode.BACKGROUND)
        .no_value("not looked yet")
        .thresholds(_steps(GREEN, (1, BLUE)))
        .span(4)
        .height(4),
        _stat(
            "Last look",
            "Of the drift monitor; every DRIFT_INTERVAL_SECONDS it takes one",
            [_query("time() - max(drift_checked_timestamp_seconds)", "ago")],
        )
        .unit("s")
        .decimals(0)
        .no_value("not looked yet")
        .span(4)
        .height(4),
        _drift_per_feature().span(12).height(9),
        _series(
            "Distance by feature",
            "Wasserstein distance from the training rows in standard deviations; above the dashed line it counts",
            [_query("feature_drift_distance", "{{feature}}"), _limit("wasserstein")],
        )
        .min(0)
        .decimals(2)
        .override_by_query("B", _reference_line())
        .span(12)
        .height(9),
        _series(
            "Significance by feature",
            "Probability of such a difference without drift: Kolmogorov-Smirnov test, Holm's correction. Below the "
            "dashed line it is significant; it counts as drift only when the change is large as well",
            [_query("clamp_min(feature_drift_ks_pvalue, 1e-12)", "{{feature}}"), _limit("alpha")],
        )
        .max(1)
        .scale_distribution(common.ScaleDistributionConfig().type(shape.ScaleDistribution.LOG).log(10))
        .override_by_query("B", _reference_line())
        .span(12)
        .height(9),
        _series(
            "All features together",
            "How well a classifier tells the newest rows from the training rows (AUC): 0.5 is not at all. It sees "
            "changes that leave every single feature as it was",
            [_query("drift_auc", "AUC"), _limit("auc")],
        )
        .axis_soft_min(0.45)
        .axis_soft_max(0.65)
        .decimals(2)
        .override_by_query("B", _reference_line())
        .span(12)
        .height(9),
        statetimeline.Panel()
        .title("Drifted features")
        .description("Where the change is significant and large, and since when")
        .datasource(SOURCE)
        .targets(
            [
                _query(
                    'feature_drifted or on () label_replace(vector(0), "feature", "too few predictions", "", "")',
                    "{{feature}}",
                )
            ]
        )
        .mappings([_mapping({"0": ("no", GREEN), "1": ("drifted", RED)})])
        .row_height(0.8)
        .show_value(shape.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(False))
        .span(12)
        .height(9),
        _series(
            "What a retraining waits for",
            "Windows in a row that wanted one, and the number that is needed",
            [_query("drift_windows_in_a_row", "windows in a row"), _limit("sustained", "needed")],
        )
        .min(0)
        .decimals(0)
        .override_by_query("B", _reference_line())
        .span(12)
        .height(9),
    ]


def _appliance() -> list[AnyPanel]:
    return [
        _services().span(12).height(4),
        _stat(
            "Disk that is free",
            "Where STATE_DIR lies; below 1 GB the appliance does not start again",
            [_query("state_disk_free_bytes", "free")],
        )
        .unit("decbytes")
        .color_mode(shape.BigValueColorMode.BACKGROUND)
        .thresholds(_steps(RED, (1e9, ORANGE), (5e9, GREEN)))
        .span(4)
        .height(4),
        _stat(
            "Memory",
            "Resident memory of all programs; what they share counts for each",
            [_query("sum(service_memory_bytes)", "all")],
        )
        .unit("bytes")
        .span(4)
        .height(4),
        _stat("CPU", "Cores in use by all programs, over a minute", [_query(_cpu("1m", "sum(%s)"), "all")])
        .unit("none")
        .decimals(2)
        .span(4)
        .height(4),
        statetimeline.Panel()
        .title("Services over time")
        .description("What the watchdog found when it asked")
        .datasource(SOURCE)
        .targets([_query("service_up", "{{service}}")])
        .mappings([_mapping({"0": ("down", RED), "1": ("up", GREEN)})])
        .row_height(0.8)
        .show_value(shape.VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().show_legend(False))
        .span(12)
        .height(8),
        bargauge.Panel()
        .title("Running since")
        .description("Age of each program; a short one beside long ones was started again")
        .datasource(SOURCE)
        .targets([_query("service_uptime_seconds", "{{service}}").instant()])
        .reduce_options(_last())
        .unit("s")
        .min(0)
        .orientation(shape.VizOrientation.HORIZONTAL)
        .display_mode(shape.BarGaugeDisplayMode.BASIC)
        .thresholds(_steps(BLUE))
        .span(12)
        .height(8),
        _series(
            "Memory by program",
            "Resident memory of its processes",
            [_query("service_memory_bytes", "{{service}}")],
        )
        .unit("bytes")
        .min(0)
        .stacking(common.StackingConfig().mode(shape.StackingMode.NORMAL))
        .fill_opacity(30)
        .span(12)
        .height(8),
        _series("CPU by program", "Cores in use", [_query(_cpu("$__rate_interval", "%s"), "{{service}}")])
        .unit("none")
        .min(0)
        .span(12)
        .height(8),
        _series(
            "Disk of STATE_DIR",
            "Free space and size of the file system; the line is where a start is refused",
            [
                _query("state_disk_free_bytes", "free"),
                _query("state_disk_total_bytes", "size", "B"),
            ],
        )
        .unit("decbytes")
        .min(0)
        .thresholds(_steps(RED, (1e9, GREEN)))
        .thresholds_style(_line())
        .override_by_query("B", _reference_line())
        .span(12)
        .height(8),
        _series(
            "Prometheus on disk",
            "Its blocks of finished hours, and the size at which the oldest goes; 30 days are kept at most",
            [
                _query("prometheus_tsdb_storage_blocks_bytes", "blocks"),
                _query("prometheus_tsdb_retention_limit_bytes", "limit", "B"),
            ],
        )
        .unit("decbytes")
        .min(0)
        .override_by_query("B", _reference_line())
        .span(12)
        .height(8),
        _series("Open files", "Of the service and of Prometheus", [_query("process_open_fds", "{{job}}")])
        .unit("none")
        .min(0)
        .span(12)
        .height(8),
        _series(
            "Scrapes",
            "How long it takes to read the metrics; at two seconds a scrape is given up",
            [_query("scrape_duration_seconds", "{{job}}")],
        )
        .unit("s")
        .min(0)
        .span(12)
        .height(8),
    ]


# -- panels of more than one dashboard ------------------------------------------------------------------------------


def _services() -> stat.Panel:
    return (
        _stat("Services", "Whether each answered the watchdog's last question", [_query("service_up", "{{service}}")])
        .mappings([_mapping({"0": ("down", RED), "1": ("up", GREEN)})])
        .color_mode(shape.BigValueColorMode.BACKGROUND)
        .text_mode(shape.BigValueTextMode.VALUE_AND_NAME)
        .thresholds(_steps(RED, (1, GREEN)))
    )


def _version() -> stat.Panel:
    return (
        _stat(
            "Model that serves",
            "The version behind the predictions, and its kind",
            [_query("model_info", "version {{version}}, {{family}}").instant()],
        )
        .text_mode(shape.BigValueTextMode.NAME)
        .no_value("none yet")
    )


def _alerts() -> stat.Panel:
    return (
        _stat(
            "Alerts",
            "Alerts that fire; Prometheus says under /alerts which, why, and what to do",
            [_query('count(ALERTS{alertstate="firing"}) or vector(0)', "firing")],
        )
        .decimals(0)
        .mappings([_mapping({"0": ("none", GREEN)})])
        .color_mode(shape.BigValueColorMode.BACKGROUND)
        .thresholds(_steps(GREEN, (1, RED)))
    )


def _live_error_now() -> stat.Panel:
    return (
        _stat(
            "Live error now",
            f"RMSE of the serving version on its newest labelled predictions, in {TABLE.target.unit}",
            [_query("live_rmse and on (model_version) model_interval_coverage", "version {{model_version}}")],
        )
        .decimals(3)
        .no_value("no labels yet")
    )


def _predictions_per_second() -> timeseries.Panel:
    return (
        _series(
            "Predictions per second",
            "By model version, so that a promotion shows",
            [
                _query(
                    "sum by (model_version) (rate(predictions_total[$__rate_interval]))", "version {{model_version}}"
                )
            ],
        )
        .unit("reqps")
        .min(0)
        .stacking(common.StackingConfig().mode(shape.StackingMode.NORMAL))
        .fill_opacity(30)
    )


def _latency() -> timeseries.Panel:
    bucket = (
        'sum by (le) (rate(http_request_duration_seconds_bucket{job="api",handler="/predict"}[$__rate_interval]))'
    )
    return (
        _series(
            "Duration of a prediction",
            "Single predictions, measured in the service; one in twenty and one in a hundred take longer than the "
            "upper lines",
            [
                _query(f"histogram_quantile({quantile}, {bucket})", title, letter)
                for quantile, title, letter in ((0.5, "median", "A"), (0.95, "95 %", "B"), (0.99, "99 %", "C"))
            ],
        )
        .unit("s")
        .min(0)
    )


def _status() -> timeseries.Panel:
    return (
        _series(
            "Questions by status",
            "4xx is input that was refused, with the reason; there should be no 5xx",
            [_query(f"sum by (status) (rate(http_requests_total{{{QUESTIONS}}}[$__rate_interval]))", "{{status}}")],
        )
        .unit("reqps")
        .min(0)
        .override_by_regexp("/^2/", _color(GREEN))
        .override_by_regexp("/^4/", _color(ORANGE))
        .override_by_regexp("/^5/", _color(RED))
    )


def _predicted_values() -> heatmap.Panel:
    return _heat(
        "Predicted values",
        f"How many predictions fell where, in {TABLE.target.unit}",
        BUCKETS,
    ).y_axis(_axis("none"))


def _live_error() -> timeseries.Panel:
    return (
        _series(
            "Live error",
            f"Of the newest labelled predictions of each version, in {TABLE.target.unit}; dashed: what was promised",
            [
                _query("live_rmse", "RMSE, version {{model_version}}"),
                _query("live_mae", "mean absolute error, version {{model_version}}", "B"),
                _query("model_test_rmse", "RMSE promised, version {{model_version}}", "C"),
            ],
        )
        .decimals(3)
        .min(0)
        .override_by_query("C", _reference_line())
    )


def _drift_per_feature() -> timeseries.Panel:
    return (
        _series(
            "Drift by feature",
            "Population stability index of the newest predictions against the training rows; above the dashed line "
            "it counts. With too few predictions nothing is said",
            [_query("feature_drift_psi", "{{feature}}"), _limit("psi")],
        )
        .min(0)
        .decimals(2)
        .override_by_query("B", _reference_line())
    )


# -- how they are built ---------------------------------------------------------------------------------------------


def _dashboard(uid: str, title: str, description: str, panels: Sequence[AnyPanel]) -> model.Dashboard:
    result = (
        builder.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .timezone("browser")
        .time("now-15m", "now")
        .refresh("5s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .links([_links()])
        .variables([])
        .annotations(
            [
                _annotation(
                    "Promotions",
                    "model_info unless on (version) model_info offset $__interval",
                    "Version {{version}} ({{family}}) serves",
                    BLUE,
                ),
                _annotation(
                    "Retrainings",
                    "(retrains_total - retrains_total offset $__interval) > 0",
                    "Retraining: {{outcome}}",
                    ORANGE,
                ),
            ]
        )
    )
    for number, panel in enumerate(panels, start=1):
        result = result.with_panel(panel.id(number))
    built = result.build()
    for link in built.links or []:
        link.placement = ""  # the builder's default hides them in a menu
    return built


def _links() -> builder.DashboardLink:
    return (
        builder.DashboardLink("Dashboards")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(False)
        .keep_time(True)
        .target_blank(False)
    )


def _annotation(name: str, expr: str, title: str, color: str) -> builder.AnnotationQuery:
    return (
        builder.AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(color)
        .target(_query(expr, "", "Anno"))
        .title_format(title)
    )


def _query(expr: str, legend: str, letter: str = "A") -> Query:
    return Query().datasource(SOURCE).expr(expr).legend_format(legend).ref_id(letter).range()


def _limit(measure: str, legend: str = "limit") -> Query:
    """Return the drift monitor's limit, which comes from params.yaml."""
    return _query(f'max(drift_threshold{{measure="{measure}"}})', legend, "B")


def _stat(title: str, description: str, queries: Sequence[Query]) -> stat.Panel:
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .targets(list(queries))
        .unit("none")
        .reduce_options(_last())
        .color_mode(shape.BigValueColorMode.NONE)
        .graph_mode(shape.BigValueGraphMode.NONE)
        .text_mode(shape.BigValueTextMode.VALUE)
    )


def _series(title: str, description: str, queries: Sequence[Query]) -> timeseries.Panel:
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .targets(list(queries))
        .unit("none")
        .line_width(2)
        .fill_opacity(5)
        .show_points(shape.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(shape.LegendDisplayMode.LIST)
            .placement(shape.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(shape.TooltipDisplayMode.MULTI).sort(shape.SortOrder.DESCENDING))
    )


def _heat(title: str, description: str, buckets: str) -> heatmap.Panel:
    query = _query(f"sum by (le) (increase({buckets}[$__rate_interval]))", "{{le}}")
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .targets([query.format(PromQueryFormat.HEATMAP)])
        .calculate(False)
        .unit("none")
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").exponent(0.5).steps(64))
        .show_legend()
    )


def _axis(unit: str) -> heatmap.YAxisConfig:
    return heatmap.YAxisConfig().unit(unit)


def _cpu(window: str, form: str) -> str:
    return form % f"rate(service_cpu_seconds_total[{window}])"


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _steps(base: str, *steps: tuple[float, str]) -> builder.ThresholdsConfig:
    """Return the colour below the first step, and from each step on."""
    thresholds = [model.Threshold(value=None, color=base)]
    thresholds += [model.Threshold(value=value, color=color) for value, color in steps]
    return builder.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds)


def _line() -> common.GraphThresholdsStyleConfig:
    return common.GraphThresholdsStyleConfig().mode(shape.GraphThresholdsStyleMode.DASHED)


def _mapping(texts: dict[str, tuple[str, str]]) -> model.ValueMap:
    return model.ValueMap(
        options={
            value: model.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(texts.items())
        }
    )


def _color(color: str) -> list[model.DynamicConfigValue]:
    return [model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})]


def _reference_line() -> list[model.DynamicConfigValue]:
    """Return what makes a series a thin dashed line to compare others with."""
    return [
        *_color(GREY),
        model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
        model.DynamicConfigValue("custom.lineWidth", 1),
        model.DynamicConfigValue("custom.fillOpacity", 0),
        model.DynamicConfigValue("custom.stacking", {"mode": "none"}),
    ]


def main() -> None:
    """Write the file of every dashboard."""
    DIRECTORY.mkdir(exist_ok=True)
    for uid, dashboard in dashboards().items():
        (DIRECTORY / f"{uid}.json").write_text(as_json(dashboard))


if __name__ == "__main__":
    main()
