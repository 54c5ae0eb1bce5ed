"""Requests and responses of the service, generated from `tableloop.table`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model

from tableloop.table import FEATURES, TARGET, Column

MAX_BATCH_ROWS = 10_000
ID_EXAMPLE = "01a2075a-3a41-763b-9b8c-d69e5df70ea4"
_SHARE: dict[str, Any] = {"minimum": 0, "maximum": 1}  # only told: what we answer is not checked once more
_COUNT: dict[str, Any] = {"minimum": 0}
_TIME: dict[str, Any] = {"format": "date-time"}


def _field(column: Column) -> tuple[Any, Any]:
    """Return type and default of one feature: a required, strict, finite number in the column's range."""
    number = Annotated[
        float,
        Field(
            strict=True,
            allow_inf_nan=False,
            ge=column.minimum,
            le=column.maximum,
            title=column.title,
            description=f"{column.description}, in {column.unit}",
            examples=[column.example],
        ),
    ]
    return number, ...


_fields: dict[str, Any] = {column.name: _field(column) for column in FEATURES}
_Features: Any = create_model(
    "_Features",
    __config__=ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{column.name: column.example for column in FEATURES}]},
    ),
    **_fields,
)


class HouseFeatures(_Features):
    """One block group of the 1990 census. Every field is required; a number in quotes is refused, not guessed."""

    def row(self) -> tuple[float, ...]:
        """Return the eight values in the order of `tableloop.table.FEATURES`, whatever the order in the request."""
        return tuple(self.__dict__.values())


Batch = Annotated[
    list[HouseFeatures],
    Field(min_length=1, max_length=MAX_BATCH_ROWS, description=f"1 to {MAX_BATCH_ROWS:,} block groups"),
]


class Interval(BaseModel):
    """The range that holds the true value with the probability `coverage`."""

    low: float = Field(description=f"Lower end, in {TARGET.unit}", examples=[3.545])
    high: float = Field(description=f"Upper end, in {TARGET.unit}", examples=[5.00001])
    coverage: float = Field(
        description="Share of true values that lie inside such intervals", examples=[0.9], json_schema_extra=_SHARE
    )


class Prediction(BaseModel):
    """One prediction. It is in the prediction log by the time it is answered."""

    model_config = ConfigDict(protected_namespaces=())

    predicted_median_house_value: float = Field(description=f"{TARGET.title}, in {TARGET.unit}", examples=[4.485])
    interval: Interval
    model_version: str = Field(
        description="Version of the registered model that made this prediction", examples=["1"]
    )
    prediction_id: str = Field(
        description="A UUID of version 7: unique, and ids sort by the time they were made", examples=[ID_EXAMPLE]
    )
    warnings: list[str] = Field(
        description="Features outside the range the model was trained on, and places far from all it was trained on",
        examples=[[], ["Latitude 47.6 is outside the training range 32.54 to 41.92"]],
    )


class Label(BaseModel):
    """The true value of a house whose value was predicted."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: str = Field(
        min_length=1, max_length=64, description="The `prediction_id` of the answer", examples=[ID_EXAMPLE]
    )
    actual_value: float = Field(
        strict=True,
        allow_inf_nan=False,
        ge=TARGET.minimum,
        le=TARGET.maximum,
        description=f"{TARGET.title}, in {TARGET.unit}",
        examples=[TARGET.example],
    )


Labels = Annotated[
    list[Label], Field(min_length=1, max_length=MAX_BATCH_ROWS, description=f"1 to {MAX_BATCH_ROWS:,} labels")
]


def _one_or_list(body: object) -> str:
    return "list" if isinstance(body, list) else "one"


OneOrMoreLabels = Annotated[
    Annotated[Label, Tag("one")] | Annotated[Labels, Tag("list")], Discriminator(_one_or_list)
]


class Feedback(BaseModel):
    """A label that is stored for good: it joins the next retraining."""

    model_config = ConfigDict(protected_namespaces=())

    prediction_id: str = Field(description="Of the prediction that has the label now", examples=[ID_EXAMPLE])
    actual_value: float = Field(description=f"The value sent, in {TARGET.unit}", examples=[TARGET.example])
    received_at: str = Field(description="UTC", examples=["2026-11-23T08:35:00.123+00:00"], json_schema_extra=_TIME)
    model_version: str = Field(description="Version that made the prediction", examples=["1"])
    predicted_median_house_value: float = Field(description=f"What was predicted, in {TARGET.unit}", examples=[4.485])
    inside_interval: bool = Field(
        description="Whether the prediction's interval holds the actual value", examples=[True]
    )


class LabelOutcome(BaseModel):
    """What became of one label of a list: the status and the detail it would have had alone."""

    prediction_id: str = Field(description="As it was sent", examples=[ID_EXAMPLE])
    status: Literal[201, 404, 409] = Field(
        description="201 stored, 404 no such prediction, 409 it has a label already", examples=[201]
    )
    detail: str = Field(description="`stored`, or why not", examples=["stored"])


class FeedbackList(BaseModel):
    """What became of a list of labels, in its order."""

    stored: int = Field(description="How many were stored", examples=[1], json_schema_extra=_COUNT)
    refused: int = Field(description="How many were not", examples=[0], json_schema_extra=_COUNT)
    outcomes: list[LabelOutcome] = Field(description="One for each label, in the order of the list")


class ServiceState(BaseModel):
    """One service of the appliance, as the watchdog last saw it."""

    model_config = ConfigDict(extra="allow")

    state: str = Field(
        description="`up`, `down`, `starting`, or `missing` where it is not installed", examples=["up"]
    )
    detail: str = Field(description="What it answered, or what is wrong with it", examples=["answers queries"])
    address: str = Field(description="Where it listens", examples=["http://localhost:9090"])


class Health(BaseModel):
    """The process is alive; `services` is what the watchdog last saw of the others."""

    status: Literal["ok"] = Field(description="Always `ok`: whoever is not alive does not answer")
    checked_at: str | None = Field(
        description="When the services were last looked at, UTC; null without a watchdog",
        examples=["2026-11-23T08:35:00.123+00:00"],
        json_schema_extra=_TIME,
    )
    services: dict[str, ServiceState] = Field(description="By name; empty without a watchdog")


class Readiness(BaseModel):
    """Whether predictions can be made, by which model and where it was loaded from."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ready", "not ready"] = Field(description="`ready` when predictions are answered")
    detail: str = Field(
        description="What the service is doing, or why it cannot predict",
        examples=["version 1 is the registry's HousePriceModel@Production"],
    )
    model_version: str | None = Field(description="Version that serves; null without one", examples=["1"])
    source: Literal["registry", "local copy", "dummy"] | None = Field(
        description="Where it was loaded from: `local copy` when the registry did not answer", examples=["registry"]
    )
    prediction_log: str = Field(description="`on`, `off`, or why predictions cannot be written", examples=["on"])


class AcrossLine(BaseModel):
    """Errors of models that were trained on one side of a line of latitude and asked about the other."""

    line_degrees_north: float = Field(description="The line, in degrees north", examples=[36.0])
    south_from_north_rmse: float = Field(
        description=f"RMSE in the south when trained in the north, in {TARGET.unit}", examples=[1.402]
    )
    south_from_north_linear_rmse: float = Field(
        description=f"The same of a linear model, in {TARGET.unit}", examples=[0.897]
    )
    north_from_south_rmse: float = Field(
        description=f"RMSE in the north when trained in the south, in {TARGET.unit}", examples=[1.108]
    )
    north_from_south_linear_rmse: float = Field(
        description=f"The same of a linear model, in {TARGET.unit}", examples=[2.511]
    )


class AtDistance(BaseModel):
    """Test rows whose nearest training place is at least so far, and nearer than the next entry says."""

    from_km: float = Field(description="In kilometres", examples=[5.0])
    rows: int = Field(description="How many they are", examples=[100], json_schema_extra=_COUNT)
    rmse: float = Field(description=f"Their RMSE, in {TARGET.unit}", examples=[0.425])
    relative_error: float = Field(description="Their mean absolute error, as a share of the value", examples=[0.215])
    coverage: float = Field(
        description="Share of them inside their intervals", examples=[0.91], json_schema_extra=_SHARE
    )


class Limits(BaseModel):
    """What a model cannot do, measured when it was trained."""

    far_km: float | None = Field(
        description="From so many kilometres to the nearest training place on, an answer carries a warning; null for "
        "a model that knows no places",
        examples=[5.0],
    )
    across_line: AcrossLine | None = Field(None, description="Null where the version's training did not measure it")
    by_distance: list[AtDistance] = Field([], description="Empty for a model that knows no places")


Range = Annotated[list[float], Field(min_length=2, max_length=2, examples=[[0.4999, 15.0001]])]


class ModelCard(BaseModel):
    """The model that serves: which one, how good, made from what."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(description="Name of the registered model", examples=["HousePriceModel"])
    alias: str = Field(description="Alias that the version carries", examples=["Production"])
    version: str = Field(description="Version that serves", examples=["1"])
    family: str = Field(description="Which candidate of params.yaml it is", examples=["spatial"])
    run_id: str = Field(description="Its run on the MLflow server", examples=["113a12a0766f46b387247fb3ed2fc4c8"])
    source: Literal["registry", "local copy", "dummy"] = Field(description="Where it was loaded from")
    engine: Literal["compiled", "scikit-learn", "dummy"] = Field(
        description="What computes the predictions: the compiled scorer, or scikit-learn where a version has none"
    )
    registered_at: str | None = Field(
        description="When the version was registered, UTC",
        examples=["2026-11-23T08:32:33+00:00"],
        json_schema_extra=_TIME,
    )
    scores: dict[str, float] = Field(
        description=f"Errors in {TARGET.unit}, and R²; `custom_` on validation, `test_` on test rows",
        examples=[{"custom_rmse": 0.383654, "test_rmse": 0.367061, "test_r2": 0.897369}],
    )
    interval_coverage: float = Field(
        description="Share of true values that its intervals promise to hold",
        examples=[0.9],
        json_schema_extra=_SHARE,
    )
    data_md5: str | None = Field(
        description="DVC's md5 of the raw data the version was trained on",
        examples=["9a2b8172906a0ab9676a81f01a908368"],
    )
    code_digest: str | None = Field(
        description="Digest of the code and parameters that made the version",
        examples=["56ec6bdbed10c4c9dd08fd17489e7ddc"],
    )
    training_range: dict[str, Range] = Field(
        description="Smallest and largest value seen of each feature, in its unit",
        examples=[{"MedInc": [0.4999, 15.0001]}],
    )
    limits: Limits | None = Field(
        description="What it cannot do, measured: errors across a line of latitude, when trained on one side only, "
        "beside a linear model's; and errors by the distance to the nearest training place"
    )


class Problem(BaseModel):
    """An error that is not about a single field."""

    detail: str = Field(description="What is wrong, and what to do about it where something can be done")


class FieldProblem(BaseModel):
    """What is wrong at one place of a request."""

    type: str = Field(description="Kind of problem, for programs", examples=["less_than_equal"])
    loc: list[str | int] = Field(
        description="The place: `body` or `query`, then the number of the row in a list, or `row 3` in a file, then "
        "the field; the position of the character where a body is no JSON",
        examples=[["body", "Latitude"]],
    )
    msg: str = Field(description="In words", examples=["Input should be less than or equal to 90"])
    input: str | float | bool | None = Field(
        default=None, description="The value that was sent; left out where it is an object or a list", examples=[91]
    )


class Invalid(BaseModel):
    """Everything that is wrong with a request, a hundred problems at most; one more says how many were left out."""

    detail: list[FieldProblem] = Field(description="At least one")


class Histogram(BaseModel):
    """Two distributions over the same bins; the first and the last bin also hold what lies beyond."""

    edges: list[float] = Field(description="Of the bins: one more than there are bins")
    before: list[float] = Field(description="Share of what the version was made from in each bin")
    now: list[float] = Field(description="Share of the newest predictions in each bin")


class ColumnDrift(BaseModel):
    """One feature, or `prediction`: how far the newest predictions are from what the version was made from."""

    name: str = Field(description="Name of the feature, or `prediction`", examples=["MedInc"])
    title: str = Field(description="For people", examples=["Median income"])
    unit: str = Field(description="Of the medians and of the histogram", examples=["10,000 US dollars of 1990"])
    ks: float = Field(description="Kolmogorov-Smirnov distance", examples=[0.21], json_schema_extra=_SHARE)
    p_value: float = Field(
        description="Of no drift, after Holm's correction", examples=[0.0001], json_schema_extra=_SHARE
    )
    psi: float = Field(
        description="Population stability index over tenths", examples=[0.31], json_schema_extra={"minimum": 0}
    )
    wasserstein: float = Field(
        description="Distance in standard deviations", examples=[0.4], json_schema_extra={"minimum": 0}
    )
    direction: Literal["up", "down", "wider", "narrower"] = Field(description="Where to", examples=["up"])
    median_before: float = Field(description="Of what the version was made from", examples=[3.535])
    median_now: float = Field(description="Of the newest predictions", examples=[4.12])
    histogram: Histogram
    drifted: bool = Field(description="Whether the change is significant and large")


class JointDrift(BaseModel):
    """How well a classifier tells the newest predictions from the training rows, all features together."""

    auc: float = Field(
        description="Area under its ROC curve; 0.5 is guessing", examples=[0.507], json_schema_extra=_SHARE
    )
    p_value: float = Field(description="Of guessing", examples=[0.23], json_schema_extra=_SHARE)
    pair: list[str] = Field(
        description="The two features whose rank correlation changed most",
        examples=[["AveRooms", "AveBedrms"]],
        min_length=2,
        max_length=2,
    )
    correlation_before: float = Field(description="From -1 to 1", examples=[0.08])
    correlation_now: float = Field(description="From -1 to 1", examples=[0.11])
    drifted: bool = Field(description="Whether it is significant and large")


class LiveError(BaseModel):
    """What the newest labels of the serving version say."""

    labels: int = Field(description="How many", examples=[312], json_schema_extra=_COUNT)
    test_rmse: float = Field(description=f"What the version promised, in {TARGET.unit}", examples=[0.367])
    limit: float = Field(description=f"Above it the live error is worse, in {TARGET.unit}", examples=[0.459])
    worse: bool = Field(description="Enough labels, above the limit, and by more than chance")
    rmse: float | None = Field(
        default=None, description=f"In {TARGET.unit}; left out without labels", examples=[0.37]
    )
    mae: float | None = Field(default=None, description=f"In {TARGET.unit}; left out without labels", examples=[0.23])
    p_value: float | None = Field(
        default=None, description="Of an error no larger than promised; left out without labels", examples=[0.4]
    )
    inside_interval: float | None = Field(description="Share inside their intervals", examples=[0.9])


class DriftWindow(BaseModel):
    """The predictions that were looked at."""

    rows: int = Field(description="How many", examples=[1000], json_schema_extra=_COUNT)
    last_id: int = Field(description="Row of the newest in the prediction log", examples=[20113])
    first_at: str | None = Field(default=None, description="Time of the oldest, UTC", json_schema_extra=_TIME)
    last_at: str | None = Field(default=None, description="Time of the newest, UTC", json_schema_extra=_TIME)


class DriftMonitor(BaseModel):
    """What the drift monitor makes of it."""

    looked_at: str = Field(description="When it last looked, UTC", json_schema_extra=_TIME)
    says: str = Field(description="What it does, or what it waits for", examples=["nothing to do: no drift"])
    windows: int = Field(description="Windows in a row that wanted a retraining", json_schema_extra=_COUNT)
    waits_for: list[str] = Field(description="What is missing before it retrains")
    pauses_until: str | None = Field(
        default=None, description="Until when it starts none, UTC; null outside of a pause", json_schema_extra=_TIME
    )
    retraining: bool = Field(description="Whether one that it has started runs")
    retrain_on_drift: bool = Field(description="The setting `RETRAIN_ON_DRIFT`")


class Retraining(BaseModel):
    """One retraining, the first training too; one that runs has no end yet."""

    id: int = Field(description="Its number", examples=[3])
    started_at: str = Field(description="UTC", json_schema_extra=_TIME)
    ended_at: str | None = Field(description="UTC; null while it runs", json_schema_extra=_TIME)
    trigger: str = Field(description="`start`, `user` or `drift`", examples=["drift"])
    cause: str = Field(description="Why it began", examples=["drift: MedInc up (median 3.535 to 4.12, PSI 0.31)"])
    by: str = Field(description="Who began it", examples=["the drift monitor"])
    outcome: Literal["promoted", "rejected", "unchanged", "failed"] | None = Field(
        description="How it ended; null while it runs"
    )
    version: str | None = Field(description="The version that it made or found", examples=["2"])
    reason: str | None = Field(description="Why it ended so", examples=["test RMSE 0.361 against 0.367 of version 1"])
    seconds: dict[str, float] = Field(
        description="Duration of each stage that ran", examples=[{"preprocess": 0.9, "train": 21.4, "register": 7.3}]
    )


class DriftReport(BaseModel):
    """The last look at the newest predictions; what could not be computed is left out, null or empty."""

    status: Literal["drift", "no drift", "not enough data", "check failed"] = Field(description="The verdict")
    summary: str = Field(
        description="What moved, how much and where to; or what is missing",
        examples=["MedInc up (median 3.535 to 4.12, PSI 0.31)"],
    )
    checked_at: str = Field(description="UTC", examples=["2026-11-23T08:33:00+00:00"], json_schema_extra=_TIME)
    version: str | None = Field(default=None, description="Version that served", examples=["1"])
    policy: dict[str, float] | None = Field(
        default=None, description="The section `drift` of params.yaml: windows, thresholds, pauses"
    )
    window: DriftWindow | None = None
    new_labels: int | None = Field(
        default=None, description="Labels that no training has used", json_schema_extra=_COUNT
    )
    live: LiveError | None = None
    columns: list[ColumnDrift] = Field(default=[], description="Empty when there are too few predictions")
    joint: JointDrift | None = None
    monitor: DriftMonitor | None = None
