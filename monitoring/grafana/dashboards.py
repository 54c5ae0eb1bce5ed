"""The dashboards: ``python -m monitoring.grafana.dashboards`` writes them as JSON into ``dashboards/``.

A test checks that the JSON is what this file makes. It is for every table: `monitoring.grafana.for_table` fills in
the words in capital letters. Every dashboard shows promotions and retrainings as annotations. A panel's queries are
keyed by their legend, its options by the name of the builder's method that takes them.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, heatmap, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shape
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from monitoring.grafana.for_table import DIRECTORY

SOURCE = shape.DataSourceRef(type_val="prometheus", uid="prometheus")
BUCKETS = "TARGET_METRIC_bucket"
TAG = "tableloop"
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "#8e8e8e"
UP_OR_DOWN = {"0": ("down", RED), "1": ("up", GREEN)}
NOT_LOOKED, NOT_JUDGED = "not looked yet", "not judged"
NOT_ASKED, NO_PREDICTIONS = "not asked", "no predictions yet"
NO_SHADOW = "no version is in the shadow"
ANNOTATIONS = {
    "Promotions": (
        "max by (version, family) (model_info) unless on (version) model_info offset $__interval",
        "Version {{version}} ({{family}}) serves",
        BLUE,
    ),
    "Retrainings": (
        # Not the difference to an interval ago: before the first training there was no series so long ago.
        "max by (outcome) (increase(retrains_total[$__rate_interval])) > 0",
        "Retraining: {{outcome}}",
        ORANGE,
    ),
}

AnyPanel = stat.Panel | timeseries.Panel | heatmap.Panel | statetimeline.Panel | bargauge.Panel
Kind = TypeVar("Kind", bound=AnyPanel)
Options = dict[str, Any]
Placed = tuple[list[AnyPanel], list[tuple[int, int]]]  # and the width, of 24 columns, and height of each


def dashboards() -> dict[str, model.Dashboard]:
    """Return every dashboard by its uid, which is the name of its file as well."""
    described = {
        "overview": ("Overview", "What runs, what it answers, and how well", *_overview()),
        "service": ("Service", "Rate, errors and duration of the requests", *_service()),
        "model": ("Model", "Versions, their live error, and what they predict", *_model()),
        "drift": ("Drift", "How far the questions are from the training rows", *_drift()),
        "appliance": ("Appliance", "Programs, memory, CPU and disk", *_appliance()),
    }
    return {uid: _dashboard(uid, *parts) for uid, parts in described.items()}


def as_json(dashboard: model.Dashboard) -> str:
    """Return the text of a dashboard's file."""
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard) + "\n"


# -- the dashboards -------------------------------------------------------------------------------------------------


def _overview() -> Placed:
    predictions = _stat(
        "Predictions",
        "Answered since the service started",
        {"predictions": "sum(predictions_total) or vector(0)"},
        {"decimals": 0},
    )
    alerts = _stat(
        "Alerts that fire",
        "Red is critical; Prometheus says under /alerts why each fires, and what to do",
        {"{{alertname}} {{service}}": _firing(), "none": 'absent(ALERTS{alertstate="firing",severity!="info"}) - 1'},
        {"text_mode": shape.BigValueTextMode.NAME, "orientation": shape.VizOrientation.HORIZONTAL}
        | _coloured((0, GREEN), (1, ORANGE), (2, RED)),
    )
    alerts_over_time = _states(
        "Alerts over time",
        "Which fired, and when, in the last 24 hours",
        {"{{alertname}} {{service}}": _firing("max_over_time(%s[$__rate_interval])")},
        {"1": ("warning", ORANGE), "2": ("critical", RED)},
        {"time_from": "24h", "no_value": "none fired"},
    )
    panels: list[AnyPanel] = [
        _services(),
        _version(),
        predictions,
        _live_error_now(),
        alerts,
        alerts_over_time,
        _predictions_per_second(),
        _latency(),
        _predicted_values(),
        _live_error(),
        _drift_per_feature(),
        _status(),
    ]
    return panels, [(11, 4), (5, 4), (4, 4), (4, 4), (8, 5), (16, 5), *[(12, 8)] * 6]


def _service() -> Placed:
    quantile = 'handler:http_request_seconds:quantile5m{handler="/predict",quantile="%s"}'
    panels: list[AnyPanel] = [
        _stat(
            "Questions per second",
            "Requests for predictions and labels, over five minutes",
            {"questions": "api:questions:rate5m"},
            {"unit": "reqps", "decimals": 2, "no_value": "no questions"},
        ),
        _stat(
            "Failed questions now",
            "Share answered with a 5xx, over five minutes; one in a thousand is allowed",
            {"failed": "api:question_errors:ratio5m"},
            {"unit": "percentunit", "decimals": 2, "no_value": "no questions"}
            | _coloured((0, GREEN), (0.001, ORANGE), (0.0144, RED)),
        ),
        _stat(
            "Prediction, median",
            "Half of the single predictions of the last five minutes took less",
            {"median": quantile % 0.5},
            {"unit": "s", "no_value": "no predictions"},
        ),
        _stat(
            "Prediction, 95 %",
            "Of twenty single predictions of the last five minutes one took longer",
            {"95 %": quantile % 0.95},
            {"unit": "s", "no_value": "no predictions"} | _coloured((0, GREEN), (0.05, ORANGE), (0.1, RED)),
        ),
        _series(
            "Requests per second by route",
            "The watchdog asks /ready, Prometheus asks /metrics; `none` is what there is no route for",
            {"{{handler}}": 'sum by (handler) (rate(http_requests_total{job="api"}[$__rate_interval]))'},
            {"unit": "reqps", "min": 0},
        ),
        _status(),
        _series(
            "Failed questions",
            "Share answered with a 5xx, over the windows that the alerts watch; the line is the objective",
            {f"over {window}": f"api:question_errors:ratio{window}" for window in ("5m", "30m", "1h", "6h")},
            {"unit": "percentunit", "min": 0, "axis_soft_max": 0.002, "no_value": "no questions yet"}
            | _line_at(GREEN, (0.001, RED)),
        ),
        _latency(),
        _heat(
            "Duration of the requests",
            "Predictions and everything else, how many took how long",
            "http_request_duration_highr_seconds_bucket",
            "s",
        ),
        _series(
            "Bytes per second",
            "Bodies of requests and of answers",
            {
                "received": "sum(rate(http_request_size_bytes_sum[$__rate_interval]))",
                "sent": "sum(rate(http_response_size_bytes_sum[$__rate_interval]))",
            },
            {"unit": "Bps", "min": 0},
        ),
    ]
    return panels, [*[(6, 4)] * 4, *[(12, 8)] * 6]


def _model() -> Placed:
    panels: list[AnyPanel] = [
        _version(),
        _stat(
            "Error promised",
            "RMSE of the serving version on the test rows at registration, in TARGET_UNIT",
            {"version {{model_version}}": _by_version("model_test_rmse")},
            {
                "decimals": "ERROR_PLACES",
                "no_value": "the model names none",
                "text_mode": shape.BigValueTextMode.VALUE_AND_NAME,
            },
        ),
        _live_error_now(),
        _stat(
            "Labels",
            "True values received through /feedback since the service started",
            {"labels": "sum(feedback_total) or vector(0)"},
            {"decimals": 0},
        ),
        _stat(
            "Retrainings",
            "All that have ended, the first training too, by outcome",
            {"{{outcome}}": "max by (outcome) (retrains_total)"},
            {"decimals": 0, "text_mode": shape.BigValueTextMode.VALUE_AND_NAME},
        ),
        _states(
            "Version that serves",
            "Which version answered, and when",
            {"version {{version}} ({{family}})": "max by (version, family) (model_info)"},
            {"1": ("serves", BLUE)},
            {"no_value": "none yet"},
        ),
        _predictions_per_second(),
        _live_error(),
        _series(
            "Interval coverage",
            "Share of the newest labels that lie inside the interval of their prediction, and the share promised",
            {
                "live, version {{model_version}}": _by_version("live_interval_coverage"),
                "promised, version {{model_version}}": _by_version("model_interval_coverage"),
            },
            {"unit": "percentunit", "axis_soft_min": 0.8, "max": 1, "no_value": "no model yet"},
            last_is_reference=True,
        ),
        _predicted_values(),
        _series(
            "Quantiles of the predictions",
            "Of the last quarter of an hour, in TARGET_UNIT, interpolated in the buckets of the histogram",
            _quantiles({"10 %": 0.1, "median": 0.5, "90 %": 0.9}, f"sum by (le) (rate({BUCKETS}[15m]))"),
            {"decimals": "VALUE_PLACES", "min": "LEAST_VALUE", "no_value": NO_PREDICTIONS},
        ),
        _series(
            "Shadow beside Production: error on the same labels",
            "RMSE of the version in the shadow and of the one that answers, on the newest labelled predictions that "
            "both have a value for, in TARGET_UNIT",
            {"{{alias}}, version {{model_version}}": "max by (alias, model_version) (shadow_rmse)"},
            {"decimals": "ERROR_PLACES", "min": 0, "no_value": f"{NO_SHADOW}, or no labels of it yet"},
        ),
        _series(
            "How far the shadow is from the answers",
            "Mean absolute difference on the newest predictions that the version in the shadow has scored, in "
            "TARGET_UNIT",
            {"difference": "max(shadow_disagreement)"},
            {"decimals": "ERROR_PLACES", "min": 0, "no_value": f"{NO_SHADOW}, or it has scored nothing yet"},
        ),
    ]
    return panels, [(6, 4), *[(4, 4)] * 3, (6, 4), *[(12, 6)] * 2, *[(12, 8)] * 6]


def _drift() -> Placed:
    panels: list[AnyPanel] = [
        _stat(
            "Verdict",
            "Of the drift monitor, on its last look; none with fewer predictions than least_rows of params.yaml",
            {"drift": "max(drift_detected) - (absent(feature_drifted) or vector(0))"},
            {
                "mappings": _mappings({"-1": (NOT_JUDGED, GREY), "0": ("no drift", GREEN), "1": ("drift", RED)}),
                "no_value": NOT_LOOKED,
            }
            | _coloured(),
        ),
        _stat(
            "Predictions looked at",
            "The newest ones; with fewer than least_rows of params.yaml nothing is said",
            {"predictions": "max(drift_window_rows)"},
            {"decimals": 0, "no_value": NOT_LOOKED},
        ),
        _stat(
            "Windows in a row",
            "That wanted a retraining, for drift or for the live error; how many are needed is shown below",
            {"windows": "max(drift_windows_in_a_row)"},
            {"decimals": 0, "no_value": NOT_LOOKED}
            | _coloured((0, GREEN), (1, ORANGE), mode=shape.BigValueColorMode.VALUE),
        ),
        _stat(
            "Labels to learn from",
            "True values that no training has used yet; a retraining needs new_labels of params.yaml",
            {"labels": "max(labels_unused)"},
            {"decimals": 0, "no_value": NOT_LOOKED},
        ),
        _stat(
            "Retraining",
            "Whether one of the drift monitor runs",
            {"retraining": "max(retraining_running)"},
            {"mappings": _mappings({"0": ("none runs", GREEN), "1": ("runs", BLUE)}), "no_value": NOT_LOOKED}
            | _coloured(),
        ),
        _stat(
            "Last look",
            "Of the drift monitor; every DRIFT_INTERVAL_SECONDS it takes one",
            {"ago": "time() - max(drift_checked_timestamp_seconds)"},
            {"unit": "s", "decimals": 0, "no_value": NOT_LOOKED},
        ),
        _drift_per_feature(),
        _series(
            "Distance by feature",
            "Wasserstein distance from the training rows in standard deviations; above the dashed line it counts",
            {"{{feature}}": "max by (feature) (feature_drift_distance)", "limit": _limit("wasserstein")},
            {"min": 0, "decimals": 2, "no_value": NOT_LOOKED},
            last_is_reference=True,
        ),
        _series(
            "Significance by feature",
            "Probability of such a difference without drift: DRIFT_TESTS, Holm's correction. Below the "
            "dashed line it is significant; it counts as drift only when the change is large as well",
            {
                "{{feature}}": "clamp_min(max by (feature) (feature_drift_ks_pvalue), 1e-12)",
                "limit": _limit("alpha"),
            },
            {
                "max": 1,
                "no_value": NOT_LOOKED,
                "scale_distribution": common.ScaleDistributionConfig().type(shape.ScaleDistribution.LOG).log(10),
            },
            last_is_reference=True,
        ),
        _series(
            "All features together",
            "How well a classifier tells the newest rows from the training rows (AUC): 0.5 is not at all. It sees "
            "changes that leave every single feature as it was",
            {"AUC": "max(drift_auc)", "limit": _limit("auc")},
            {"axis_soft_min": 0.45, "axis_soft_max": 0.65, "decimals": 2, "no_value": NOT_LOOKED},
            last_is_reference=True,
        ),
        _states(
            "Drifted features",
            "Where the change is significant and large, and since when",
            {"{{feature}}": "max by (feature) (feature_drifted)", NOT_JUDGED: "-absent(feature_drifted)"},
            {"-1": (NOT_JUDGED, GREY), "0": ("no", GREEN), "1": ("drifted", RED)},
        ),
        _series(
            "What a retraining waits for",
            "Windows in a row that wanted one, and the number that is needed",
            {"windows in a row": "max(drift_windows_in_a_row)", "needed": _limit("sustained")},
            {"min": 0, "decimals": 0, "no_value": NOT_LOOKED},
            last_is_reference=True,
        ),
    ]
    return panels, [*[(4, 4)] * 6, *[(12, 9)] * 6]


def _appliance() -> Placed:
    panels: list[AnyPanel] = [
        _services(),
        _stat(
            "Disk that is free",
            "Where STATE_DIR lies; below 1 GB the appliance does not start again",
            {"free": "min(state_disk_free_bytes)"},
            {"unit": "decbytes"} | _coloured((0, RED), (1e9, ORANGE), (5e9, GREEN)),
        ),
        _stat(
            "Memory",
            "Resident memory of all programs; what they share counts for each",
            {"all": "sum(service_memory_bytes)"},
            {"unit": "decbytes", "no_value": NOT_ASKED},
        ),
        _stat(
            "CPU",
            "Cores in use by all programs, over a minute",
            {"all": "sum(rate(service_cpu_seconds_total[1m]))"},
            {"decimals": 2, "no_value": NOT_ASKED},
        ),
        _states(
            "Services over time",
            "What the watchdog found when it asked",
            {"{{service}}": "service_up"},
            UP_OR_DOWN,
            {"no_value": NOT_ASKED},
        ),
        _panel(
            bargauge.Panel(),
            "Running for",
            "Since the start of each program; a short time beside long ones: it was started again",
            {"{{service}}": "service_uptime_seconds"},
            {
                "reduce_options": _last(),
                "unit": "dtdurations",
                "decimals": 1,  # hours and minutes
                "min": 0,
                "no_value": NOT_ASKED,
                "orientation": shape.VizOrientation.HORIZONTAL,
                "display_mode": shape.BarGaugeDisplayMode.BASIC,
                "thresholds": _steps(BLUE),
            },
            now=True,
        ),
        _series(
            "Memory by program",
            "Resident memory of its processes",
            {"{{service}}": "service_memory_bytes"},
            {"unit": "decbytes", "min": 0, "no_value": NOT_ASKED} | _stacked(),
        ),
        _series(
            "CPU by program",
            "Cores in use",
            {"{{service}}": "rate(service_cpu_seconds_total[$__rate_interval])"},
            {"min": 0, "no_value": NOT_ASKED},
        ),
        _series(
            "Disk of STATE_DIR",
            "Free space and size of the file system; the line is where a start is refused",
            {"free": "min(state_disk_free_bytes)", "size": "min(state_disk_total_bytes)"},
            {"unit": "decbytes", "min": 0} | _line_at(RED, (1e9, GREEN)),
            last_is_reference=True,
        ),
        _series(
            "Prometheus on disk",
            "Its blocks of finished hours, and the size at which the oldest goes; 30 days are kept at most",
            {"blocks": "prometheus_tsdb_storage_blocks_bytes", "limit": "prometheus_tsdb_retention_limit_bytes"},
            {"unit": "decbytes", "min": 0},
            last_is_reference=True,
        ),
        _series(
            "Open files",
            "Of the service and of Prometheus",
            {"{{job}}": "max by (job) (process_open_fds)"},
            {"min": 0},
        ),
        _series(
            "Scrapes",
            "How long it takes to read the metrics; at two seconds a scrape is given up",
            {"{{job}}": "max by (job) (scrape_duration_seconds)"},
            {"unit": "s", "min": 0},
        ),
    ]
    return panels, [(12, 4), *[(4, 4)] * 3, *[(12, 8)] * 8]


# -- panels of more than one dashboard ------------------------------------------------------------------------------


def _services() -> stat.Panel:
    return _stat(
        "Services",
        "Whether each answered the watchdog's last question",
        {"{{service}}": "service_up"},
        {
            "mappings": _mappings(UP_OR_DOWN),
            "text_mode": shape.BigValueTextMode.VALUE_AND_NAME,
            "no_value": NOT_ASKED,
        }
        | _coloured(),
    )


def _version() -> stat.Panel:
    return _stat(
        "Model that serves",
        "The version behind the predictions, and its kind",
        # A name is shown, which a missing value has not: so there is one for it.
        {
            "version {{version}}, {{family}}": "max by (version, family) (model_info)",
            "none yet": "absent(model_info)",
        },
        {"text_mode": shape.BigValueTextMode.NAME},
    )


def _live_error_now() -> stat.Panel:
    return _stat(
        "Live error now",
        "RMSE of the serving version on its newest labelled predictions, in TARGET_UNIT",
        # Only the version that serves has a model_interval_coverage.
        {"version {{model_version}}": f"{_by_version('live_rmse')} and on (model_version) model_interval_coverage"},
        {"decimals": "ERROR_PLACES", "no_value": "no labels yet", "text_mode": shape.BigValueTextMode.VALUE_AND_NAME},
    )


def _predictions_per_second() -> timeseries.Panel:
    return _series(
        "Predictions per second",
        "By model version, so that a promotion shows",
        {"version {{model_version}}": "sum by (model_version) (rate(predictions_total[$__rate_interval]))"},
        {"unit": "reqps", "min": 0, "no_value": NO_PREDICTIONS} | _stacked(),
    )


def _latency() -> timeseries.Panel:
    series = 'http_request_duration_seconds_bucket{job="api",handler="/predict"}'
    return _series(
        "Duration of a prediction",
        "Single predictions, measured in the service; one in twenty and one in a hundred take longer than the "
        "upper lines",
        _quantiles({"median": 0.5, "95 %": 0.95, "99 %": 0.99}, f"sum by (le) (rate({series}[$__rate_interval]))"),
        {"unit": "s", "min": 0, "no_value": NO_PREDICTIONS},
    )


def _status() -> timeseries.Panel:
    questions = 'http_requests_total{job="api",handler=~"/predict.*|/feedback.*"}'
    panel = _series(
        "Questions by status",
        "4xx is input that was refused, with the reason; there should be no 5xx",
        {"{{status}}": f"sum by (status) (rate({questions}[$__rate_interval]))"},
        {"unit": "reqps", "min": 0, "no_value": "no questions yet"},
    )
    for digit, color in ((2, GREEN), (4, ORANGE), (5, RED)):
        panel.override_by_regexp(f"/^{digit}/", _color(color))
    return panel


def _predicted_values() -> heatmap.Panel:
    return _heat("Predicted values", "How many predictions fell where, in TARGET_UNIT", BUCKETS, "none")


def _live_error() -> timeseries.Panel:
    return _series(
        "Live error",
        "Of the newest labelled predictions of each version, in TARGET_UNIT; dashed: what was promised",
        {
            "RMSE, version {{model_version}}": _by_version("live_rmse"),
            "mean absolute error, version {{model_version}}": _by_version("live_mae"),
            "RMSE promised, version {{model_version}}": _by_version("model_test_rmse"),
        },
        {"decimals": "ERROR_PLACES", "min": 0, "no_value": "no model yet"},
        last_is_reference=True,
    )


def _drift_per_feature() -> timeseries.Panel:
    return _series(
        "Drift by feature",
        "Population stability index of the newest predictions against the training rows; above the dashed line "
        "it counts. With too few predictions nothing is said",
        {"{{feature}}": "max by (feature) (feature_drift_psi)", "limit": _limit("psi")},
        {"min": 0, "decimals": 2, "no_value": NOT_LOOKED},
        last_is_reference=True,
    )


# -- how they are built ---------------------------------------------------------------------------------------------


def _dashboard(
    uid: str, title: str, description: str, panels: Sequence[AnyPanel], sizes: Sequence[tuple[int, int]]
) -> model.Dashboard:
    links = builder.DashboardLink("Dashboards").type(model.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
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
        .links([links])
        .variables([])
        .annotations(
            [
                builder.AnnotationQuery()
                .name(name)
                .datasource(SOURCE)
                .enable(True)
                .icon_color(color)
                .target(_query(expr, "", "Anno"))
                .title_format(text)
                for name, (expr, text, color) in ANNOTATIONS.items()
            ]
        )
    )
    for number, (panel, (width, height)) in enumerate(zip(panels, sizes, strict=True), start=1):
        result.with_panel(panel.id(number).span(width).height(height))
    built = result.build()
    for link in built.links or []:
        link.placement = None  # type: ignore[assignment]  # the builder's default hides them in a menu
    return built


def _query(expr: str, legend: str, letter: str = "A") -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expr).legend_format(legend).ref_id(letter).range()


def _by_version(metric: str) -> str:
    """Return the query of a metric by model version; each copy of the service has the same."""
    return f"max by (model_version) ({metric})"


def _firing(form: str = "%s") -> str:
    """Return the query of the firing alerts: 1 for a warning, 2 for a critical one; `form` goes around the series."""
    critical, every = (
        form % f'ALERTS{{alertstate="firing"{only}}}' for only in (',severity="critical"', ',severity!="info"')
    )
    return f"max by (alertname, service) (2 * {critical} or {every})"


def _limit(measure: str) -> str:
    """Return the query of the drift monitor's limit, which comes from params.yaml."""
    return f'max(drift_threshold{{measure="{measure}"}})'


def _quantiles(quantiles: Mapping[str, float], buckets: str) -> dict[str, str]:
    """Return the queries; without traffic they have no series, not one of NaN, so that the panel can say so."""
    return {title: f"histogram_quantile({quantile}, {buckets}) > -Inf" for title, quantile in quantiles.items()}


def _panel(
    panel: Kind, title: str, description: str, queries: Mapping[str, str], options: Options, *, now: bool = False
) -> Kind:
    """Return the panel. One that says what is so `now` asks for no range: there a former version's series lasts."""
    named = zip(string.ascii_uppercase, queries.items(), strict=False)
    targets = [_query(expr, legend, letter) for letter, (legend, expr) in named]
    panel.targets([target.instant() if now else target for target in targets])
    panel.title(title).description(description).datasource(SOURCE)
    for name, value in options.items():
        getattr(panel, name)(value)
    return panel


def _stat(title: str, description: str, queries: Mapping[str, str], options: Options) -> stat.Panel:
    usual: Options = {
        "unit": "none",
        "reduce_options": _last(),
        "color_mode": shape.BigValueColorMode.NONE,
        "graph_mode": shape.BigValueGraphMode.NONE,
        "text_mode": shape.BigValueTextMode.VALUE,
    }
    return _panel(stat.Panel(), title, description, queries, {**usual, **options}, now=True)


def _series(
    title: str, description: str, queries: Mapping[str, str], options: Options, *, last_is_reference: bool = False
) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True).display_mode(shape.LegendDisplayMode.LIST)
    usual: Options = {
        "unit": "none",
        "line_width": 2,
        "fill_opacity": 5,
        "show_points": shape.VisibilityMode.NEVER,
        "legend": legend.placement(shape.LegendPlacement.BOTTOM),
        "tooltip": common.VizTooltipOptions().mode(shape.TooltipDisplayMode.MULTI).sort(shape.SortOrder.DESCENDING),
    }
    panel = _panel(timeseries.Panel(), title, description, queries, {**usual, **options})
    if last_is_reference:
        panel.override_by_query(string.ascii_uppercase[len(queries) - 1], _reference_line())
    return panel


def _states(
    title: str,
    description: str,
    queries: Mapping[str, str],
    texts: Mapping[str, tuple[str, str]],
    options: Options | None = None,
) -> statetimeline.Panel:
    usual: Options = {
        "mappings": _mappings(texts),
        "row_height": 0.8,
        "show_value": shape.VisibilityMode.NEVER,
        "legend": common.VizLegendOptions().show_legend(False),
    }
    return _panel(statetimeline.Panel(), title, description, queries, usual | (options or {}))


def _heat(title: str, description: str, buckets: str, unit: str) -> heatmap.Panel:
    query = _query(f"sum by (le) (increase({buckets}[$__rate_interval]))", "{{le}}")
    color = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").exponent(0.5).steps(64)
    options = {"targets": [query.format(PromQueryFormat.HEATMAP)], "calculate": False, "unit": "none", "color": color}
    return (
        _panel(heatmap.Panel(), title, description, {}, options)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .show_legend()
    )


def _coloured(
    *steps: tuple[float, str], mode: shape.BigValueColorMode = shape.BigValueColorMode.BACKGROUND
) -> Options:
    """Return what colours a value from each step on, or by its text; where there is no value it is grey."""
    return {"thresholds": _steps(GREY, *steps), "color_mode": mode}


def _line_at(base: str, *steps: tuple[float, str]) -> Options:
    style = common.GraphThresholdsStyleConfig().mode(shape.GraphThresholdsStyleMode.DASHED)
    return {"thresholds": _steps(base, *steps), "thresholds_style": style}


def _stacked() -> Options:
    return {"stacking": common.StackingConfig().mode(shape.StackingMode.NORMAL), "fill_opacity": 30}


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _steps(base: str, *steps: tuple[float, str]) -> builder.ThresholdsConfig:
    """Return the colour below the first step, and from each step on."""
    thresholds = [model.Threshold(value=None, color=base)]
    thresholds += [model.Threshold(value=value, color=color) for value, color in steps]
    return builder.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds)


def _mappings(texts: Mapping[str, tuple[str, str]]) -> list[model.ValueMap]:
    options = {
        value: model.ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(texts.items())
    }
    return [model.ValueMap(options=options)]


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
