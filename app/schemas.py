"""Requests and responses of the service, generated from `pipeline.schema`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, create_model

from pipeline.schema import FEATURES, TARGET, Column

MAX_BATCH_ROWS = 10_000


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
        json_schema_extra={"example": {column.name: column.example for column in FEATURES}},
    ),
    **_fields,
)


class HouseFeatures(_Features):
    """One block group of the 1990 census. Every field is required; a number in quotes is refused, not guessed."""

    def row(self) -> tuple[float, ...]:
        """Return the eight values in the order of `pipeline.schema.FEATURES`, whatever the order in the request."""
        return tuple(self.__dict__.values())


Batch = Annotated[
    list[HouseFeatures],
    Field(min_length=1, max_length=MAX_BATCH_ROWS, description=f"1 to {MAX_BATCH_ROWS:,} block groups"),
]


class Interval(BaseModel):
    """The range that holds the true value with the probability `coverage`."""

    low: float = Field(description=f"Lower end, in {TARGET.unit}")
    high: float = Field(description=f"Upper end, in {TARGET.unit}")
    coverage: float = Field(description="Share of true values that lie inside such intervals", examples=[0.9])


class Prediction(BaseModel):
    """One prediction. It is in the prediction log by the time it is answered."""

    model_config = ConfigDict(protected_namespaces=())

    predicted_median_house_value: float = Field(description=f"{TARGET.title}, in {TARGET.unit}", examples=[4.131])
    interval: Interval
    model_version: str = Field(description="Version of the registered model that made this prediction")
    prediction_id: str = Field(description="Unique; ids sort by the time they were made")
    warnings: list[str] = Field(
        description="Features outside the range the model was trained on, and places far from all it was trained on"
    )


class Label(BaseModel):
    """The true value of a house whose value was predicted."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: str = Field(min_length=1, max_length=64, description="The `prediction_id` of the answer")
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

    prediction_id: str
    actual_value: float
    received_at: str = Field(description="UTC")
    model_version: str = Field(description="Version that made the prediction")
    predicted_median_house_value: float
    inside_interval: bool = Field(description="Whether the prediction's interval holds the actual value")


class LabelOutcome(BaseModel):
    """What became of one label of a list: the status and the detail it would have had alone."""

    prediction_id: str
    status: Literal[201, 404, 409]
    detail: str


class FeedbackList(BaseModel):
    """What became of a list of labels, in its order."""

    stored: int
    refused: int
    outcomes: list[LabelOutcome]


class Health(BaseModel):
    """The process is alive; `services` is what the watchdog last saw of the others."""

    status: Literal["ok"]
    checked_at: str | None = Field(description="When the services were last looked at; null without a watchdog")
    services: dict[str, dict[str, Any]]


class Readiness(BaseModel):
    """Whether predictions can be made, by which model and where it was loaded from."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["ready", "not ready"]
    detail: str = Field(description="What the service is doing, or why it cannot predict")
    model_version: str | None
    source: Literal["registry", "local copy", "dummy"] | None
    prediction_log: str = Field(description="`on`, `off`, or why predictions cannot be written")


class ModelCard(BaseModel):
    """The model that serves: which one, how good, made from what."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    alias: str
    version: str
    family: str
    run_id: str
    source: Literal["registry", "local copy", "dummy"]
    engine: Literal["compiled", "scikit-learn", "dummy"] = Field(
        description="What computes the predictions: the compiled scorer, or scikit-learn where a version has none"
    )
    registered_at: str | None = Field(description="When the version was registered, UTC")
    scores: dict[str, float] = Field(
        description=f"Errors in {TARGET.unit}; `custom_` on validation, `test_` on test rows"
    )
    interval_coverage: float
    data_md5: str | None = Field(description="DVC's md5 of the raw data the version was trained on")
    code_digest: str | None = Field(description="Digest of the code and parameters that made the version")
    training_range: dict[str, tuple[float, float]] = Field(
        description="Smallest and largest value of each feature seen"
    )
    limits: dict[str, Any] | None = Field(
        description="What it cannot do, measured: errors across a line of latitude, when trained on one side only, "
        "beside a linear model's; and errors by the distance to the nearest training place"
    )


class Problem(BaseModel):
    """An error that is not about a single field."""

    detail: str
