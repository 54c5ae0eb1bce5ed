"""Requests and answers of the service, made from the table.

A row and its prediction are typed dictionaries, not models: checking 10,000 rows takes 9 ms instead of 14, and making
and writing their answers 7 ms instead of 31.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic does not read the one of typing before Python 3.12

from tableloop.model.coding import days_of
from tableloop.table import Column, Value, load_table

TABLE = load_table()
TARGET = TABLE.target
assert isinstance(TARGET.example, float | int)  # the contract sees to it
_EXAMPLE = TARGET.example
_ALL_REQUIRED = all(column.required for column in TABLE.features)
REQUIRED = (
    "All fields are required"
    if _ALL_REQUIRED
    else "Fields that may be missing are null or left out, all others required"
)
FIRST = next((column for column in TABLE.features if column.is_number), TABLE.target)  # for examples
MAX_BATCH_ROWS = 10_000
LONGEST_LEVEL = 200  # characters of a category that nobody has listed
ID_EXAMPLE = "01a2075a-3a41-763b-9b8c-d69e5df70ea4"
# Limits that are only described: our own answers are not checked again.
Share = Annotated[float, Field(json_schema_extra={"minimum": 0, "maximum": 1})]
Distance = Annotated[float, Field(json_schema_extra={"minimum": 0})]
Count = Annotated[int, Field(json_schema_extra={"minimum": 0})]
Source = Literal["registry", "local copy", "dummy"]
Engine = Literal["compiled", "scikit-learn", "dummy"]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def about(description: str, *examples: Any, **more: Any) -> Any:
    """Return a field with its description, its examples and what else `Field` takes."""
    return Field(description=description, examples=list(examples) or None, **more)


def _number(column: Column, description: str, **more: Any) -> Any:
    """Return the field of a value of a column: a strict, finite number in the column's range."""
    limits: dict[str, Any] = {"ge": column.minimum, "le": column.maximum}
    if column.type == "integer":
        limits["multiple_of"] = 1  # 3.0 is one too
    return about(_in_unit(column, description), column.example, strict=True, allow_inf_nan=False, **limits, **more)


def _in_unit(column: Column, description: str) -> str:
    return f"{description}, in {column.unit}" if column.unit else description


def _feature(column: Column) -> Any:
    """Return the type of a value of a column: a number, or what JSON has instead; null too if it may be missing."""
    described = column.description or column.title
    type_: Any
    if column.is_number:
        type_ = Annotated[float, _number(column, described, title=column.title)]
    elif column.type == "boolean":
        type_ = Annotated[bool, about(described, column.example, strict=True, title=column.title)]
    else:
        schema: dict[str, Any] = {"format": "date" if column.type == "date" else "date-time"}
        if column.type == "string":
            schema = {"enum": [*column.categories]} if column.unknown == "refuse" else {}
            if not schema:
                described += f". Known: {', '.join(column.categories)}; another is answered with a warning"
        text = about(
            _in_unit(column, described),
            column.example,
            strict=True,
            max_length=LONGEST_LEVEL,
            title=column.title,
            json_schema_extra=schema,
        )
        type_ = Annotated[str, text, AfterValidator(_checked(column))]
    return type_ if column.required else NotRequired[type_ | None]


def _checked(column: Column) -> Callable[[str], str]:
    """Return the check of a text, which also gives dates the form in which all are kept."""

    def check(text: str) -> str:
        if problem := column.problem(text):
            raise PydanticCustomError("value", "{problem}", {"problem": problem})
        return text if column.type == "string" else column.written(days_of(text))

    return check


def row_of(features: Features) -> tuple[Value, ...]:
    """Return the values of a checked row, in the order of the contract; None where one is missing."""
    if _ALL_REQUIRED:
        return tuple(features.values())
    return tuple(map(features.get, TABLE.feature_names))


class Interval(TypedDict):
    """The range that holds the true value with the probability `coverage`."""

    low: Annotated[float, about(_in_unit(TARGET, "Lower end"), round(0.8 * _EXAMPLE, 4))]
    high: Annotated[float, about(_in_unit(TARGET, "Upper end"), round(1.2 * _EXAMPLE, 4))]
    coverage: Annotated[Share, about("Share of true values inside such intervals", 0.9)]


_predicted = Annotated[float, about(_in_unit(TARGET, f"Predicted {TARGET.title.lower()}"), TARGET.example)]
_version = Annotated[str, about("Version of the registered model that made the prediction", "1")]

if TYPE_CHECKING:  # a type checker does not know the names of the table
    Features = dict[str, Any]
    Prediction = dict[str, Any]
    Feedback = dict[str, Any]
else:
    Features = TypedDict(TABLE.type, {column.name: _feature(column) for column in TABLE.features})
    Features.__pydantic_config__ = ConfigDict(extra="forbid", json_schema_extra={"examples": [TABLE.example]})
    Features.__doc__ = f"One {TABLE.row}. {REQUIRED}, in any order; a number in quotes is refused."
    Prediction = TypedDict(
        "Prediction",
        {
            TABLE.answer: _predicted,
            "interval": Interval,
            "model_version": _version,
            "prediction_id": Annotated[str, about("A UUID of version 7; ids sort by time of creation", ID_EXAMPLE)],
            "warnings": Annotated[
                list[str],
                about(
                    "One line for each feature outside the range of the training data, and one when the "
                    "place is far from all training places",
                    [],
                    [
                        f"{FIRST.name} {FIRST.maximum:g} is outside the training range "
                        f"{FIRST.minimum:g} to {FIRST.example}"
                    ],
                ),
            ],
        },
    )
    Prediction.__doc__ = "One prediction. It was written to the prediction log before it was answered."
    Feedback = TypedDict(
        "Feedback",
        {
            "prediction_id": Annotated[str, about("The prediction that was labelled", ID_EXAMPLE)],
            "actual_value": Annotated[float, about(_in_unit(TARGET, "The value that was sent"), TARGET.example)],
            "received_at": Annotated[Time, about("When it was stored, UTC", "2026-11-23T08:35:00.123+00:00")],
            "model_version": _version,
            TABLE.answer: _predicted,
            "inside_interval": Annotated[bool, about("Whether the actual value lies inside the interval", True)],
        },
    )
    Feedback.__doc__ = "A stored label. It cannot be changed and is used by the next retraining."

Batch = Annotated[
    list[Features],
    about(f"1 to {MAX_BATCH_ROWS:,} {TABLE.rows}", min_length=1, max_length=MAX_BATCH_ROWS),
]


def prediction(
    value: float, interval: Interval, model_version: str, prediction_id: str, warnings: Sequence[str]
) -> Prediction:
    """Return the answer for one row."""
    return {
        TABLE.answer: value,
        "interval": interval,
        "model_version": model_version,
        "prediction_id": prediction_id,
        "warnings": warnings,
    }


class Label(BaseModel):
    """The true value for an earlier prediction."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: str = about("The `prediction_id` from the answer", ID_EXAMPLE, min_length=1, max_length=64)
    actual_value: float = _number(TARGET, TARGET.title)
    accept_unusual: bool = about(
        "Store a value that is far from the interval of its prediction and from all usual values, which is otherwise "
        "taken for one in another unit and refused",
        False,
        default=False,
    )


Labels = Annotated[list[Label], about(f"1 to {MAX_BATCH_ROWS:,} labels", min_length=1, max_length=MAX_BATCH_ROWS)]


def _one_or_list(body: object) -> str:
    return "list" if isinstance(body, list) else "one"


OneOrMoreLabels = Annotated[
    Annotated[Label, Tag("one")] | Annotated[Labels, Tag("list")], Discriminator(_one_or_list)
]


class LabelOutcome(BaseModel):
    """The result for one label of a list: the status and detail that it would have had if sent alone."""

    prediction_id: str = about("As it was sent", ID_EXAMPLE)
    status: Literal[201, 404, 409, 422] = about(
        "201: stored, 404: no such prediction, 409: it already has a label, 422: its value is unusual", 201
    )
    detail: str = about("`stored`, or the reason why it was not", "stored")


class FeedbackList(BaseModel):
    """The results for a list of labels, in the order of the list."""

    stored: Count = about("Number of labels stored", 1)
    refused: Count = about("Number of labels refused", 0)
    outcomes: list[LabelOutcome] = about("One result for each label, in the order of the list")


class ServiceState(BaseModel):
    """One service of the appliance, as the watchdog last saw it."""

    model_config = ConfigDict(extra="allow")

    state: str = about("`up`, `down`, `starting`, or `missing` where it is not installed", "up")
    detail: str = about("Its answer, or what is wrong with it", "answers queries")
    address: str = about("Where it listens", "http://localhost:9090")


class Health(BaseModel):
    """The process is alive. `services` is the state of the other services as the watchdog last saw it."""

    status: Literal["ok"] = about("Always `ok`: a process that is not alive does not answer")
    checked_at: Time | None = about(
        "When the services were last checked, UTC; null without a watchdog", "2026-11-23T08:35:00.123+00:00"
    )
    services: dict[str, ServiceState] = about("By name; empty without a watchdog")


class Readiness(BaseModel):
    """Whether the service can predict, with which model, and where the model was loaded from."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ready", "not ready"] = about(
        "`ready` when predictions are answered, for which they must be stored"
    )
    detail: str = about(
        "What the service is doing, or why it cannot predict",
        "version 1 is the registry's HousePriceModel@Production",
    )
    model_version: str | None = about("Version of the model that serves; null without a model", "1")
    source: Source | None = about(
        "Where the model was loaded from: `local copy` when the registry did not answer", "registry"
    )
    matches_registry: bool | None = about(
        "Whether the registry's alias names the version that serves; null while the registry does not answer", True
    )
    prediction_log: str = about("`on`, `off`, or why predictions cannot be written", "on")
    processes: int = about("How many processes of the service take requests", 1)


class AcrossLine(BaseModel):
    """Errors of models that were trained on one side of a line of latitude and tested on the other."""

    line_degrees_north: float = about("The line, in degrees north", 36.0)
    south_from_north_rmse: float = about(f"RMSE in the south, trained in the north, in {TARGET.unit_words}", 1.402)
    south_from_north_linear_rmse: float = about(f"The same for a linear model, in {TARGET.unit_words}", 0.897)
    north_from_south_rmse: float = about(f"RMSE in the north, trained in the south, in {TARGET.unit_words}", 1.108)
    north_from_south_linear_rmse: float = about(f"The same for a linear model, in {TARGET.unit_words}", 2.511)


class AtDistance(BaseModel):
    """Test rows by the distance to the nearest training place: from this distance up to that of the next entry."""

    from_km: float = about("Shortest distance, in kilometres", 5.0)
    rows: Count = about("Number of test rows", 100)
    rmse: float = about(f"Their RMSE, in {TARGET.unit_words}", 0.425)
    relative_error: float = about("Their mean absolute error, as a share of the value", 0.215)
    coverage: Share = about("Share of true values inside their intervals", 0.91)


class Limits(BaseModel):
    """The limits of a model, measured when it was trained."""

    far_km: float | None = about(
        "Answers carry a warning when the nearest training place is farther than this many kilometres; "
        "null for a model that does not use places",
        5.0,
    )
    across_line: AcrossLine | None = about("Null when it was not measured for this version", default=None)
    by_distance: list[AtDistance] = about("Empty for a model that does not use places", default=[])


class Importance(BaseModel):
    """How much a model depends on one input. The columns of a place are one input."""

    name: str = about("Name of the input: that of its column, or of both columns of a place", TABLE.inputs[0].name)
    title: str = about("Name for people", TABLE.inputs[0].title)
    rmse_rise: float = about(
        f"By how much the RMSE on test rows rises when its values are shuffled, in {TARGET.unit_words}", 0.41
    )


class GroupError(BaseModel):
    """Errors of a model on the test rows of one region."""

    name: str = about("The region", "San Francisco Bay")
    rows: Count = about("Number of rows", 812)
    rmse: float = about(f"Their RMSE, in {TARGET.unit_words}", 0.42)
    bias: float = about(f"Mean of predicted minus actual, in {TARGET.unit_words}", -0.01)
    coverage: Share = about("Share of true values inside their intervals", 0.9)


Range = Annotated[list[float | str], Field(min_length=2, max_length=2, examples=[[FIRST.minimum, FIRST.example]])]


class ModelCard(BaseModel):
    """The model that serves: its version, its scores, and what it was made from."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = about("Name of the registered model", "HousePriceModel")
    alias: str = about("Alias of the version in the registry", "Production")
    version: str = about("Version that serves", "1")
    family: str = about("Name of the candidate in params.yaml", "spatial")
    run_id: str = about("Its run on the MLflow server", "113a12a0766f46b387247fb3ed2fc4c8")
    source: Source = about("Where it was loaded from")
    engine: Engine = about(
        "What computes the predictions: the compiled scorer, or scikit-learn for a version without one"
    )
    registered_at: Time | None = about("When the version was registered, UTC", "2026-11-23T08:32:33+00:00")
    scores: dict[str, float] = about(
        f"Errors in {TARGET.unit_words}, and R²; `custom_`: on the validation rows, `test_`: on the test rows",
        {"custom_rmse": 0.383654, "test_rmse": 0.367061, "test_r2": 0.897369},
    )
    interval_coverage: Share = about("Share of true values that its intervals are made to contain", 0.9)
    data_md5: str | None = about(
        "MD5 of the raw data that the version was trained on, as DVC computes it", "9a2b8172906a0ab9676a81f01a908368"
    )
    code_digest: str | None = about(
        "Digest of the code and parameters that the version was trained with", "56ec6bdbed10c4c9dd08fd17489e7ddc"
    )
    training_range: dict[str, Range] = about(
        "Smallest and largest value in the training data of each feature that is a number or a date",
        {FIRST.name: [FIRST.minimum, FIRST.example]},
    )
    limits: Limits | None = about(
        "Where the model becomes unreliable: errors on the other side of a line of latitude when trained "
        "on one side only, beside those of a linear model, and errors by distance to the nearest training place"
    )
    importance: list[Importance] = about(
        "What the model looks at, the greatest first; empty when it was not measured for this version", default=[]
    )
    error_by_region: list[GroupError] = about("By region of the table; empty for a table without any", default=[])


class LiveScores(BaseModel):
    """Errors of a version on labels of requests: at most 500, the newest."""

    rmse: float = about(f"Their RMSE, in {TARGET.unit_words}", 0.362)
    coverage: Share = about("Share of true values inside their intervals", 0.91)
    labels: Count = about("Number of labels", 312)


class ShadowTime(BaseModel):
    """A time in the shadow: the version scored what another one answered."""

    began_at: Time = about("When it went into the shadow, UTC", "2026-11-23T08:35:00+00:00")
    ended_at: Time | None = about("When it left the shadow, UTC; null while it is in it", "2026-11-25T10:12:00+00:00")
    outcome: str | None = about("`promoted`, `rejected` or `withdrawn`; null while it is in it", "promoted")
    reason: str = about("Why it left the shadow", "it is no worse on 120 labels of requests")
    problem: str = about("Why it could not score when it last tried; empty when it could", "")
    scored: Count = about("Number of requests that it has scored", 1204)
    live: LiveScores | None = about("Its errors on labelled requests; null without any", default=None)
    answered: LiveScores | None = about(
        "Errors of the answers to the same requests, of the version that served then", default=None
    )


class GateWords(BaseModel):
    """What the gate said of a version, and on what figures, as the tags of the version in the registry say."""

    gate: str = about("`promoted`, `waiting` or `rejected`", "promoted")
    reason: str = about("Why", "test RMSE 0.3671 against 0.3834 of version 1 on the same rows; at most 0.3911 passes")
    decided_by: str | None = about("`labels`, `test rows` or `shadow`; null where it needed neither", "test rows")
    champion_version: str | None = about("Version that served then; null for the first one", "1")
    test_rmse: float | None = about(f"Its RMSE on the test rows, in {TARGET.unit_words}", 0.367)
    champion_test_rmse: float | None = about("That of the version that served, on the same rows", 0.383)
    labels: Count = about("Number of labels that decided", 0)
    label_rmse: float | None = about(f"Its RMSE on these labels, in {TARGET.unit_words}", None, 0.41)
    champion_label_rmse: float | None = about("That of the version that served, on the same labels", None, 0.45)
    share_no_worse: Share | None = about("Share of samples of the labels in which it is no worse", None, 0.98)
    forced: str | None = about("Who overruled the gate, and why; null where nobody did", None)
    promoted_by: str | None = about("Who promoted the version by hand, and why; null where nobody did", None)


class ServingEvent(BaseModel):
    """Something that happened to the alias, or to the service because of it."""

    at: Time = about("When, UTC", "2026-11-23T08:35:00+00:00")
    event: str = about(
        "`promoted` or `rolled back`: the alias was given to the version; `serves`: a service answers by it; "
        "`refused`: it could not be loaded",
        "promoted",
    )
    detail: str = about("Who did it, where a person did, and why", "by anna: the market has turned")


class RegisteredVersion(BaseModel):
    """One version of the model: what it was made from, how it scored then, and what came of it since."""

    model_config = ConfigDict(protected_namespaces=())

    version: str = about("Its number", "2")
    serves: bool = about("Whether this service answers by it", True)
    aliases: list[str] = about("Its aliases in the registry", ["Production"])
    family: str | None = about("Name of the candidate in params.yaml", "spatial")
    run_id: str | None = about("Its run on the MLflow server", "113a12a0766f46b387247fb3ed2fc4c8")
    link: str | None = about(
        "Its page in MLflow; null where no watchdog says where that is",
        "http://localhost:5002/#/models/HousePriceModel/versions/2",
    )
    registered_at: Time | None = about("When it was registered, UTC", "2026-11-23T08:32:33+00:00")
    data_md5: str | None = about(
        "MD5 of the raw data that it was trained on, as DVC computes it", "9a2b8172906a0ab9676a81f01a908368"
    )
    label_batches: Count = about("Number of batches of labels that it was trained with", 2)
    revocations: Count = about("Number of revocations of labels that were heeded", 0)
    trained_until: Time | None = about(
        "When the newest labelled prediction that it was trained on was asked for, UTC; null without labels",
        "2026-11-23T08:30:00+00:00",
    )
    scores: dict[str, float] = about(
        f"Errors when it was trained, in {TARGET.unit_words}, and R²; `custom_`: on the validation rows, `test_`: on "
        "the test rows",
        {"custom_rmse": 0.383654, "test_rmse": 0.367061, "test_r2": 0.897369},
    )
    live: LiveScores | None = about("Errors of its answers; null without labels", default=None)
    shadow: list[ShadowTime] = about("Its times in the shadow, the newest first", default=[])
    gate: GateWords | None = about("What the gate said of it; null where the registry has no word", default=None)
    rolled_back: str | None = about("Why it was rolled back; null where it was not", None)
    rejected: str | None = about("Who or what rejected it for good, and why; null where it was not", None)
    history: list[ServingEvent] = about("What became of it, the newest 20 events, the newest first", default=[])
    git_commit: str | None = about("Commit of the code that trained it, where that was known", None)
    code_digest: str | None = about(
        "Digest of the code and parameters that it was trained with", "56ec6bdbed10c4c9dd08fd17489e7ddc"
    )


class Versions(BaseModel):
    """The newest versions of the model, the newest first."""

    name: str = about("Name of the registered model", "HousePriceModel")
    alias: str = about("Alias of the version that is to serve", "Production")
    serves: str | None = about("Version that this service answers by; null without a model", "2")
    asked_at: Time = about("When registry and store were asked, UTC", "2026-11-23T08:35:00+00:00")
    problem: str | None = about("What is missing because the registry does not answer; null when it does", None)
    versions: list[RegisteredVersion] = about("At most 20")


class ExplainPrediction(BaseModel):
    """An earlier prediction to explain."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: str = about("The `prediction_id` from the answer", ID_EXAMPLE, min_length=1, max_length=64)


def _row_or_prediction(body: object) -> str:
    return "prediction" if isinstance(body, dict) and "prediction_id" in body else "row"


RowOrPrediction = Annotated[
    Annotated[Features, Tag("row")] | Annotated[ExplainPrediction, Tag("prediction")],
    Discriminator(_row_or_prediction),
]
_added = about(
    _in_unit(TARGET, "What this input adds to the average prediction; negative where it takes away"),
    round(0.1 * _EXAMPLE, 4),
)


class Contribution(BaseModel):
    """What one input adds to the average prediction. The columns of a place are one input."""

    name: str = about("Name of the input: that of its column, or of both columns of a place", TABLE.inputs[0].name)
    title: str = about("Name for people", TABLE.inputs[0].title)
    values: dict[str, Value] = about("Its values in the row", {FIRST.name: FIRST.example})
    contribution: float = _added
    standard_error: Distance | None = about(
        "Standard error of the contribution where orders of the inputs were drawn; null where it is exact", None
    )


class Neighbour(BaseModel):
    """A training row that takes part in the kriging estimate of a spatial model."""

    latitude: float = about("Degrees north", 37.88)
    longitude: float = about("Degrees east", -122.25)
    kilometres: Distance = about("From the row", 1.4)
    actual_value: float = about(_in_unit(TARGET, "Its value, as the model was trained on it"), TARGET.example)
    weight: float = about(
        "Its share in the estimate; all of them add up to 1, and one may be negative where another is in its way",
        0.21,
    )


class Reason(BaseModel):
    """Something that makes intervals wide or narrow, for this row and for the usual training row."""

    name: Literal["nearest_km", "neighbour_spread", "rows_alike"] = about(
        "`nearest_km`: kilometres to the nearest training place; `neighbour_spread`: standard deviation of the "
        f"neighbours' values, in {TARGET.unit_words}; `rows_alike`: share of training rows that are like this one",
        "rows_alike",
    )
    value: float = about("For this row", 0.002)
    usual: float = about("Median of the training rows, each without itself", 0.01)
    effect: Literal["wider", "narrower", "usual"] = about(
        "What it does to the interval here; `usual` for the middle half of the training rows", "wider"
    )


class IntervalReasons(BaseModel):
    """Why the interval is as wide as it is."""

    width: Distance = about(_in_unit(TARGET, "Width of the interval"), round(0.4 * _EXAMPLE, 4))
    usual_width: Distance = about(
        _in_unit(TARGET, "Median width for the training rows, each without itself"), round(0.3 * _EXAMPLE, 4)
    )
    wider_than: Share = about("Share of the training rows with a narrower interval", 0.8)
    reasons: list[Reason] = about("What the model knows around the row")


if TYPE_CHECKING:
    Explanation = dict[str, Any]
else:
    Explanation = TypedDict(
        "Explanation",
        {
            TABLE.answer: _predicted,
            "interval": Interval,
            "model_version": Annotated[str, about("Version that is explained: the one that serves", "1")],
            "prediction_id": Annotated[str | None, about("As it was sent; null for a row", None, ID_EXAMPLE)],
            "answered_by": Annotated[
                str | None, about("Version that made the prediction of this id; null for a row", None, "1")
            ],
            "base_value": Annotated[
                float, about(_in_unit(TARGET, "Average prediction, of a sample of training rows"), TARGET.example)
            ],
            "contributions": Annotated[
                list[Contribution],
                about("The greatest first; with the base value they add up to the prediction"),
            ],
            "neighbours": Annotated[
                list[Neighbour], about("The greatest weight first; empty for models that ask no neighbours")
            ],
            "interval_reasons": IntervalReasons,
            "warnings": Annotated[
                list[str],
                about(
                    "As of the prediction, and a line when another version answered than the one that is explained",
                    [],
                ),
            ],
        },
    )
    Explanation.__doc__ = "Why a prediction is what it is: what each input adds to the average one."


class Problem(BaseModel):
    """An error that is not about a single field."""

    detail: str = about("What is wrong and, where possible, what to do about it")


class FieldProblem(BaseModel):
    """One problem in a request."""

    type: str = about("Kind of problem, for programs", "less_than_equal")
    loc: list[str | int] = about(
        "Where: `body` or `query`; then the index of the row in a list, or `row 3` in a file; then the "
        "field. For a body that is not JSON, the position of the character",
        ["body", FIRST.name],
    )
    msg: str = about("For people", f"Input should be less than or equal to {FIRST.maximum:g}")
    input: str | float | bool | None = about(
        "The value that was sent; left out when it is an object or a list", FIRST.maximum + 1, default=None
    )


class Invalid(BaseModel):
    """All problems in a request: at most 100, and a last entry with the number of those left out."""

    detail: list[FieldProblem] = about("At least one")


class Histogram(BaseModel):
    """Two distributions over the same bins. The first and last bin include all values beyond them."""

    edges: list[float] | list[str] = about("Edges of the bins: one more than there are bins; of dates as text")
    before: list[float] = about("Share of the training data in each bin")
    now: list[float] = about("Share of recent requests in each bin")


class LevelDrift(BaseModel):
    """The share of one level of a category, of what the model does not know, or of missing values."""

    level: str = about("The level, `unknown` or `missing`", "missing")
    before: Share = about("Its share in the training data", 0.03)
    now: Share = about("Its share in recent requests", 0.2)


class ColumnDrift(BaseModel):
    """How far one feature, or `prediction`, has moved from the training data of the version that serves."""

    name: str = about("Name of the feature, or `prediction`", FIRST.name)
    title: str = about("Name for people", FIRST.title)
    unit: str = about("Unit of the medians and of the histogram", FIRST.unit)
    ks: Share | None = about("Kolmogorov-Smirnov distance; null for categories", 0.21)
    p_value: Share = about(
        "Of the Kolmogorov-Smirnov test, for categories of the chi-squared test, and of the share of missing values; "
        "with Holm's correction",
        0.0001,
    )
    psi: Distance = about("Population stability index over deciles or levels", 0.31)
    wasserstein: Distance | None = about("Wasserstein distance, in standard deviations; null for categories", 0.4)
    direction: Literal["up", "down", "wider", "narrower"] | None = about(
        "How the values moved; null for categories", "up"
    )
    change: str = about("What moved in words", "up", default="")
    median_before: float | str | None = about("Median of the training data; null for categories", 3.535)
    median_now: float | str | None = about("Median of recent requests; null for categories", 4.12)
    histogram: Histogram | None
    levels: list[LevelDrift] | None = about(
        "The levels that are there, of categories and booleans; null for others", default=None
    )
    missing_before: Share = about("Share of missing values in the training data", 0.0, default=0.0)
    missing_now: Share = about("Share of missing values in recent requests", 0.0, default=0.0)
    drifted: bool = about("Whether the change is both significant and large")


class JointDrift(BaseModel):
    """How well a classifier tells recent requests from training rows by all features together."""

    auc: Share = about("Area under the ROC curve of the classifier; 0.5 is chance", 0.507)
    p_value: Share = about("Of an area that large by chance", 0.23)
    pair: list[str] = about(
        "The two features whose rank correlation changed most; empty where there are no two that are no categories",
        list(TABLE.feature_names[:2]),
        max_length=2,
    )
    correlation_before: float | None = about("Their rank correlation in the training data", 0.08)
    correlation_now: float | None = about("Their rank correlation in recent requests", 0.11)
    drifted: bool = about("Whether the difference is both significant and large")


class LiveError(BaseModel):
    """Errors of the version that serves, from its newest labels."""

    labels: Count = about("Number of labels", 312)
    test_rmse: float = about(f"RMSE of the version on the test rows, in {TARGET.unit_words}", 0.367)
    limit: float = about(f"A live RMSE above it counts as worse, in {TARGET.unit_words}", 0.459)
    worse: bool = about("Whether the live RMSE is above the limit, with enough labels and by more than chance")
    rmse: float | None = about(f"Live RMSE, in {TARGET.unit_words}; left out without labels", 0.37, default=None)
    mae: float | None = about(
        f"Live mean absolute error, in {TARGET.unit_words}; left out without labels", 0.23, default=None
    )
    p_value: float | None = about(
        "Of so large an error by chance, if the version is as good as on the test rows; left out without labels",
        0.4,
        default=None,
    )
    inside_interval: float | None = about("Share of true values inside their intervals", 0.9)


class DriftWindow(BaseModel):
    """The predictions that were compared with the training data."""

    rows: Count = about("Number of predictions", 1000)
    last_id: int = about("Number of the newest one in the prediction log", 20113)
    first_at: Time | None = about("Time of the oldest one, UTC", default=None)
    last_at: Time | None = about("Time of the newest one, UTC", default=None)


class DriftMonitor(BaseModel):
    """State of the drift monitor."""

    looked_at: Time = about("Time of its last check, UTC")
    says: str = about("What it is doing or waiting for", "nothing to do: no drift")
    windows: Count = about("Number of windows in a row that called for a retraining")
    waits_for: list[str] = about("What is still missing for a retraining")
    pauses_until: Time | None = about(
        "No retraining starts before this time, UTC; null outside a pause", default=None
    )
    retraining: bool = about("Whether a retraining that it started is running")
    retrain_on_drift: bool = about("The setting `RETRAIN_ON_DRIFT`")
    promote: str = about("The setting `PROMOTE`")


class Retraining(BaseModel):
    """One retraining, or the first training. While it runs, its end is null."""

    id: int = about("Its number", 3)
    started_at: Time = about("When it started, UTC")
    ended_at: Time | None = about("When it ended, UTC; null while it runs")
    trigger: str = about("`start`, `user`, `drift` or `schedule`", "drift")
    cause: str = about("Why it was started", f"drift: {FIRST.name} up (median 3.535 to 4.12, PSI 0.31)")
    by: str = about("Who started it", "the drift monitor")
    outcome: Literal["promoted", "waiting", "rejected", "unchanged", "failed"] | None = about(
        "The result; null while it runs"
    )
    version: str | None = about("The version that was trained, or found to be the same", "2")
    reason: str | None = about("The reason for the result", "test RMSE 0.361 against 0.367 of version 1")
    seconds: dict[str, float] = about(
        "Duration of each stage that ran", {"preprocess": 0.9, "train": 21.4, "register": 7.3}
    )


class DriftReport(BaseModel):
    """The last drift check. What could not be computed is left out, null or empty."""

    status: Literal["drift", "no drift", "not enough data", "check failed"] = about("The result")
    summary: str = about(
        "What moved, how far and in which direction; or what is missing",
        f"{FIRST.name} up (median 3.535 to 4.12, PSI 0.31)",
    )
    checked_at: Time = about("Time of the check, UTC", "2026-11-23T08:33:00+00:00")
    version: str | None = about("Version that was serving", "1", default=None)
    policy: dict[str, float] | None = about(
        "The section `drift` of params.yaml: windows, thresholds, pauses", default=None
    )
    window: DriftWindow | None = None
    new_labels: Count | None = about("Number of labels that no training has used yet", default=None)
    live: LiveError | None = None
    columns: list[ColumnDrift] = about(
        "One entry per feature and one for the predictions; empty when there are too few predictions", default=[]
    )
    joint: JointDrift | None = None
    monitor: DriftMonitor | None = None
